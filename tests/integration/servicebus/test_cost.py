"""What is asked of the service, counted by kind at the server: for 1,000 tasks, from their enqueue to their removal."""

from __future__ import annotations

import pytest

from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working

pytestmark = pytest.mark.processes


async def test_a_thousand_no_ops(bus, report):
    app = bus.app(clock=False, mail={})
    await bus.create()

    @app.task(queue="mail")
    def mail() -> None: ...

    await app.aenqueue_many([mail.message() for _ in range(1000)])
    watch = Watch(app)
    async with working(app, Plan(queues=["mail"], grace=6.0, concurrency=100)):
        await watch.until(Name.ACKED, 1000)
    app.close()
    counted = bus.server.requests.by_action
    connections = bus.server.requests.connections
    report(f"Service Bus: {dict(counted)} for 1,000 no-op tasks, {connections} connections")
    assert counted["complete"] == 1000  # one settlement a task
    assert counted["send"] <= 20  # by the hundred
    assert set(counted) <= {"complete", "send", "attach", "put-token"}  # and nothing else per task
    assert counted["attach"] <= connections <= 12
