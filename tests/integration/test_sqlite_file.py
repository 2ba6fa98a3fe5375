"""The file that many processes open."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket

import pytest

from cloudq.clock import SystemClock
from cloudq.driver import Outgoing, Queue
from cloudq.errors import ConfigError, OutcomeUnknown, Refused, Unavailable
from cloudq.testing import ManualClock
from cloudq_local.sqlite import SQLiteDriver, open_sqlite
from cloudq_local.store import Store, connect

QUEUE = Queue("main", "t-main")


def _open(path, barrier, answers):
    barrier.wait()
    try:
        count = connect(path).execute("SELECT count(*) FROM messages").fetchone()[0]
    except Exception as error:
        answers.put(repr(error))
    else:
        answers.put(count)


def test_processes_that_open_a_new_file_at_once_all_succeed(tmp_path):
    context = multiprocessing.get_context("fork")
    for round_number in range(25):
        barrier, answers = context.Barrier(6), context.Queue()
        path = tmp_path / f"{round_number}.db"
        processes = [context.Process(target=_open, args=(path, barrier, answers)) for _ in range(6)]
        for process in processes:
            process.start()
        found = [answers.get(timeout=30) for _ in processes]
        for process in processes:
            process.join()
        assert found == [0] * 6


def test_only_the_owner_can_read_it_and_a_link_is_refused(tmp_path):
    connect(tmp_path / "queue.db").close()
    assert (tmp_path / "queue.db").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link.db").symlink_to(tmp_path / "queue.db")
    with pytest.raises(ConfigError, match="symbolic link"):
        connect(tmp_path / "link.db")


def test_a_file_of_another_version_is_refused(tmp_path):
    connection = connect(tmp_path / "queue.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="schema 99"):
        connect(tmp_path / "queue.db")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "queue.db").write_text("hello, I am a text file, and long enough to look like a header" * 20)
    with pytest.raises(ConfigError, match="cannot be opened"):
        connect(tmp_path / "queue.db")


async def test_one_failed_operation_leaves_those_that_share_its_transaction(tmp_path):
    driver = open_sqlite(f"/{tmp_path}/queue.db", {}, SystemClock())
    good = driver._submit(lambda store: store.insert(QUEUE, [Outgoing(b"1", "a")]))
    bad = driver._submit(lambda store: store._db.execute("INSERT INTO nowhere VALUES (1)"))
    broken = driver._submit(lambda _: 1 / 0)
    good_too = driver._submit(lambda store: store.insert(QUEUE, [Outgoing(b"2", "b")]))
    await good
    with pytest.raises(Refused):
        await bad
    with pytest.raises(Refused, match="ZeroDivisionError"):
        await broken
    await good_too
    assert (await driver.stats(QUEUE)).ready == 2
    await driver.aclose()


async def test_a_driver_that_crossed_a_fork_refuses(tmp_path):
    driver = open_sqlite(f"/{tmp_path}/queue.db", {}, SystemClock())
    driver._pid = os.getpid() + 1
    with pytest.raises(Unavailable, match="before a fork"):
        await driver.stats(QUEUE)
    driver._pid = os.getpid()
    await driver.aclose()


async def test_a_closed_driver_refuses(tmp_path):
    driver = open_sqlite(f"/{tmp_path}/queue.db", {}, SystemClock())
    await driver.aclose()
    with pytest.raises(Unavailable, match="is closed"):
        await driver.stats(QUEUE)


async def test_a_message_from_another_connection_wakes_a_waiting_receive_at_once(tmp_path):
    """Well under the second after which it would look by itself: by the doorbell."""
    driver, sender = (open_sqlite(f"/{tmp_path}/queue.db", {}, SystemClock()) for _ in range(2))
    await driver.receive(QUEUE, 1, 0.05)  # the bell is hung
    took = []
    for number in range(5):
        waiting = asyncio.create_task(driver.receive(QUEUE, 1, 10.0))
        await sender.stats(QUEUE)  # a round through a thread: the receive waits by now
        began = asyncio.get_running_loop().time()
        await sender.send(QUEUE, [Outgoing(b"1", f"m{number}")])
        assert len(await waiting) == 1
        took.append(asyncio.get_running_loop().time() - began)
    assert sorted(took)[2] < 0.3, took
    await driver.aclose()
    await sender.aclose()


async def test_without_loopback_a_waiting_receive_looks_once_a_second(tmp_path, monkeypatch):
    driver = open_sqlite(f"/{tmp_path}/queue.db", {}, SystemClock())
    looks = []
    claim = driver._claim

    async def counted(queue, most):
        looks.append(1)
        return await claim(queue, most)

    class NoNetwork(socket.socket):
        def bind(self, address):
            raise OSError(99, "no loopback here")

    monkeypatch.setattr(driver, "_claim", counted)
    monkeypatch.setattr(socket, "socket", NoNetwork)
    assert await driver.receive(QUEUE, 1, 1.5) == []
    monkeypatch.undo()
    assert len(looks) <= 5
    await driver.aclose()


async def test_running_out_of_descriptors_does_not_end_the_writer(tmp_path, monkeypatch):
    driver, listener = (open_sqlite(f"/{tmp_path}/queue.db", {}, SystemClock()) for _ in range(2))
    await listener.receive(QUEUE, 1, 0.05)  # somebody to knock at

    def none_left(*_):
        raise OSError(24, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        assert await driver.send(QUEUE, [Outgoing(b"1", "a")]) == {}
    assert (await driver.stats(QUEUE)).ready == 1
    await driver.aclose()
    await listener.aclose()


async def test_a_mistake_in_the_writer_fails_its_group_and_no_later_one(tmp_path):
    driver = open_sqlite(f"/{tmp_path}/queue.db", {}, SystemClock())

    def mistake(_):
        raise ZeroDivisionError

    # Both in one group: the first has begun the transaction when the second goes wrong outside of its savepoint.
    with driver._in_use:
        first = driver._submit(lambda store: store.insert(QUEUE, [Outgoing(b"0", "z")]))
        good = driver._submit(lambda store: store.insert(QUEUE, [Outgoing(b"1", "a")]))
        bad = driver._submit(lambda _: [], worthwhile=mistake)
    answers = await asyncio.gather(first, good, bad, return_exceptions=True)
    assert isinstance(answers[2], OutcomeUnknown)
    confirmed = sum(1 for answer in answers[:2] if not isinstance(answer, Exception))
    assert (await driver.stats(QUEUE)).ready == confirmed
    assert await driver.send(QUEUE, [Outgoing(b"2", "b")]) == {}
    assert (await driver.stats(QUEUE)).ready == confirmed + 1
    await driver.aclose()


async def test_a_file_that_is_removed_is_made_anew_and_nothing_is_confirmed_into_the_old_one(tmp_path):
    """`rm queue.db` while processes run: what was in it is gone, what comes after must not be."""
    path = tmp_path / "queue.db"
    queue = Queue("mail", "cloudq-mail")
    async with asyncio.timeout(20):
        producer, worker = SQLiteDriver(path, SystemClock()), SQLiteDriver(path, SystemClock())
        await producer.send(queue, [Outgoing(b"1", "1")])
        assert len(await worker.receive(queue, 1, 1.0)) == 1
        waiting = asyncio.ensure_future(worker.receive(queue, 1, 15.0))
        for file in tmp_path.glob("queue.db*"):
            file.unlink()
        assert not await producer.send(queue, [Outgoing(b"2", "2")])
        assert path.exists()
        assert [delivery.body for delivery in await waiting] == [b"2"]
        await producer.aclose()
        await worker.aclose()


async def test_a_claim_that_takes_long_makes_the_next_one_smaller(tmp_path):
    """Beside tasks that compute, a row takes milliseconds, and what waits behind a large claim is somebody's renewal."""
    clock = ManualClock()

    class Slow(Store):
        pace = 0.0

        def claim(self, queue, max_messages):
            taken = super().claim(queue, max_messages)
            clock.advance(self.pace * len(taken))
            return taken

    driver = SQLiteDriver(tmp_path / "queue.db", clock)
    driver._store = slow = Slow(driver._connection, clock)
    queue = Queue("main", "main", lease=3600.0)
    await driver.send(queue, [Outgoing(b"x", str(number)) for number in range(400)])
    counts = []
    for slow.pace in (0.0, 0.004, 0.004, 0.004, 0.004, 0.0, 0.0, 0.0):
        counts.append(len(await driver.receive(queue, 100, 0.0)))
    assert counts == [100, 100, 50, 25, 12, 24, 48, 41]
    await driver.aclose()
