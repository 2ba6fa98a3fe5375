"""Monthly reports: rendered one or two at a time, and whoever asked is told.

A report takes its time and its memory, so that a worker renders two at once at the most, however many it could run. The user is
told by a hook, which runs once the report is there. Both are idempotent: a report that is rendered twice is the same file, and
a user who was told is not told again.
"""

import time
from pathlib import Path

from cloudq import Backoff, CloudQ, Context

app = CloudQ()
DONE = Path("done")


def tell(ctx: Context, result: str) -> None:
    """Mail would be sent here."""
    told = DONE / f"{ctx.task_id}.told"
    if not told.exists():
        told.write_text(f"{result} is ready\n")


@app.task(retry=Backoff(max_attempts=5, first="10s"), timeout="5m", max_concurrency=2, on_success=tell)
def render(ctx: Context, user: str, month: str) -> str:
    """Render one report, and return its name."""
    began = time.time()
    DONE.mkdir(exist_ok=True)
    amounts = [(day, len(user) * day % 97) for day in range(1, 29)]
    total = sum(amount for _, amount in amounts)
    time.sleep(0.2)  # a real one takes longer
    name = f"{user}-{month}.txt"
    lines = [f"Report of {user} for {month}", *(f"{day:2} {amount:4}" for day, amount in amounts), f"total {total}"]
    beside = DONE / f"{ctx.task_id}-{ctx.attempt}.new"
    beside.write_text("\n".join([*lines, f"rendered {began:.3f} {time.time():.3f}", ""]))
    beside.rename(DONE / name)
    return name
