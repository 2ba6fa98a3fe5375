"""The ceiling: sqlite3 alone, in a loop. Journal and sync as cloudq has them; claims of ten, and both steps are transactions.

It keeps what at-least-once needs, a lease and a delete after the run, and nothing else: no wait, no threads, no retry.
"""

from __future__ import annotations

import sqlite3
import sys
import time

import inside

WAITS, ENDS = False, True
CLAIM = 10
LEASE = 60.0
BULK = 500

SERVES = [sys.executable, "with_sqlite.py"]
DRAINS = {"drain": SERVES}
FUNCTIONS = {function.__name__.encode(): function for function in (inside.noop, inside.stamp)}


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(inside.FOLDER / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, due REAL NOT NULL, body BLOB NOT NULL)")
    connection.execute("CREATE INDEX IF NOT EXISTS messages_due ON messages (due, id)")
    return connection


db = connect()


def enqueue(name: str) -> None:
    db.execute("INSERT INTO messages (due, body) VALUES (?, ?)", (time.time(), name.encode()))


def enqueue_many(count: int) -> None:
    for start in range(0, count, BULK):
        rows = [(time.time(), b"noop")] * min(BULK, count - start)
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO messages (due, body) VALUES (?, ?)", rows)
        db.execute("COMMIT")


def left() -> int:
    return db.execute("SELECT count(*) FROM messages").fetchone()[0]


def work() -> None:
    while claimed := claim():
        for _, body in claimed:
            FUNCTIONS[body]()
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM messages WHERE id = ?", [(number,) for number, _ in claimed])
        db.execute("COMMIT")


def claim() -> list[tuple[int, bytes]]:
    now = time.time()
    db.execute("BEGIN IMMEDIATE")
    claimed = db.execute(
        """
        UPDATE messages SET due = ?
        WHERE id IN (SELECT id FROM messages WHERE due <= ? ORDER BY due, id LIMIT ?) RETURNING id, body
        """,
        (now + LEASE, now, CLAIM),
    ).fetchall()
    db.execute("COMMIT")
    return claimed


if __name__ == "__main__":
    work()
