"""The tasks: nothing here knows whether a worker or a function runs them."""

import os
from pathlib import Path

from cloudq import Backoff, CloudQ, Context, Reject

app = CloudQ()
OUT = Path(os.environ.get("OUT", "/tmp/resized"))


@app.task(retry=Backoff(max_attempts=5, first="2s"), timeout="10s")
def resize(ctx: Context, name: str, width: int) -> None:
    """Stand for work: write down what would be resized. The first attempt at every tenth fails, as a network would."""
    if width < 1:
        raise Reject(f"{name} cannot be {width} wide")
    if width % 10 == 0 and ctx.attempt == 1:
        raise ConnectionError(f"no connection for {name}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.txt").write_text(f"{name} {width}\n")
