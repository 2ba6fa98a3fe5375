"""The queue in a SQLite file: tables and statements, without threads or asyncio.

A message is one row. It is hidden while `visible_at` lies ahead, by a delay or by a lease; `token` is set while it is leased
and fences every settlement, so a receipt of an earlier lease changes nothing. A lease that is found run out when its message
is taken again is a crash; after the first, only one that had been extended is.

Times are seconds since the epoch, because the file outlives processes and reboots. A wall clock that jumps forward ends
leases early: the message runs again, and the fence tells the first holder that it came too late.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from cloudq.clock import Clock
from cloudq.driver import RECORD, Burial, Delivery, Outgoing, Queue, Release, Settled, Stats
from cloudq.errors import ConfigError, Unavailable

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    visible_at REAL NOT NULL,
    token INTEGER,
    extended INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    sent_at REAL NOT NULL,
    message_id TEXT NOT NULL,
    grp TEXT,
    attributes TEXT,
    body BLOB NOT NULL
);
CREATE INDEX messages_due ON messages (queue, visible_at, id);
CREATE INDEX messages_group ON messages (queue, grp, id) WHERE grp IS NOT NULL;
CREATE TABLE seen (queue TEXT, message_id TEXT, until REAL NOT NULL, PRIMARY KEY (queue, message_id)) WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until);
CREATE TABLE listeners (port INTEGER PRIMARY KEY, pid INTEGER NOT NULL);
"""
#: Of a message's group, nothing earlier may be hidden; by id, so that a batch never skips one.
_ORDERED = """
    AND (grp IS NULL OR NOT EXISTS (
        SELECT 1 FROM messages AS earlier
        WHERE earlier.queue = messages.queue AND earlier.grp = messages.grp
          AND earlier.id < messages.id AND earlier.visible_at > :now))
    ORDER BY id"""
_UNORDERED = "ORDER BY visible_at, id"
#: Another process may hold the write lock for a large transaction and its sync.
_BUSY_MILLISECONDS = 5000
#: Bodies up to so many bytes are read together with their rows, in one answer.
_SMALL = 4096
_PREPARE_TRIES = 250


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, making it when it is not there. Only its owner may read it; a symbolic link is refused."""
    if sqlite3.sqlite_version_info < (3, 38):
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or later is needed (it has JSON functions).")
    if not path.parent.is_dir():
        what = f"{path.parent} is no directory" if path.parent.exists() else f"there is no directory {path.parent}"
        raise ConfigError(f"the queue file {path} cannot be made: {what}. Make it, or name another in the URL.")
    try:
        _make(path)
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MILLISECONDS / 1000, cached_statements=64
        )
        _prepare_patiently(connection, path)
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error) and passing(error):
            raise Unavailable(f"the queue file {path} cannot be opened now: {error}") from error
        raise ConfigError(
            f"the queue file {path} cannot be opened: {error}. It must be a plain file, in a directory and with "
            f"rights that let this user write. Mend that, or name another in the URL."
        ) from error
    return connection


def passing(error: sqlite3.Error) -> bool:
    """Tell whether the same may succeed later: another process is at it, or the disk is full."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    )


