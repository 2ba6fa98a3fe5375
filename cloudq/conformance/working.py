"""The whole walk, from `enqueue` to the settlement, with a real worker on real threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from cloudq import deadletters
from cloudq.app import CloudQ
from cloudq.conformance.harness import Harness, collect, need, receive_one
from cloudq.context import Context
from cloudq.driver import Delivery, Outgoing, Part
from cloudq.events import Event, Name
from cloudq.outcome import Reject, Retry
from cloudq.retry import NO_RETRY, Backoff
from cloudq.worker.process import Plan, working

#: How long a named event is waited for, in seconds, before the scenario fails.
_PATIENCE = 90.0
#: A task's length, in seconds, where messages have to wait for it.
_A_MOMENT = 0.02


class Watch:
    """Collects an application's events, and waits for them by name."""

    def __init__(self, app: CloudQ) -> None:
        """Collect from now on."""
        self._events: list[Event] = []
        self._changed = threading.Condition()
        app.events.add(self._add)

    def _add(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def named(self, name: Name) -> list[Event]:
        """Return those of one name so far."""
        with self._changed:
            return [event for event in self._events if event.name is name]

    async def until(self, name: Name, count: int = 1, *, never: Name | None = None) -> list[Event]:
        """Wait until it happened `count` times; AssertionError when it does not, or when `never` happens."""

        def over() -> bool:
            return len(self.named(name)) >= count or (never is not None and bool(self.named(never)))

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(over, _PATIENCE)

        arrived = await asyncio.to_thread(wait)
        names = [event.name.value for event in self._events]
        assert arrived, f"{count} x {name.value} did not happen within {_PATIENCE:g} s; what did: {names}"
        assert never is None or never.value not in names, f"{never.value} happened: {names}"
        return self.named(name)


async def _work(app: CloudQ, until: Callable[[Watch], Any], watch: Watch | None = None, **plan: Any) -> Watch:
    """Run a worker until the awaitable is done, then drain it."""
    watch = watch or Watch(app)
    async with working(app, Plan(queues=app.queue_names(), grace=plan.pop("grace", 10.0), **plan)):
        await until(watch)
    return watch


async def _dead_letter(app: CloudQ) -> tuple[Delivery, deadletters.Record]:
    async with app.driver(app.url_of("main")) as driver:
        delivery = await receive_one(driver, app.address("main", Part.DEAD))
        return delivery, deadletters.read(delivery)


async def _send_raw(app: CloudQ, body: bytes) -> None:
    async with app.driver(app.url_of("main")) as driver:
        assert not await driver.send(app.address("main", Part.MAIN), [Outgoing(body, "foreign")])


async def a_task_runs_once_and_is_acked(harness: Harness) -> None:
    """`def` and `async def`, each with its arguments, are run once and removed."""
    app = harness.app(main={})
    ran: set[tuple[object, object]] = set()

    @app.task(queue="main")
    def plain(number: int, text: str = "x") -> None:
        ran.add((number, text))

    @app.task(queue="main")
    async def coroutine(ctx: Context, number: int) -> None:
        ran.add((ctx.attempt, number))

    await plain.aenqueue(1)
    await coroutine.aenqueue(2)
    await _work(app, lambda watch: watch.until(Name.ACKED, 2))
    assert ran == {(1, "x"), (1, 2)}
    app.close()


async def a_failed_task_runs_again_and_counts(harness: Harness) -> None:
    """A failure is retried by the policy with attempts counted up, and `Retry` chooses its own delay."""
    app = harness.app(main={})
    seen: list[int] = []

    @app.task(queue="main", retry=Backoff(max_attempts=5, first=harness.tick, cap=harness.tick))
    def flaky(ctx: Context) -> None:
        seen.append(ctx.attempt)
        if len(seen) == 1:
            raise RuntimeError("once")
        if len(seen) == 2:
            raise Retry(after=harness.tick)

    await flaky.aenqueue()
    watch = await _work(app, lambda watch: watch.until(Name.SUCCEEDED))
    assert seen == [1, 2, 3]
    assert len(watch.named(Name.RETRIED)) == 2
    app.close()


async def a_task_that_keeps_failing_is_kept_with_its_reason(harness: Harness) -> None:
    """After its last attempt it is in the dead part: same body, the error, the count, the end of the traceback."""
    app = harness.app(main={})

    @app.task(queue="main", retry=Backoff(max_attempts=2, first=harness.tick, cap=harness.tick))
    def broken() -> None:
        raise ValueError("never works")

    receipt = await broken.aenqueue()
    await _work(app, lambda watch: watch.until(Name.DEAD_LETTERED))
    delivery, record = await _dead_letter(app)
    assert (record.kind, record.attempts, record.task_id) == ("failed", 2, receipt.task_id)
    assert "never works" in record.reason
    assert "ValueError" in record.trace
    assert receipt.task_id.encode() in delivery.body
    app.close()


async def a_rejected_task_is_not_retried(harness: Harness) -> None:
    """`Reject` goes to the dead part at the first attempt."""
    app = harness.app(main={})

    @app.task(queue="main")
    async def hopeless() -> None:
        raise Reject("no such customer")

    await hopeless.aenqueue()
    watch = await _work(app, lambda watch: watch.until(Name.DEAD_LETTERED))
    _, record = await _dead_letter(app)
    assert (record.kind, record.reason, record.attempts) == ("rejected", "no such customer", 1)
    assert not watch.named(Name.RETRIED)
    app.close()


async def an_unreadable_message_is_kept_byte_for_byte(harness: Harness) -> None:
    """A foreign message neither stops the worker nor is lost, and its neighbours run."""
    app = harness.app(main={})
    ran: list[int] = []

    @app.task(queue="main")
    def good(number: int) -> None:
        ran.append(number)

    foreign = '{"order": "größe", "from": "another team"'.encode()
    await good.aenqueue(1)
    await _send_raw(app, foreign)
    await good.aenqueue(2)

    async def both(watch: Watch) -> None:
        await watch.until(Name.DEAD_LETTERED)
        await watch.until(Name.ACKED, 2)

    await _work(app, both)
    delivery, record = await _dead_letter(app)
    assert delivery.body == foreign
    assert record.kind == "unreadable"
    assert sorted(ran) == [1, 2]
    app.close()


async def an_unknown_task_is_given_back(harness: Harness) -> None:
    """A task of another version of the code is not dead-lettered at first sight: a worker that knows it runs it later."""
    old = harness.app(main={})

    @old.task(queue="main")
    def known() -> None: ...

    body = b'{"cloudq":1,"id":"t1","type":"later","time":1.0,"data":{}}'
    await _send_raw(old, body)
    watch = await _work(old, lambda watch: watch.until(Name.NOT_KNOWN))
    assert not watch.named(Name.DEAD_LETTERED)
    assert not watch.named(Name.STARTED)
    ran: list[str] = []

    @old.task(queue="main", name="later")
    def later(ctx: Context) -> None:
        ran.append(ctx.task_id)

    await _work(old, lambda watch: watch.until(Name.SUCCEEDED))
    assert ran == ["t1"]
    old.close()


async def an_expired_task_is_not_run(harness: Harness) -> None:
    """What waited past its expiry is kept in the dead part, or dropped where its task says so."""
    app = harness.app(main={})

    @app.task(queue="main")
    def late() -> None:
        raise AssertionError("an expired task was run")

    @app.task(queue="main", on_expiry="drop")
    def unimportant() -> None:
        raise AssertionError("an expired task was run")

    await late.options(expires=0).aenqueue()
    await unimportant.options(expires=0).aenqueue()

    async def both(watch: Watch) -> None:
        await watch.until(Name.DEAD_LETTERED)
        await watch.until(Name.DROPPED)

    watch = await _work(app, both)
    _, record = await _dead_letter(app)
    assert record.kind == "expired"
    assert not watch.named(Name.STARTED)
    app.close()


async def a_delayed_task_runs_when_it_is_due(harness: Harness) -> None:
    """Not before its time; by the provider's own delay or through the delay part."""
    app = harness.app(main={})
    times: list[float] = []

    @app.task(queue="main")
    def later() -> None:
        times.append(app.clock.time())

    delay = max(2.5, harness.tick * 2)  # well over the second that a provider may be early
    receipt = await later.options(delay=delay).aenqueue()
    await _work(app, lambda watch: watch.until(Name.ACKED))
    assert receipt.due is not None
    assert times[0] >= receipt.due - 1.0
    app.close()


async def high_priority_goes_first(harness: Harness) -> None:
    """With a backlog of both, most of the first that run are of high priority, and the low ones are not starved."""
    app = harness.app(main={"priorities": ["high", "normal", "low"]})
    order: list[str] = []

    @app.task(queue="main", retry=NO_RETRY)
    def job(priority: str) -> None:
        order.append(priority)
        # Of tasks that take no time, those run first whose messages arrive first: nothing is ever left to choose from.
        time.sleep(_A_MOMENT)

    for priority in ("low", "normal", "high"):
        await app.aenqueue_many(job.options(priority=priority).message(priority) for _ in range(20))
    await _work(app, lambda watch: watch.until(Name.ACKED, 60), concurrency=1)
    assert order.index("high") <= 2
    assert order[:20].count("high") > order[:20].count("low")
    assert sorted(order) == sorted(["high", "normal", "low"] * 20)
    app.close()


async def a_key_runs_in_order_also_when_one_fails(harness: Harness) -> None:
    """Tasks of one ordering key run one after the other; a failed one runs again before those behind it."""
    app = harness.app(main={"ordered": True})
    async with app.driver(app.url_of("main")) as driver:
        need(driver.limits.native_order, "no native order")
    ran: list[tuple[str, int]] = []
    running: set[str] = set()
    failed: list[int] = []

    @app.task(queue="main", retry=Backoff(max_attempts=3, first=harness.tick, cap=harness.tick))
    def step(key: str, number: int) -> None:
        assert key not in running, "two of one key at once"
        running.add(key)
        try:
            if number == 2 and not failed:
                failed.append(number)
                raise RuntimeError("once")
            ran.append((key, number))
        finally:
            running.discard(key)

    for number in range(6):
        for key in ("a", "b"):
            await step.options(ordering_key=key).aenqueue(key, number)
    await _work(app, lambda watch: watch.until(Name.ACKED, 12))
    for key in ("a", "b"):
        assert [number for k, number in ran if k == key] == list(range(6))
    app.close()


async def a_long_task_keeps_its_lease(harness: Harness) -> None:
    """A run of several leases' length is not handed to a second worker."""
    app = harness.app(main={})
    runs: list[float] = []
    wait = threading.Event()

    @app.task(queue="main")
    def slow() -> None:
        runs.append(app.clock.time())
        wait.wait(harness.lease * 3)

    await slow.aenqueue()
    watch = Watch(app)
    async with working(app, Plan(queues=["main"], grace=10.0)):
        await _work(app, lambda watch: watch.until(Name.ACKED, never=Name.LEASE_LOST), watch)
    assert len(runs) == 1
    assert watch.named(Name.RENEWED)
    app.close()


async def a_draining_worker_gives_back_what_it_does_not_finish(harness: Harness) -> None:
    """At the end of its grace a worker releases a running task, and another one runs it without waiting for the lease."""
    app = harness.app(main={"lease": max(harness.lease, 30.0)})
    release = threading.Event()
    attempts: list[int] = []

    @app.task(queue="main")
    def stubborn(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            release.wait(_PATIENCE)

    await stubborn.aenqueue()
    await _work(app, lambda watch: watch.until(Name.STARTED), grace=0.2)
    began = app.clock.monotonic()
    await _work(app, lambda watch: watch.until(Name.ACKED, 1))
    release.set()
    assert len(attempts) == 2
    assert app.clock.monotonic() - began < 15
    app.close()


SCENARIOS = collect(globals())
