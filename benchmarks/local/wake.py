"""How a waiting receive learns of a message from another process: what each way costs, in one run.

Compared: `PRAGMA data_version` polled every 1, 5 and 20 ms, and the shipped driver (a loopback datagram). A child process waits
on an empty queue; the parent sends single messages at random moments. Printed: latency from the begin of the send to the end
of the receive, which for all contains one commit with its sync; and the CPU seconds the child uses while nothing happens.

    python benchmarks/local/wake.py
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cloudq.clock import SystemClock
from cloudq.driver import Outgoing, Queue
from cloudq_local.sqlite import SQLiteDriver
from cloudq_local.store import Store, connect

MESSAGES = 150
IDLE = 5.0
QUEUE = Queue("bench", "bench", lease=60.0)
WAYS = ("datagram (shipped)", "data_version 1 ms", "data_version 5 ms", "data_version 20 ms")


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def poll(path, interval, pipe):
    """The alternative: look at a counter in shared memory, again and again."""
    connection = connect(path)
    store = Store(connection, SystemClock())
    version = None
    pipe.send("ready")
    began, received, idle = time.perf_counter(), 0, None
    start = cpu()
    while received < MESSAGES:
        (seen,) = connection.execute("PRAGMA data_version").fetchone()
        if seen != version:
            version = seen
            if store.anything_due(QUEUE):
                connection.execute("BEGIN IMMEDIATE")
                found = store.claim(QUEUE, 1)
                connection.execute("COMMIT")
                if found:
                    pipe.send((float(found[0].message_id), time.time()))
                    received += 1
                    continue
        if idle is None and time.perf_counter() - began > IDLE:
            idle = (cpu() - start) / IDLE
            pipe.send(("idle", idle))
        time.sleep(interval)


def wait(path, _interval, pipe):
    """The shipped driver."""

    async def main():
        driver = SQLiteDriver(path, SystemClock())
        await driver.receive(QUEUE, 1, 0.1)  # the bell is hung
        pipe.send("ready")
        start = cpu()
        await driver.receive(QUEUE, 1, IDLE)
        pipe.send(("idle", (cpu() - start) / IDLE))
        for _ in range(MESSAGES):
            (found,) = await driver.receive(QUEUE, 1, 20.0)
            pipe.send((float(found.message_id), time.time()))
        await driver.aclose()

    asyncio.run(main())


async def feed(path, pipe):
    driver = SQLiteDriver(path, SystemClock())
    draw = random.Random(1)
    latencies = []
    for _ in range(MESSAGES):
        await asyncio.sleep(draw.uniform(0.005, 0.03))
        await driver.send(QUEUE, [Outgoing(b"{}", repr(time.time()))])
        sent, received = await asyncio.to_thread(pipe.recv)
        latencies.append((received - sent) * 1000)
    await driver.aclose()
    return latencies


def sync_time(directory):
    """What one commit with its sync takes here, in ms: the floor under every latency below."""
    connection = connect(directory / "sync.db")
    took = []
    for number in range(200):
        began = time.perf_counter()
        connection.execute("INSERT INTO seen VALUES ('q', ?, 0)", (number,))
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def main():
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, one commit {sync_time(Path(folder)):.2f} ms")
        print(f"{'way':22}{'p50 ms':>10}{'p99 ms':>10}{'idle CPU %':>12}")
        for way in WAYS:
            path = Path(folder) / f"{way.replace(' ', '-')}.db"
            ours, theirs = context.Pipe()
            shipped = way == WAYS[0]
            interval = 0.0 if shipped else float(way.split()[1]) / 1000
            child = context.Process(target=wait if shipped else poll, args=(path, interval, theirs))
            child.start()
            assert ours.recv() == "ready"
            _, idle = ours.recv()
            latencies = sorted(asyncio.run(feed(path, ours)))
            child.join()
            p50, p99 = statistics.median(latencies), latencies[int(len(latencies) * 0.99)]
            print(f"{way:22}{p50:10.2f}{p99:10.2f}{idle * 100:12.2f}")


if __name__ == "__main__":
    main()
