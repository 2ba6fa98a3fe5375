"""The SQLite driver: one thread that writes, in transactions shared by everything that waits, and a doorbell across processes.

A sync to disk costs more than all statements together, so the writer thread takes every operation that is queued, sends, claims
and settlements alike, into one transaction: the group commit spans callers and kinds. An operation that fails is undone
alone (savepoint); only a failed commit concerns all of them.

A `receive` with nothing to take waits without polling. What this driver sends wakes it directly, what another one sends by a
datagram to its loopback port; a timer stands for the next message that becomes due, and a look once a second for a
datagram that was lost. The alternatives, measured, are in docs/decisions/0004-waking-a-waiting-receive.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue as queues
import socket
import sqlite3
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from cloudq.clock import Clock
from cloudq.driver import Burial, Delivery, Limits, Outgoing, Queue, Release, Settled, Stats
from cloudq.errors import ConfigError, DriverError, OutcomeUnknown, Refused, Unavailable
from cloudq_local.facts import LIMITS
from cloudq_local.store import Store, connect

T = TypeVar("T")

#: A datagram on loopback is lost only when a buffer is full. Then a message waits this long, in seconds, at the most.
_LOOK = 1.0
#: A claim that takes longer than this, in seconds, asks for half as many next time. It gives up the interpreter's lock at every
#: row, and beside tasks that compute, getting it back takes milliseconds: a renewal would wait behind it for too long.
_LONG_CLAIM = 0.05
#: Operations in one transaction: bounds how long the first waits for the last, and other processes for the lock.
_GROUP = 64


@dataclass(slots=True, eq=False)
class _Operation:
    work: Callable[[Store], Any]
    #: Asked before the write lock is taken; False answers the operation with an empty list.
    worthwhile: Callable[[Store], bool] | None
    #: The queue in which something becomes visible by this.
    wakes: str | None
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    result: Any = None
    error: DriverError | None = None


class SQLiteDriver:
    """A driver on one file. Any number of processes may open the same."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Opens the file. ConfigError when it cannot."""
        self._path = path
        self._clock = clock
        self._pid = os.getpid()
        self._operations: queues.SimpleQueue[_Operation | None] = queues.SimpleQueue()
        #: Held while the connection is in use, and across a fork, so that none is open in the moment of it.
        self._in_use = threading.Lock()
        self._open()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._most_claimed = LIMITS.receive_count
        self._bell: socket.socket | None = None
        self._background: set[asyncio.Future[Any]] = set()
        self._closed = False
        self._deaf = False
        self._hanging = asyncio.Lock()
        _open_drivers.add(self)
        self._writer = threading.Thread(target=self._write, name=f"cloudq-sqlite {path.name}", daemon=True)
        self._writer.start()

    @property
    def limits(self) -> Limits:
        """See `facts`."""
        return LIMITS

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> Mapping[int, DriverError]:
        """All of a batch is one operation: it is on disk, or none of it is."""
        await self._do(lambda store: store.insert(queue, batch), wakes=queue.physical)
        return {}

    async def schedule(self, queue: Queue, message: Outgoing) -> str:
        """As `send`; what cancels it is its row, at its first time."""
        return await self._do(lambda store: store.schedule(queue, message), wakes=queue.physical)

    async def cancel(self, queue: Queue, token: str) -> bool:
        """Delete what was never due."""
        return await self._do(lambda store: store.cancel(queue, token), wakes=queue.physical if queue.ordered else None)

    async def receive(self, queue: Queue, max_messages: int, wait: float) -> Sequence[Delivery]:
        """Claim, and when there is nothing, wait for the bell, the next due message, or the end."""
        deadline = self._clock.monotonic() + wait
        rang = asyncio.Event()
        self._waiting.setdefault(queue.physical, set()).add(rang)
        try:
            while True:
                rang.clear()
                taken, due = await self._claim(queue, max_messages)
                rest = deadline - self._clock.monotonic()
                if taken or rest <= 0:
                    return taken
                if self._bell is None and not self._deaf:
                    await self._hang_bell()
                    continue  # whoever sent before the bell hung could not ring it
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(rest, _LOOK, _LOOK if due is None else due)):
                        await rang.wait()
        finally:
            self._waiting[queue.physical].discard(rang)

    async def ack(self, queue: Queue, batch: Sequence[Delivery]) -> Sequence[Settled]:
        """Delete. In an ordered queue, the next of the group may be free: whoever waits is woken."""
        return await self._do(lambda store: store.delete(batch), wakes=queue.physical if queue.ordered else None)

    async def release(self, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:
        """Update."""
        return await self._do(lambda store: store.release(batch), wakes=queue.physical)

    async def extend(self, queue: Queue, batch: Sequence[Delivery], lease: float) -> Sequence[Settled]:  # noqa: ARG002  receipts suffice
        """Update."""
        return await self._do(lambda store: store.extend(batch, lease))

    async def dead_letter(self, queue: Queue, dead: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:
        """Update: the row changes its queue."""
        return await self._do(lambda store: store.bury(dead, batch), wakes=queue.physical if queue.ordered else None)

    async def stats(self, queue: Queue) -> Stats:
        """Exact."""
        return await self._do(lambda store: store.stats(queue))

    async def peek(self, queue: Queue, max_messages: int) -> Sequence[Delivery]:
        """In the order in which they were sent."""
        return await self._do(lambda store: store.peek(queue, max_messages))

    async def create(self, queues: Sequence[Queue]) -> Sequence[Queue]:  # noqa: ARG002  the contract's signature
        """Nothing to make: a queue is there with its first message."""
        return ()

    def unwrap(self, kind: type[T]) -> T:
        """A new connection to the file, yours to close."""
        if kind is sqlite3.Connection:
            return cast("T", connect(self._path))
        raise TypeError(f"the SQLite driver can be unwrapped to sqlite3.Connection, not to {kind.__name__}")

    async def aclose(self) -> None:
        """Give back what cancelled receives brought, take down the bell, end the writer."""
        if self._closed:
            return
        while self._background:
            await asyncio.wait(self._background)
        bell, self._bell = self._bell, None
        if bell is not None:
            asyncio.get_running_loop().remove_reader(bell)
            port: int = bell.getsockname()[1]
            bell.close()
            with contextlib.suppress(DriverError):  # a stale row costs a datagram, no more
                await self._do(lambda store: store.unlisten(port))
        self._closed = True
        self._operations.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._writer.join)
        _open_drivers.discard(self)
        self._connection.close()

    def close_for_fork(self) -> None:
        """Let the transaction under way end, and have no connection open until `open_after_fork`."""
        self._in_use.acquire()
        self._connection.close()

    def open_after_fork(self) -> None:
        """In the parent: go on."""
        try:
            self._open()
        finally:
            self._in_use.release()

    # Receiving --------------------------------------------------------------------------------------------------------

    async def _claim(self, queue: Queue, max_messages: int) -> tuple[list[Delivery], float | None]:
        """Return deliveries, or in how many seconds the next message becomes due."""
        due: list[float | None] = [None]

        def worthwhile(store: Store) -> bool:
            if store.anything_due(queue):
                return True
            due[0] = store.next_due(queue)
            return False

        def claim_or_look_ahead(store: Store) -> list[Delivery]:
            most, began = self._most_claimed, self._clock.monotonic()
            taken = store.claim(queue, min(max_messages, most))
            took = self._clock.monotonic() - began
            self._most_claimed = max(1, len(taken) // 2) if took > _LONG_CLAIM else min(most * 2, LIMITS.receive_count)
            if not taken:  # all that is due stands behind a hidden head of its group
                due[0] = store.next_due(queue)
            return taken

        claim = self._submit(claim_or_look_ahead, worthwhile=worthwhile)
        try:
            # A claim under way cannot be called back: the row may be leased already. Cancelled, it ends and is undone.
            return await asyncio.shield(claim), due[0]
        except asyncio.CancelledError:
            self._in_background(self._undo(queue, claim))
            raise

    async def _undo(self, queue: Queue, claim: asyncio.Future[list[Delivery]]) -> None:
        taken = await claim
        if taken:
            await self.release(queue, [Release(delivery, counted=False) for delivery in taken])

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _hang_bell(self) -> None:
        async with self._hanging:
            if self._bell is None and not self._deaf:
                await self._hang_new_bell()

    async def _hang_new_bell(self) -> None:
        bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bell.bind(("127.0.0.1", 0))
            port: int = bell.getsockname()[1]
            await self._do(lambda store: store.listen(port))
        except OSError:  # a sandbox without loopback: the look once a second remains
            bell.close()
            self._deaf = True
            return
        except BaseException:
            bell.close()
            raise
        bell.setblocking(False)
        self._bell = bell
        asyncio.get_running_loop().add_reader(bell, self._answer_bell, bell)

    def _answer_bell(self, bell: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                physical = bell.recv(512).decode(errors="replace")
                self._ring(physical)

    def _ring(self, physical: str) -> None:
        for rang in self._waiting.get(physical, ()):
            rang.set()

    # Writing ----------------------------------------------------------------------------------------------------------

    async def _do(self, work: Callable[[Store], T], *, wakes: str | None = None) -> T:
        return await self._submit(work, wakes=wakes)

    def _submit(
        self,
        work: Callable[[Store], T],
        *,
        worthwhile: Callable[[Store], bool] | None = None,
        wakes: str | None = None,
    ) -> asyncio.Future[T]:
        if self._pid != os.getpid():
            raise Unavailable(f"{self._path} was opened before a fork: SQLite connections must not cross one. Open it anew.")
        if self._closed:
            raise Unavailable(f"{self._path} is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._operations.put(_Operation(work, worthwhile, wakes, loop, done))
        return done

    def _write(self) -> None:
        """The writer thread."""
        while True:
            first = self._operations.get()
            if first is None:
                return
            group = [first]
            last = False
            with contextlib.suppress(queues.Empty):
                while len(group) < _GROUP:
                    operation = self._operations.get_nowait()
                    if operation is None:
                        last = True
                        break
                    group.append(operation)
            try:
                with self._in_use:
                    self._follow_file()
                    self._transact(group)
            except Exception as error:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()  # or no later transaction could begin
                unknown = OutcomeUnknown(f"{self._path}: the writer failed: {error!r}")
                unknown.__cause__ = error
                self._fail(group, unknown)
            self._answer(group)
            if last:
                return

    def _open(self) -> None:
        self._connection = connect(self._path)
        self._store = Store(self._connection, self._clock)
        self._identity = _identity(self._path)

    def _follow_file(self) -> None:
        """Open the file anew where it was removed or replaced: what is written to a removed one is gone with it."""
        if _identity(self._path) == self._identity:
            return
        self._connection.close()
        self._open()
        bell = self._bell
        if bell is not None:
            self._store.listen(bell.getsockname()[1])

    def _transact(self, group: list[_Operation]) -> None:
        db, writing = self._connection, False
        try:
            for operation in group:
                if operation.worthwhile is not None and not operation.worthwhile(self._store):
                    operation.result = []
                    continue
                if not writing:
                    db.execute("BEGIN IMMEDIATE")
                    writing = True
                self._attempt(operation)
        except sqlite3.Error as error:
            self._fail(group, _translate(error, self._path))
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            return
        if not writing:
            return
        try:
            ports = self._store.listeners() if any(operation.wakes for operation in group) else []
            db.execute("COMMIT")
        except sqlite3.Error as error:
            # The sync may have failed after the write: the rows can be there when the file is opened again.
            unknown = OutcomeUnknown(f"{self._path}: the commit failed: {error}")
            unknown.__cause__ = error
            self._fail(group, unknown)
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            return
        self._knock({operation.wakes for operation in group if operation.wakes and operation.error is None}, ports)

    def _attempt(self, operation: _Operation) -> None:
        db = self._connection
        db.execute("SAVEPOINT one")
        try:
            operation.result = operation.work(self._store)
        except sqlite3.Error as error:
            operation.error = _translate(error, self._path)
            db.execute("ROLLBACK TO one")
        except Exception as error:
            operation.error = Refused(f"{self._path}: {error!r}")
            operation.error.__cause__ = error
            db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")

    @staticmethod
    def _fail(group: list[_Operation], error: DriverError) -> None:
        for operation in group:
            operation.error = operation.error or error

    def _knock(self, queues_woken: set[str], ports: list[int]) -> None:
        if not queues_woken or not ports:
            return
        # A knock is a hint. Nobody there any more, a full buffer, no descriptor left: a look once a second remains.
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knocker:
            knocker.setblocking(False)
            for port in ports:
                for physical in queues_woken:
                    with contextlib.suppress(OSError):
                        knocker.sendto(physical.encode(), ("127.0.0.1", port))

    def _answer(self, group: list[_Operation]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Operation]] = {}
        for operation in group:
            loops.setdefault(operation.loop, []).append(operation)
        for loop, operations in loops.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed with its process's work
                loop.call_soon_threadsafe(self._hand_over, operations)

    def _hand_over(self, operations: list[_Operation]) -> None:
        for operation in operations:
            if operation.done.cancelled():
                continue
            if operation.error is not None:
                operation.done.set_exception(operation.error)
            else:
                operation.done.set_result(operation.result)
                if operation.wakes is not None:
                    self._ring(operation.wakes)


# SQLite keeps a table of its locks in the process, and a fork copies it: a child's connection to the same file would believe
# that it holds the parent's locks, and the parent, closing last in its own eyes, would unlink the log that the child writes.
# So no connection is open in the moment of a fork. The parent opens its own again; the child's drivers stay unusable.
_open_drivers: weakref.WeakSet[SQLiteDriver] = weakref.WeakSet()
_forking: list[SQLiteDriver] = []


def _before_fork() -> None:
    for driver in list(_open_drivers):
        driver.close_for_fork()
        _forking.append(driver)


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().open_after_fork()


def _after_fork_in_child() -> None:
    _forking.clear()
    _open_drivers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _translate(error: sqlite3.Error, path: Path) -> DriverError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    translated: DriverError
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        translated = Unavailable(f"{path} is locked by another process for longer than 5 s")
    elif primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        translated = Unavailable(f"{path}: {error}. Is the disk full?")
    elif primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        translated = Refused(f"{path} cannot be written: {error}. Check the rights of the file and its directory.")
    else:
        translated = Refused(f"{path}: {error}")
    translated.__cause__ = error
    return translated


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def open_sqlite(place: str, options: Mapping[str, str], clock: Clock) -> SQLiteDriver:
    """Open a file: `/name.db` is relative to the working directory, `//dir/name.db` absolute."""
    for option in options:
        raise ConfigError(f"sqlite://{place} takes no options: remove {option!r}.")
    if not place.startswith("/") or place == "/":
        raise ConfigError(
            f"sqlite://{place} names no file. Write sqlite:///queue.db for one in the working directory, "
            f"sqlite:////var/lib/app/queue.db for an absolute path."
        )
    return SQLiteDriver(Path(place[1:]).absolute(), clock)
