"""The tasks: nothing here knows whether a worker or a function runs them."""

import os
from pathlib import Path

from cloudq import Backoff, CloudQ, Context, Reject

app = CloudQ()
OUT = Path(os.environ.get("OUT", "/tmp/archived"))


@app.task(retry=Backoff(max_attempts=5, first="1s"), timeout="10s")
async def archive(ctx: Context, document: int) -> None:
    """Stand for a copy to cold storage. The first attempt at every tenth document fails."""
    if document < 0:
        raise Reject(f"there is no document {document}")
    if document % 10 == 0 and ctx.attempt == 1:
        raise ConnectionError(f"no connection for {document}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{document}.txt").write_text(f"document {document}\n")
