"""What is billed, counted at the server: requests for 1,000 tasks, from their enqueue to their removal."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from cloudq import Backoff, Context
from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working
from support.processes import cloudq, until

pytestmark = pytest.mark.processes

#: What runs once for a process, not for a task: looking up nothing (the account is given), the pump's and the last polls.
STANDING = 4


def billed(sqs):
    return sqs.server.requests.billed


async def drained(app, queue, count, **plan):
    """Run a worker until so many are acked, and return what it did."""
    watch = Watch(app)
    async with working(app, Plan(queues=[queue], grace=6.0, **plan)):
        await watch.until(Name.ACKED, count)
    return watch


async def test_a_thousand_no_ops_after_a_bulk_enqueue(sqs, report):
    app = sqs.app(clock=False, mail={})
    await sqs.create()

    @app.task(queue="mail")
    def mail() -> None: ...

    before = billed(sqs)
    await app.aenqueue_many([mail.message() for _ in range(1000)])
    await drained(app, "mail", 1000)
    report(f"SQS: {billed(sqs) - before} requests for 1,000 no-op tasks after a bulk enqueue")
    assert 300 <= billed(sqs) - before <= 310
    app.close()


async def test_a_thousand_waits_a_hundred_at_once(sqs, report):
    app = sqs.app(clock=False, mail={})
    await sqs.create()

    @app.task(queue="mail")
    def mail() -> None:
        time.sleep(0.05)

    before = billed(sqs)
    await app.aenqueue_many([mail.message() for _ in range(1000)])
    await drained(app, "mail", 1000, concurrency=100)
    report(f"SQS: {billed(sqs) - before} requests for 1,000 tasks of 50 ms, 100 at once")
    assert billed(sqs) - before <= 330
    app.close()


def test_a_thousand_computations_in_two_processes(sqs, tmp_path, report):
    (tmp_path / "sums.py").write_text(
        "import time\nfrom cloudq import CloudQ\n"
        f"app = CloudQ('sqs://us-east-1?endpoint={sqs.endpoint}&account=000000000000', namespace='sums')\n"
        "@app.task\ndef compute() -> None:\n"
        "    end = time.thread_time() + 0.005\n    while time.thread_time() < end: pass\n"
        "@app.task\ndef nothing() -> None: ...\n"
    )
    environment = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    with cloudq("queues", "create", "sums:app", cwd=tmp_path, log=tmp_path / "create.log", **environment) as creating:
        assert creating.wait(30) == 0
    before = billed(sqs)
    script = "import sums; sums.app.enqueue_many(sums.compute.message() for _ in range(1000))"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    queue = sqs.server.service.queues["sums-default"]
    with cloudq("worker", "sums:app", "--processes", 2, "--concurrency", 1, cwd=tmp_path, log=tmp_path / "log", **environment):
        until(lambda: not queue.messages, "not all was worked off", patience=90)
        requests = billed(sqs) - before
    report(f"SQS: {requests} requests for 1,000 tasks of 5 ms CPU in two processes")
    assert requests <= 310 + 2 * STANDING


async def test_single_enqueues_of_many_callers_leave_together(sqs, report):
    app = sqs.app(clock=False, mail={})
    await sqs.create()

    @app.task(queue="mail")
    def mail() -> None: ...

    before = billed(sqs)
    pending = iter(range(1000))
    lock = threading.Lock()

    def caller():
        while True:
            with lock:
                number = next(pending, None)
            if number is None:
                return
            mail.enqueue()  # returns when it is confirmed

    callers = [threading.Thread(target=caller) for _ in range(50)]
    for each in callers:
        each.start()
    await asyncio.to_thread(lambda: [each.join() for each in callers])
    await drained(app, "mail", 1000)
    report(f"SQS: {billed(sqs) - before} requests for 1,000 confirmed single enqueues from 50 callers, end to end")
    assert billed(sqs) - before <= 400
    app.close()


async def test_an_idle_queue_is_asked_three_times_a_minute(sqs, report):
    app = sqs.app(clock=False, mail={})
    await sqs.create()

    @app.task(queue="mail")
    def mail() -> None: ...

    async with working(app, Plan(queues=["mail"], grace=25.0)):
        await asyncio.to_thread(sqs.until_asked, "ReceiveMessage")
        await asyncio.sleep(21)  # a poll of 20 s and the beginning of the next: what is measured is the silence
        receives = sqs.server.requests.by_action["ReceiveMessage"]
    report(f"SQS: {receives} receives in 21 s for an idle queue and its delay part")
    assert receives <= 2 * 2
    assert sqs.server.requests.by_action.keys() <= {"CreateQueue", "GetQueueUrl", "GetQueueAttributes", "ReceiveMessage"}


async def test_a_retry_costs_two_tenths_under_load(sqs, report):
    app = sqs.app(clock=False, mail={})
    await sqs.create()

    @app.task(queue="mail", retry=Backoff(first="1s", factor=1))
    def flaky(ctx: Context, number: int) -> None:
        if ctx.attempt == 1 and number < 400:
            raise ValueError

    costs = []
    for first in (400, 0):  # the same without failures, and with 400
        before = billed(sqs)
        await app.aenqueue_many([flaky.message(first + number) for number in range(4000)])
        await drained(app, "mail", 4000)
        costs.append(billed(sqs) - before)
    more = (costs[1] - costs[0]) / 400
    report(f"SQS: a retry costs {more:.2f} requests; 4,000 tasks without one {costs[0]}")
    assert sqs.server.requests.by_action["ChangeMessageVisibilityBatch"] >= 40
    assert more <= 0.25  # 0.2 is what full batches cost, and not each is full
    app.close()


async def test_a_renewal_costs_a_tenth(sqs, report):
    app = sqs.app(clock=False, mail={"lease": "6s"})
    await sqs.create()

    @app.task(queue="mail")
    async def long() -> None:
        await asyncio.sleep(5)

    await app.aenqueue_many([long.message() for _ in range(100)])
    await drained(app, "mail", 100, concurrency=100)
    renewals = sqs.server.requests.by_action["ChangeMessageVisibilityBatch"]
    report(f"SQS: a renewal costs {renewals / 100:.2f} requests")
    assert renewals == 10
    app.close()
