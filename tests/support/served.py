"""Tasks for functions, which write down each of their runs: the same for every platform that calls them."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from cloudq import Backoff, CloudQ, Context, Reject, Retry

#: Names the file that runs are written to.
LOG = "SERVED_LOG"


def note(name: str, number: int, ctx: Context) -> None:
    # One write each: several threads and processes append to the same file.
    line = json.dumps({"task": name, "number": number, "attempt": ctx.attempt, "pid": os.getpid(), "at": time.time()})  # noqa: TID251  what is looked at is real
    file = os.open(os.environ[LOG], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(file, line.encode() + b"\n")
    os.close(file)


def runs(path: Path, number: int | None = None) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if number is None or line["number"] == number]


class Tasks:
    """Declared on an application of the caller's."""

    def __init__(self, app: CloudQ, queue: str = "default", first: str = "60s") -> None:
        retry = Backoff(max_attempts=4, first=first)

        @app.task(name="work", queue=queue, retry=retry)
        def work(ctx: Context, number: int, fails: int = 0, seconds: float = 0.0) -> None:
            note("work", number, ctx)
            threading.Event().wait(seconds)
            if ctx.attempt <= fails:
                raise OSError(f"number {number} fails at attempt {ctx.attempt}")

        @app.task(name="awork", queue=queue, retry=retry)
        async def awork(ctx: Context, number: int) -> None:
            note("awork", number, ctx)

        @app.task(name="poison", queue=queue, retry=retry)
        def poison(ctx: Context, number: int) -> None:
            note("poison", number, ctx)
            raise Reject(f"number {number} is poison")

        @app.task(name="again", queue=queue, retry=retry)
        def again(ctx: Context, number: int, after: float) -> None:
            note("again", number, ctx)
            if ctx.attempt == 1:
                raise Retry(after=after)

        @app.task(name="deadly", queue=queue, retry=retry)
        def deadly(ctx: Context, number: int) -> None:
            note("deadly", number, ctx)
            os._exit(9)

        @app.task(name="heedless", queue=queue, retry=retry)
        def heedless(ctx: Context, number: int, seconds: float) -> None:
            """Goes on when its call is over, and says whether it was told."""
            note("heedless", number, ctx)
            threading.Event().wait(seconds)
            note(f"told {ctx.lease_lost}", number, ctx)

        self.work, self.awork, self.poison, self.again = work, awork, poison, again
        self.deadly, self.heedless = deadly, heedless
