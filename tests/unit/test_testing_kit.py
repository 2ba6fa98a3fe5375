"""The kit for users' tests, used as a user would."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import pytest

from cloudq import Backoff, CloudQ, Context, Reject, Retry
from cloudq.testing import ManualClock, sandbox

app = CloudQ("sqlite:////nowhere/at/all.db", queues={"mail": {"priorities": ["high", "normal"], "url": "sqlite:////nor/here"}})
done = []


@app.task(queue="mail")
def welcome(address: str, polite: bool = True) -> None:
    done.append(("welcome", address, threading.current_thread() is threading.main_thread()))


@app.task
async def remind(ctx: Context, address: str) -> None:
    await asyncio.sleep(0)
    done.append(("remind", address, ctx.attempt))


@app.task(retry=Backoff(max_attempts=2, first="1m", cap="1m"))
def flaky(times: int) -> None:
    done.append("flaky")
    if done.count("flaky") <= times:
        raise ConnectionError("down")


@app.task
def refuses() -> None:
    raise Reject("never")


@app.task
def later(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise Retry(after="10m")
    done.append("later")


@app.task
def signup(address: str) -> None:
    welcome.options(priority="high").enqueue(address)
    remind.options(delay="1d").enqueue(address)


@pytest.fixture(autouse=True)
def nothing_done():
    done.clear()


def test_nothing_runs_until_it_is_told_to():
    with sandbox(app) as box:
        welcome.enqueue("a")
        assert not done
        (run,) = box.run_pending()
        assert (run.task, run.attempt, run.error) == (welcome.name, 1, None)
        assert done == [("welcome", "a", True)], "a def task runs on the test's own thread"
        assert box.run_pending() == []


def test_what_is_enqueued_by_a_task_runs_too_and_a_delay_waits_for_the_clock():
    with sandbox(app) as box:
        signup.enqueue("a")
        assert [run.task for run in box.run_pending()] == [signup.name, welcome.name]
        box.clock.advance("23h")
        assert box.run_pending() == []
        box.clock.advance("1h")
        box.run_pending()
        assert done[-1] == ("remind", "a", 1)


@pytest.mark.parametrize("like", ["sqs", "pubsub", "servicebus"])
def test_a_long_delay_is_forwarded_as_the_provider_would_have_it(like):
    with sandbox(app, like=like) as box:
        remind.options(delay="1d").enqueue("a")
        for _ in range(24):
            box.clock.advance("1h")
            box.run_pending()
        box.clock.advance("10m")
        box.run_pending()
        assert done == [("remind", "a", 1)]


def test_enqueues_are_asserted_with_their_options():
    with sandbox(app) as box:
        signup("a")
        mail = box.assert_enqueued(welcome, "a")
        assert (mail.priority, mail.delay, mail.arguments) == ("high", 0.0, {"address": "a", "polite": True})
        assert box.assert_enqueued(remind, address="a").delay == 86400
        assert len(box.all_enqueued()) == 2
        box.assert_not_enqueued(flaky)
        with pytest.raises(AssertionError, match=r"was enqueued 0 times with \{'address': 'b'"):
            box.assert_enqueued(welcome, "b")
        with pytest.raises(AssertionError, match="was enqueued 1 times"):
            box.assert_not_enqueued(welcome)


def test_what_a_task_raises_is_raised_and_dealt_with_as_in_production():
    with sandbox(app) as box:
        flaky.enqueue(1)
        with pytest.raises(ConnectionError, match="down"):
            box.run_pending()
        assert box.run_pending() == []
        box.clock.advance("1m")
        (run,) = box.run_pending()
        assert (run.attempt, run.error) == (2, None)


def test_errors_can_be_left_in_the_runs_and_what_is_given_up_is_dead():
    with sandbox(app) as box:
        flaky.enqueue(9)
        refuses.enqueue()
        runs = box.run_pending(errors=False)
        assert {type(run.error) for run in runs} == {ConnectionError, Reject}
        box.clock.advance("1m")
        box.run_pending(errors=False)
        assert {(dead.task, dead.kind, dead.attempts) for dead in box.dead()} == {
            (flaky.name, "failed", 2),
            (refuses.name, "rejected", 1),
        }


def test_retry_and_reject_are_no_errors():
    with sandbox(app) as box:
        later.enqueue()
        refuses.enqueue()
        box.run_pending()
        box.clock.advance("10m")
        box.run_pending()
        assert done == ["later"]


def test_inline_runs_before_the_enqueue_returns():
    with sandbox(app, inline=True) as box:
        signup.enqueue("a")
        assert done == [("welcome", "a", True)]
        with pytest.raises(ConnectionError):
            flaky.enqueue(9)
        box.clock.advance("1d")
        box.run_pending(errors=False)
        assert ("remind", "a", 1) in done


async def test_on_a_running_loop():
    loops = set()

    @app.task(name=f"loops-{id(loops)}")
    async def where() -> None:
        loops.add(asyncio.get_running_loop())

    with sandbox(app, inline=True):
        await where.aenqueue()
        assert loops == {asyncio.get_running_loop()}
    with sandbox(app) as box:
        await remind.aenqueue("b")
        await box.arun_pending()
        assert done == [("remind", "b", 1)]
        assert box.dead() == []


def test_a_test_that_is_interrupted_leaves_no_engine_behind():
    @app.task(name="interrupts")
    def interrupts() -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with sandbox(app) as box:
        interrupts.enqueue()
        with pytest.raises(KeyboardInterrupt):
            box.run_pending()
    assert threading.active_count() <= before + 1, "the portal may stay, the engine's thread may not"


def test_boxes_are_apart_and_leave_the_application_as_it_was():
    with sandbox(app) as box:
        welcome.enqueue("a")
    with sandbox(app) as other:
        assert other.run_pending() == []
        assert other.all_enqueued() == []
    assert box.all_enqueued()
    assert app.url_of("mail") == "sqlite:////nor/here"


def test_the_fixture(cloudq_sandbox):
    box = cloudq_sandbox(app, clock=ManualClock(1_000_000.0))
    welcome.enqueue("a")
    box.run_pending()
    assert box.clock.time() == 1_000_000.0
    assert done


def boxed(body, **options):
    """An application of one coroutine task, in a box, enqueued."""
    here = CloudQ("sqlite:////nowhere/at/all.db")
    task = here.task(name="boxed", **options)(body)
    return here, task


def test_a_coroutine_that_cancels_itself_is_a_failure_and_no_endless_loop():
    async def cancels() -> None:
        raise asyncio.CancelledError

    here, task = boxed(cancels, retry=Backoff(max_attempts=2))
    with sandbox(here) as box:
        task.enqueue()
        assert len(box.run_pending(errors=False)) == 1


def test_a_timeout_is_raised_as_one():
    async def slow() -> None:
        await asyncio.sleep(5)

    here, task = boxed(slow, timeout="0.05s")
    with sandbox(here) as box:
        task.enqueue()
        with pytest.raises(TimeoutError, match=r"timed out after 0.05 s"):
            box.run_pending()


def test_a_middleware_that_fails_is_not_passed_over():
    def plain() -> None: ...

    here, task = boxed(plain)

    @here.middleware
    @contextmanager
    def closed(ctx):
        raise RuntimeError("closed")
        yield

    with sandbox(here) as box:
        task.enqueue()
        with pytest.raises(RuntimeError, match="closed"):
            box.run_pending()


async def test_a_test_that_is_cancelled_stops_running():
    async def endless() -> None:
        await asyncio.Event().wait()

    here, task = boxed(endless, timeout=None)
    with sandbox(here) as box:
        await task.aenqueue()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await box.arun_pending()
