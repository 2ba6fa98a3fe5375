"""Import of a large CSV in parts: one task cuts it, one for each part loads it, and the last one to end says that all is there.

    python csv_import.py people.csv

Each part is loaded in one transaction that also notes that it was, so that a part that runs twice is loaded once. The ids of
the parts are those of the import with a number: should the cutting run twice, because its worker was killed, the second round
enqueues the same ids, and what was loaded meanwhile is not loaded again.

A record is one line here: a file with line ends inside of its quotes would have to be cut by somebody who reads all of it.
"""

import csv
import sqlite3
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

from cloudq import CloudQ, Context, Reject

app = CloudQ(queues={"parts": {"max_attempts": 5}})
DATABASE = Path("people.sqlite")
#: Bytes of a part, about: a message says where it is, and carries none of it.
PART = 64 * 1024


@contextmanager
def transaction() -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(DATABASE, timeout=30)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount INTEGER)")
        connection.execute("CREATE TABLE IF NOT EXISTS refused (import TEXT, line TEXT, reason TEXT)")
        connection.execute("CREATE TABLE IF NOT EXISTS parts (import TEXT, start INTEGER, PRIMARY KEY (import, start))")
        connection.execute("CREATE TABLE IF NOT EXISTS imports (import TEXT PRIMARY KEY, parts INTEGER, done INTEGER)")
        connection.execute("BEGIN IMMEDIATE")
        yield connection


@app.task(timeout="5m")
def cut(ctx: Context, source: str) -> None:
    """Find where the parts begin and end, at the ends of lines, and enqueue one task for each."""
    path = Path(source)
    if not path.exists():
        raise Reject(f"there is no {source}")
    with path.open("rb") as file:
        bounds = [len(file.readline())]  # the names of the columns
        size = path.stat().st_size
        while bounds[-1] < size:
            file.seek(min(bounds[-1] + PART, size))
            file.readline()
            bounds.append(file.tell())
    parts = list(pairwise(bounds))
    with transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO imports VALUES (?, ?, ?)", (ctx.task_id, len(parts), int(not parts)))
    app.enqueue_many(
        load.options(task_id=f"{ctx.task_id}-{number}").message(ctx.task_id, source, start, end)
        for number, (start, end) in enumerate(parts)
    )


@app.task(queue="parts", timeout="2m")
def load(import_id: str, source: str, start: int, end: int) -> None:
    """Load the lines of one part. A line that cannot be loaded is kept with the reason; the others are not held up by it."""
    with Path(source).open("rb") as file:
        file.seek(start)
        lines = [line.decode("utf-8", "replace") for line in file.read(end - start).rstrip(b"\n").split(b"\n")]
    with transaction() as connection:
        if connection.execute("SELECT 1 FROM parts WHERE import = ? AND start = ?", (import_id, start)).fetchone():
            return
        for line in lines:
            try:
                ((number, name, amount),) = csv.reader([line], strict=True)
                connection.execute("INSERT INTO people VALUES (?, ?, ?)", (int(number), name, int(amount)))
            except (ValueError, OverflowError, csv.Error, sqlite3.IntegrityError) as error:
                connection.execute("INSERT INTO refused VALUES (?, ?, ?)", (import_id, line, str(error)))
        connection.execute("INSERT INTO parts VALUES (?, ?)", (import_id, start))
        (loaded,) = connection.execute("SELECT count(*) FROM parts WHERE import = ?", (import_id,)).fetchone()
        connection.execute("UPDATE imports SET done = 1 WHERE import = ? AND parts = ?", (import_id, loaded))


if __name__ == "__main__":
    print(cut.enqueue(sys.argv[1]))
