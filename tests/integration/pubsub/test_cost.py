"""What is called and billed, counted at the server: for 1,000 tasks, from their enqueue to their removal."""

from __future__ import annotations

import pytest

from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working

pytestmark = pytest.mark.processes


def calls(pubsub):
    return sum(pubsub.server.requests.by_method.values())


async def drained(app, queue, count, **plan):
    """Run a worker until so many are acked, and return what it did."""
    watch = Watch(app)
    async with working(app, Plan(queues=[queue], grace=6.0, **plan)):
        await watch.until(Name.ACKED, count)
    return watch


async def test_a_thousand_no_ops(pubsub, report):
    app = pubsub.app(clock=False, mail={})
    await pubsub.create()

    @app.task(queue="mail")
    def mail() -> None: ...

    before = calls(pubsub)
    await app.aenqueue_many([mail.message() for _ in range(1000)])
    await drained(app, "mail", 1000, concurrency=100)
    requests = pubsub.server.requests
    report(
        f"Pub/Sub: {calls(pubsub) - before} calls for 1,000 no-op tasks, {dict(requests.by_method)}; "
        f"{(requests.published + requests.delivered) / 1000:.0f} bytes billed a task"
    )
    assert 10 <= calls(pubsub) - before <= 30
    assert 250 <= (requests.published + requests.delivered) / 1000 <= 400
    app.close()


async def test_tasks_that_enqueue_share_the_process_with_the_worker(pubsub, caplog):
    """Two event loops with gRPC on each: the worker's own, and that of whoever enqueues."""
    app = pubsub.app(clock=False, mail={})
    await pubsub.create()

    @app.task(queue="mail")
    def leaf() -> None: ...

    @app.task(queue="mail")
    def root() -> None:
        leaf.enqueue()

    await app.aenqueue_many([root.message() for _ in range(300)])
    await drained(app, "mail", 600, concurrency=20)
    app.close()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
