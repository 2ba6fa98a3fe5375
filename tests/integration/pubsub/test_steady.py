"""A worker on Pub/Sub grows by nothing, and has the threads that it says it has."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloudq import CloudQ
from proofs.soak import SLOPE, slope
from support.processes import cloudq, resident, until

pytestmark = pytest.mark.processes

TASKS = 50_000
WARM = 15_000
CONCURRENCY = 10
#: The loop, the signals, gRPC's poller and its own few. One more for each task that may run at once.
OTHER_THREADS = 12


def test_fifty_thousand_tasks_leave_nothing_behind(pubsub, tmp_path, report):
    app = CloudQ(pubsub.url)

    @app.task(name="nothing")
    def nothing() -> None: ...

    async def create():
        async with pubsub.driver() as driver:
            await driver.create(app.addresses("default"))

    asyncio.run(create())
    app.enqueue_many(nothing.message() for _ in range(TASKS))
    (main,) = [name for name in pubsub.server.counts() if name.endswith("-default")]
    samples, threads = [], set()
    with cloudq(
        "worker", "support.plain_app:app", "--log-level", "ERROR", "--concurrency", CONCURRENCY,
        cwd=tmp_path, log=tmp_path / "log", CLOUDQ_URL=pubsub.url,
    ) as worker:  # fmt: skip

        def look() -> bool:
            left = pubsub.server.counts()[main]["unacked"]
            if left < TASKS:
                samples.append((TASKS - left, resident(worker.pid)))
                threads.add(len(list(Path(f"/proc/{worker.pid}/task").iterdir())))
            return left == 0

        until(look, "the tasks were not done", patience=120, every=0.02)
        worker.terminate()
        assert worker.wait(30) == 0
    app.close()
    warm = [(done, size) for done, size in samples if done >= WARM]
    growth = slope(warm) * (TASKS - WARM)
    most = max(size for _, size in samples)
    report(
        f"Pub/Sub: {TASKS:,} tasks grow a worker by {growth:.2f} MiB once it is warm, to {most:.0f}; "
        f"{max(threads)} threads for {CONCURRENCY} tasks at once"
    )
    assert len(warm) >= 5
    assert growth <= SLOPE
    assert max(threads) <= CONCURRENCY + OTHER_THREADS
