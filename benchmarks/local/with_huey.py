"""Huey on SQLite: `huey_consumer` as one process, threads as workers, and its own polling.

`fsync=True` is `synchronous=FULL`, as cloudq has it. Huey by itself leaves that to how SQLite was built, which is FULL nearly
everywhere. Its threads share one connection, so that for tasks that do nothing one thread, which is its default, is the
fastest; ten find a single message sooner.
"""

from __future__ import annotations

import sys

import inside
from huey import SqliteHuey

WAITS, ENDS = True, False

huey = SqliteHuey("bench", filename=str(inside.FOLDER / "huey.db"), fsync=True)
TASKS = {function.__name__: huey.task()(function) for function in (inside.noop, inside.stamp, inside.rest)}

CONSUMER = [sys.executable, "-m", "huey.bin.huey_consumer", "with_huey.huey", "--quiet"]
SERVES = [*CONSUMER, "--workers", "10"]
DRAINS = {"drain": SERVES, "drain_one": CONSUMER}


def enqueue(name: str) -> None:
    TASKS[name]()


def enqueue_many(count: int) -> None:
    """There is no call for many."""
    for _ in range(count):
        TASKS["noop"]()


def left() -> int:
    return huey.storage.queue_size()
