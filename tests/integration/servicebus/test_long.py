"""A task that lasts longer than its lock, and one that holds the interpreter's lock meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working
from support.gil import hold_the_lock

pytestmark = pytest.mark.processes
LOCK = 10.0


@pytest.mark.parametrize("held", [False, True], ids=["waiting", "holding the interpreter's lock in bursts"])
async def test_a_task_of_three_locks_keeps_its_lock(bus, report, held):
    app = bus.app(clock=False, reports={"lease": LOCK})
    await bus.create()
    runs, waiting = [], threading.Event()

    @app.task(queue="reports")
    def render() -> None:
        runs.append(1)
        until = app.clock.monotonic() + 3 * LOCK
        while app.clock.monotonic() < until:
            if held:
                hold_the_lock(1.0)
            waiting.wait(0.05)

    await app.aenqueue_many([render.message()])
    watch = Watch(app)
    async with working(app, Plan(queues=["reports"], grace=10.0, concurrency=2)):
        async with asyncio.timeout(6 * LOCK):
            await watch.until(Name.ACKED, never=Name.LEASE_LOST)
    app.close()
    renewals = bus.asked("renew-lock")
    report(f"Service Bus: a task of three locks {'that holds the GIL ' if held else ''}ran once, renewed {renewals} times")
    assert len(runs) == 1
    assert renewals >= 3
