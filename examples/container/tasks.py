"""What the container runs: word counts of texts, one file each."""

import os
import time
from collections import Counter
from pathlib import Path

from cloudq import CloudQ, Context

app = CloudQ()  # CLOUDQ_URL says where; in a container there is no default
OUT = Path(os.environ.get("OUT", "/data"))


@app.task(timeout="5m")
def count(ctx: Context, name: str, text: str, pause: float = 0.0) -> None:
    """Count words. `pause` stands for work that takes its time."""
    time.sleep(pause)
    words = Counter(text.lower().split())
    lines = [f"{number} {word}" for word, number in sorted(words.items())]
    target = OUT / f"{name}.txt"
    # Written beside and renamed: a run that is cut off leaves nothing half done, and a second run changes nothing.
    beside = target.with_suffix(f".{ctx.task_id}-{ctx.attempt}")
    beside.write_text("\n".join([*lines, f"pid {os.getpid()}", ""]))
    beside.rename(target)