def _make(path: Path) -> None:
    """Make the file, readable for its owner only. An existing one is not even opened: closing it again would drop the locks
    that SQLite holds on it for other connections of this process.
    """
    if path.is_symlink():
        raise OSError(f"{path} is a symbolic link")
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _prepare_patiently(connection: sqlite3.Connection, path: Path) -> None:
    """Prepare, again when another process is at it: SQLite does not wait by itself while a journal mode changes."""
    for _ in range(_PREPARE_TRIES):
        try:
            _prepare(connection, path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            time.sleep(_BUSY_MILLISECONDS / 1000 / _PREPARE_TRIES)
        else:
            return
    raise Unavailable(f"{path} was kept locked by another process for {_BUSY_MILLISECONDS / 1000:g} s")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # FULL: what enqueue has confirmed is there after a power cut. NORMAL was measured to lose all of it.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]  # another process may have been faster
        if version == 0:
            for statement in _SCHEMA.strip().split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            version = _SCHEMA_VERSION
        connection.execute("COMMIT")
    if version != _SCHEMA_VERSION:
        raise ConfigError(
            f"{path} was written by another version of cloudq (schema {version}, this one reads {_SCHEMA_VERSION}). "
            f"Drain it with that version, or use another file."
        )


class Store:
    """The statements. Each method is part of a transaction that its caller begins and commits."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        """The connection belongs to the caller."""
        self._db = connection
        self._clock = clock

    def insert(self, queue: Queue, batch: Sequence[Outgoing]) -> None:
        """Add the messages, but for those that the queue has seen within its dedup window."""
        now = self._clock.time()
        rows = [
            (
                queue.physical,
                now + message.delay,
                now,
                message.message_id,
                message.group,
                json.dumps(dict(message.attributes)) if message.attributes else None,
                message.body,
            )
            for message in batch
            if not queue.dedup or self._first(queue, message.message_id, now)
        ]
        self._db.executemany(
            "INSERT INTO messages (queue, visible_at, sent_at, message_id, grp, attributes, body) VALUES (?,?,?,?,?,?,?)",
            rows,
        )

    def anything_due(self, queue: Queue) -> bool:
        """Tell, without the write lock, whether a claim could find something."""
        row = self._db.execute(
            "SELECT 1 FROM messages WHERE queue = ? AND visible_at <= ? LIMIT 1", (queue.physical, self._clock.time())
        ).fetchone()
        return row is not None

    def claim(self, queue: Queue, max_messages: int) -> list[Delivery]:
        """Lease what is due.

        In three statements that answer with one row each. SQLite gives up the interpreter's lock at every row, and beside tasks
        that compute, getting it back takes milliseconds; a claim that hands out fifty rows would hold the file's write lock
        meanwhile, and every renewal of every process behind it.
        """
        now = self._clock.time()
        token = random.getrandbits(62)
        # The order is one of two constants above; nothing from outside becomes part of a statement.
        order = _ORDERED if queue.ordered else _UNORDERED
        # By its id, an ordered queue is walked from the front, where the heads of groups are; by the index of due times all of
        # a backlog would be looked at and sorted at each claim (100 ms for 10,000 messages, with the file locked).
        walk = "messages NOT INDEXED" if queue.ordered else "messages"
        (found,) = self._db.execute(
            f"""
            SELECT json_group_array(id) FROM
                (SELECT id FROM {walk} WHERE queue = :queue AND visible_at <= :now {order} LIMIT :count)
            """,  # noqa: S608  both are constants
            {"queue": queue.physical, "now": now, "count": max_messages},
        ).fetchone()
        self._db.execute(
            """
            UPDATE messages
            SET token = :token, visible_at = :until, extended = 0, deliveries = deliveries + 1,
                crashes = crashes + (token IS NOT NULL AND (crashes = 0 OR extended))
            WHERE id IN (SELECT value FROM json_each(:found))
            """,
            {"token": token, "until": now + queue.lease, "found": found},
        )
        # JSON has no bytes, and SQLite writes a float into it with 15 digits; 17 are the number itself.
        (leased,) = self._db.execute(
            """
            SELECT json_group_array(json_array(
                id, CASE WHEN length(body) <= :small THEN hex(body) END, deliveries, crashes, printf('%!.17g', sent_at),
                message_id, grp, attributes))
            FROM messages WHERE id IN (SELECT value FROM json_each(:found))
            """,
            {"found": found, "small": _SMALL},
        ).fetchone()
        rows = sorted(json.loads(leased))
        large = json.dumps([row[0] for row in rows if row[1] is None])
        bodies: dict[int, bytes] = {}
        if large != "[]":  # as hexadecimal text, a megabyte costs a hundred times what its row does
            bodies = dict(
                self._db.execute("SELECT id, body FROM messages WHERE id IN (SELECT value FROM json_each(?))", (large,))
            )
        return [
            Delivery(
                queue=queue,
                body=bodies[number] if body is None else bytes.fromhex(body),
                receipt=(number, token),
                deliveries=deliveries,
                leased_for=queue.lease,
                sent_at=float(sent_at),
                message_id=message_id,
                group=group,
                crashes=crashes,
                attributes=json.loads(attributes) if attributes else {},
            )
            for number, body, deliveries, crashes, sent_at, message_id, group, attributes in rows
        ]

    def delete(self, batch: Sequence[Delivery]) -> list[Settled]:
        """Remove what is still held by its receipt."""
        changed = self._change("DELETE FROM messages", (), batch)
        return [self._verdict(delivery, done) for delivery, done in zip(batch, changed, strict=True)]

    def release(self, batch: Sequence[Release]) -> list[Settled]:
        """End the leases."""
        now = self._clock.time()
        answers: list[Settled] = [Settled.LOST] * len(batch)
        alike: dict[tuple[float, bool], list[int]] = {}
        for position, item in enumerate(batch):
            alike.setdefault((item.delay, item.counted), []).append(position)
        for (delay, counted), positions in alike.items():
            changed = self._change(
                "UPDATE messages SET token = NULL, visible_at = ?, deliveries = deliveries - ?",
                (now + delay, int(not counted)),
                [batch[position].delivery for position in positions],
            )
            for position, done in zip(positions, changed, strict=True):
                answers[position] = _held(done)
        return answers

    def extend(self, batch: Sequence[Delivery], lease: float) -> list[Settled]:
        """Move the ends of the leases."""
        until = self._clock.time() + lease
        return [_held(done) for done in self._change("UPDATE messages SET visible_at = ?, extended = 1", (until,), batch)]

    def bury(self, dead: Queue, batch: Sequence[Burial]) -> list[Settled]:
        """Move to the dead part."""
        now = self._clock.time()
        return [
            _held(
                self._db.execute(
                    "UPDATE messages SET queue = ?, token = NULL, visible_at = ?, deliveries = 0, crashes = 0, "
                    "attributes = ? WHERE id = ? AND token = ?",
                    (
                        dead.physical,
                        now,
                        json.dumps({**item.delivery.attributes, RECORD: item.record}),
                        *_receipt(item.delivery),
                    ),
                ).rowcount
                > 0
            )
            for item in batch
        ]

    def schedule(self, queue: Queue, message: Outgoing) -> str:
        """As `insert`, and return what `cancel` takes; empty for one that was dropped as a duplicate."""
        newest = "SELECT id, visible_at FROM messages ORDER BY id DESC LIMIT 1"
        before = self._db.execute(newest).fetchone()
        self.insert(queue, [message])
        after = self._db.execute(newest).fetchone()
        return "" if after == before else f"{after[0]}:{after[1]!r}"

    def cancel(self, queue: Queue, token: str) -> bool:
        """Remove a message that was never due: its time is still the first one."""
        number, _, due = token.partition(":")
        if not due:
            return False
        held = (int(number), float(due), self._clock.time())
        gone = self._db.execute(
            "DELETE FROM messages WHERE id = ? AND visible_at = ? AND visible_at > ? AND token IS NULL RETURNING message_id",
            held,
        ).fetchone()
        if gone is not None:  # it never was: the same id may be sent again
            self._db.execute("DELETE FROM seen WHERE queue = ? AND message_id = ?", (queue.physical, *gone))
        return gone is not None

    def stats(self, queue: Queue) -> Stats:
        """Count exactly."""
        now = self._clock.time()
        ready, leased, delayed, oldest = self._db.execute(
            """
            SELECT count(*) FILTER (WHERE visible_at <= :now),
                   count(*) FILTER (WHERE visible_at > :now AND token IS NOT NULL),
                   count(*) FILTER (WHERE visible_at > :now AND token IS NULL),
                   min(sent_at) FILTER (WHERE visible_at <= :now)
            FROM messages WHERE queue = :queue
            """,
            {"now": now, "queue": queue.physical},
        ).fetchone()
        return Stats(ready, leased, delayed, None if oldest is None else max(0.0, now - oldest))

    def peek(self, queue: Queue, max_messages: int) -> list[Delivery]:
        """Look, changing nothing."""
        rows = self._db.execute(
            "SELECT body, deliveries, crashes, sent_at, message_id, grp, attributes FROM messages WHERE queue = ? "
            "ORDER BY id LIMIT ?",
            (queue.physical, max_messages),
        ).fetchall()
        return [
            Delivery(
                queue=queue,
                body=body,
                receipt=None,
                deliveries=deliveries,
                leased_for=0.0,
                sent_at=sent_at,
                message_id=message_id,
                group=group,
                crashes=crashes,
                attributes=json.loads(attributes) if attributes else {},
            )
            for body, deliveries, crashes, sent_at, message_id, group, attributes in rows
        ]

    def next_due(self, queue: Queue) -> float | None:
        """Return in how many seconds the next hidden message becomes visible."""
        now = self._clock.time()
        (due,) = self._db.execute(
            "SELECT min(visible_at) FROM messages WHERE queue = ? AND visible_at > ?", (queue.physical, now)
        ).fetchone()
        return None if due is None else due - now

    def listen(self, port: int) -> None:
        """Have senders of other processes knock at this port, and forget listeners that died without a word."""
        for (pid,) in self._db.execute("SELECT DISTINCT pid FROM listeners").fetchall():
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                self._db.execute("DELETE FROM listeners WHERE pid = ?", (pid,))
            except PermissionError:
                continue  # alive, and another user's
        self._db.execute("INSERT OR REPLACE INTO listeners VALUES (?, ?)", (port, os.getpid()))

    def unlisten(self, port: int) -> None:
        """The opposite of `listen`."""
        self._db.execute("DELETE FROM listeners WHERE port = ?", (port,))

    def listeners(self) -> list[int]:
        """Return the ports to knock at."""
        return [port for (port,) in self._db.execute("SELECT port FROM listeners")]

    def _first(self, queue: Queue, message_id: str, now: float) -> bool:
        self._db.execute("DELETE FROM seen WHERE until <= ?", (now,))
        inserted = self._db.execute(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (queue.physical, message_id, now + queue.dedup)
        )
        return inserted.rowcount == 1

    def _change(self, statement: str, values: tuple[float, ...], batch: Sequence[Delivery]) -> list[bool]:
        """Change what is still held; tell for each whether it was.

        One statement for all: each gives up the interpreter's lock, and beside tasks that compute, getting it back takes
        milliseconds, in which the file stays locked. Only when one of them is not held any more, they are taken one by one.
        """
        if not batch:
            return []
        receipts = [_receipt(delivery) for delivery in batch]
        numbers = ",".join("?" * len(receipts))
        pairs = ",".join(["(?, ?)"] * len(receipts))
        # By id first, so that SQLite looks each up by its key; nothing but constants and question marks.
        where = f"{statement} WHERE id IN ({numbers}) AND (id, token) IN (VALUES {pairs})"
        self._db.execute("SAVEPOINT together")
        all_held = self._db.execute(
            where, (*values, *(number for number, _ in receipts), *itertools.chain.from_iterable(receipts))
        ).rowcount == len(receipts)
        if not all_held:
            self._db.execute("ROLLBACK TO together")
        self._db.execute("RELEASE together")
        one = f"{statement} WHERE id = ? AND token = ?"
        return [all_held or self._db.execute(one, (*values, *receipt)).rowcount > 0 for receipt in receipts]

    def _verdict(self, delivery: Delivery, removed: bool) -> Settled:  # noqa: FBT001  the answer, told on
        if removed:
            return Settled.OK
        number, _ = _receipt(delivery)
        row = self._db.execute(
            "SELECT 1 FROM messages WHERE id = ? AND queue = ?", (number, delivery.queue.physical)
        ).fetchone()
        return Settled.OK if row is None else Settled.LOST


def _receipt(delivery: Delivery) -> tuple[int, int]:
    assert delivery.receipt is not None, "a peeked message cannot be settled"
    return cast("tuple[int, int]", delivery.receipt)


def _held(changed: bool) -> Settled:  # noqa: FBT001  the answer, told on
    return Settled.OK if changed else Settled.LOST
