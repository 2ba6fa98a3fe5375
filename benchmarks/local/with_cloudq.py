"""cloudq as it ships: the SQLite driver, and `cloudq worker` as one process."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import inside

from cloudq import CloudQ

PATH = inside.FOLDER / "cloudq.db"
WAITS = True  # a worker can stay and wait for more
ENDS = True  # and can end when there is no more

app = CloudQ(f"sqlite:///{PATH}")
TASKS = {function.__name__: app.task(function) for function in (inside.noop, inside.stamp, inside.rest)}

SERVES = [sys.executable, "-m", "cloudq", "worker", "with_cloudq:app", "--log-level", "ERROR", "--concurrency", "10"]
DRAINS = {"drain": [*SERVES, "--burst"], "drain_one": [*SERVES, "--burst", "--concurrency", "1"]}


def enqueue(name: str) -> None:
    TASKS[name].enqueue()


def enqueue_many(count: int) -> None:
    noop = TASKS["noop"]
    app.enqueue_many(noop.message() for _ in range(count))


def left() -> int:
    with closing(sqlite3.connect(PATH)) as connection:
        return connection.execute("SELECT count(*) FROM messages").fetchone()[0]
