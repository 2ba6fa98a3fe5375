"""The tasks: nothing here knows whether a worker or a push runs them."""

import os
from pathlib import Path

from cloudq import Backoff, CloudQ, Context, Reject

app = CloudQ()
OUT = Path(os.environ.get("OUT", "/tmp/notified"))


@app.task(retry=Backoff(max_attempts=5), timeout="10s")
def notify(ctx: Context, user: str) -> None:
    """Stand for a call to somebody else. The first attempt for every tenth user fails."""
    if not user:
        raise Reject("nobody to notify")
    if user.endswith("0") and ctx.attempt == 1:
        raise ConnectionError(f"no connection for {user}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{user}.txt").write_text(f"hello {user}\n")
