"""A task that lasts longer than any lease that Pub/Sub gives."""

from __future__ import annotations

import asyncio

from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working
from cloudq_pubsub.emulator import service
from support.fast import FastClock, run_fast
from support.pubsub import emulated

MINUTES = 15


def test_a_task_of_fifteen_minutes_runs_once(report, monkeypatch):
    monkeypatch.setattr(service, "PULL_WAIT", 0.1)  # real seconds, while everybody else's are short
    clock, runs = FastClock(), []
    with emulated(clock=clock) as pubsub:
        app = pubsub.app(reports={"lease": "60s"})

        @app.task(queue="reports", timeout="20m")
        async def render() -> None:
            runs.append(clock.time())
            while clock.time() < runs[0] + 60 * MINUTES:  # noqa: ASYNC110  on this loop, seconds are long
                await asyncio.sleep(0.05)

        async def work():
            await pubsub.create()
            await app.aenqueue_many([render.message()])
            watch = Watch(app)
            async with working(app, Plan(queues=["reports"], grace=60.0, concurrency=2)):
                await watch.until(Name.ACKED, never=Name.LEASE_LOST)

        run_fast(work())
        app.close()
        renewals = pubsub.asked("ModifyAckDeadline")
    report(f"Pub/Sub: a task of {MINUTES} minutes ran once, its lease of 60 s renewed {renewals} times")
    assert len(runs) == 1
    assert renewals >= MINUTES
