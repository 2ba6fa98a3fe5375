"""A census of Python source: each file is a task. This is all that an application has to write.

A result is a line in a file of this process. A task may run twice (at-least-once has no off switch), so a line carries the name
of what it counted and the reader takes each name once: that is idempotency, and all that a task needs of it.
"""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

from cloudq import Backoff, CloudQ, Context

app: CloudQ = CloudQ(namespace="demo", queues={"census": {"lease": "10s"}, "errands": {"lease": "10s"}})

_quick = Backoff(max_attempts=3, first="1s", cap="2s")


def census_of(path: str) -> dict[str, int]:
    """Count lines, functions and classes of one file. One that this Python cannot parse counts as odd."""
    source = Path(path).read_bytes()
    counts = {"lines": source.count(b"\n"), "functions": 0, "classes": 0, "odd": 0}
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return {**counts, "odd": 1}
    for node in ast.walk(tree):
        counts["functions"] += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        counts["classes"] += isinstance(node, ast.ClassDef)
    return counts


@app.task(queue="census", retry=_quick)
def count(ctx: Context, path: str) -> None:
    """Count one file."""
    _note("start", ctx, path)
    _note("done", ctx, path, **census_of(path))


@app.task(queue="errands", retry=_quick)
def flaky(ctx: Context) -> None:
    """Fail at the first attempt."""
    _note("start", ctx, "flaky")
    if ctx.attempt == 1:
        raise ConnectionError("the other side hung up; it will be there next time")
    _note("done", ctx, "flaky", attempt=ctx.attempt)


@app.task(queue="errands", retry=_quick)
async def later(ctx: Context) -> None:
    """Be run when it is due."""
    _note("start", ctx, "later")
    _note("done", ctx, "later", at=app.clock.time())


@app.task(queue="errands", retry=_quick)
def poison(ctx: Context) -> None:
    """Fail at every attempt, and end in the dead part."""
    _note("start", ctx, "poison")
    raise ValueError("this message can never be processed")


def _note(what: str, ctx: Context, name: str, **facts: float) -> None:
    line = json.dumps({"what": what, "name": name, "id": ctx.task_id, "pid": os.getpid(), **facts})
    path = Path(os.environ["CLOUDQ_DEMO_DIR"]) / f"{os.getpid()}.results"
    # One write of one line to a file of our own: it is there whole, or, after a kill, not at all.
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)
