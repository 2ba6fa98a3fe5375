"""What is done around a run, and at its end: order, errors, and no say in what becomes of the message."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, contextmanager, suppress

import msgspec
import pytest

from cloudq import Backoff, CloudQ, ConfigError, Context, Reject
from cloudq.driver import Delivery, Queue
from cloudq.envelope import Envelope, encode
from cloudq.events import Events, Name
from cloudq.execution import Execution, Job
from cloudq.outcome import Ack, Bury, Failed, GiveBack, Rejected, Succeeded
from cloudq_local.facts import LIMITS
from support.clocks import ManualClock


class Stage:
    """One application, whose tasks are run once each, at a given attempt."""

    def __init__(self):
        self.clock = ManualClock()
        self.app = CloudQ("memory://middleware", clock=self.clock)
        self.said = []
        self.events = []

    def noting(self, name, *, asynchronous=False):
        @contextmanager
        def both(ctx):
            self.said.append(f"{name} in {ctx.task}")
            try:
                yield
            except Exception as error:
                self.said.append(f"{name} saw {error}")
                raise
            finally:
                self.said.append(f"{name} out")

        @asynccontextmanager
        async def only_async(ctx):
            with both(ctx):
                yield

        return self.app.middleware(only_async if asynchronous else both)

    def run(self, task, attempt=1):
        events = Events()
        events.add(self.events.append)
        execution = Execution(self.app.declared, self.clock, events, random.Random(1), middleware=self.app.middlewares)
        body = encode(Envelope(cloudq=1, id="t", type=task.name, time=self.clock.time(), data=msgspec.Raw(b"{}")))
        job = execution.open(Delivery(Queue("main", "m"), body, None, attempt, 60.0, crashes=0), LIMITS)
        assert isinstance(job, Job)
        ended = (
            asyncio.run(execution.run_async(job, lambda: False)) if task.is_async else execution.run_sync(job, lambda: False)
        )
        return ended, execution.close(job, ended, LIMITS)


@pytest.fixture
def stage():
    return Stage()


def both_kinds(stage, body, **options):
    """The same body as a `def` and as an `async def` task."""

    @stage.app.task(name="sync", **options)
    def sync(ctx: Context) -> object:
        return body(ctx)

    @stage.app.task(name="coroutine", **options)
    async def coroutine(ctx: Context) -> object:
        await asyncio.sleep(0)
        return body(ctx)

    return sync, coroutine


def fails(_ctx):
    raise ValueError("no")


def test_the_first_is_the_outermost(stage):
    stage.noting("a")
    stage.noting("b")
    for task in both_kinds(stage, lambda ctx: stage.said.append("run")):
        stage.said.clear()
        assert stage.run(task) == (Succeeded(), Ack())
        assert stage.said == [f"a in {task.name}", f"b in {task.name}", "run", "b out", "a out"]


def test_they_see_what_the_task_raises(stage):
    stage.noting("a")
    for task in both_kinds(stage, fails):
        stage.said.clear()
        outcome, settlement = stage.run(task)
        assert isinstance(outcome, Failed)
        assert isinstance(settlement, GiveBack)
        assert stage.said[1:] == ["a saw no", "a out"]


def test_one_may_turn_an_error_into_a_rejection(stage):
    @stage.app.middleware
    @contextmanager
    def translate(ctx):
        try:
            yield
        except ValueError as error:
            raise Reject("bad value") from error

    for task in both_kinds(stage, fails):
        assert stage.run(task)[0] == Rejected("bad value")


def test_one_may_keep_a_task_from_running(stage):
    @stage.app.middleware
    @contextmanager
    def closed(ctx):
        raise RuntimeError("closed today")
        yield

    ran = []
    for task in both_kinds(stage, ran.append):
        outcome, _ = stage.run(task)
        assert "closed today" in outcome.error
    assert not ran


def test_what_one_swallows_has_succeeded(stage):
    stage.app.middleware(lambda ctx: suppress(ValueError))
    for task in both_kinds(stage, fails):
        assert stage.run(task) == (Succeeded(), Ack())


def test_an_asynchronous_one_serves_async_tasks_and_fails_others(stage):
    stage.noting("a", asynchronous=True)
    sync, coroutine = both_kinds(stage, lambda ctx: None)
    assert stage.run(coroutine)[0] == Succeeded()
    outcome, settlement = stage.run(sync)
    assert "is asynchronous, and sync is a `def` task" in outcome.error
    assert isinstance(settlement, GiveBack)


def test_on_success_gets_what_was_returned_before_the_ack(stage):
    got = []
    for task in both_kinds(stage, lambda ctx: 42, on_success=lambda ctx, result: got.append((ctx.task, result))):
        assert stage.run(task)[1] == Ack()
    assert got == [("sync", 42), ("coroutine", 42)]


def test_on_failure_comes_with_the_last_failure_only(stage):
    got = []
    retry = Backoff(max_attempts=2)
    for task in both_kinds(stage, fails, retry=retry, on_failure=lambda ctx, error: got.append((ctx.attempt, str(error)))):
        got.clear()
        assert isinstance(stage.run(task, attempt=1)[1], GiveBack)
        assert not got
        assert isinstance(stage.run(task, attempt=2)[1], Bury)
        assert got == [(2, "no")]


def test_on_failure_comes_with_a_rejection(stage):
    got = []

    def rejects(_ctx):
        raise Reject("never")

    for task in both_kinds(stage, rejects, on_failure=lambda ctx, error: got.append(str(error))):
        assert isinstance(stage.run(task)[1], Bury)
    assert got == ["never", "never"]


def test_a_hook_that_fails_changes_nothing_and_is_reported(stage):
    def broken(ctx, result):
        raise RuntimeError("hook")

    for task in both_kinds(stage, lambda ctx: 1, on_success=broken):
        stage.events.clear()
        assert stage.run(task) == (Succeeded(), Ack())
        (event,) = [event for event in stage.events if event.name is Name.HOOK_FAILED]
        assert event.detail["error"] == "RuntimeError: hook"


def test_a_hook_of_an_async_task_may_be_a_coroutine(stage):
    got = []

    async def hook(ctx, result):
        await asyncio.sleep(0)
        got.append(result)

    @stage.app.task(name="x", on_success=hook)
    async def x() -> int:
        return 5

    stage.run(x)
    assert got == [5]

    with pytest.raises(ConfigError, match="nothing would run it"):

        @stage.app.task(name="y", on_success=hook)
        def y() -> None: ...


def test_the_decision_is_of_the_moment_in_which_the_hook_was_called(stage):
    """Else a task could be given up at its max_age without the hook having been called, or the other way round."""
    got = []

    def slow_hook(ctx, error):
        got.append(error)

    retry = Backoff(max_age="10s", max_attempts=9)

    @stage.app.task(name="old", retry=retry, on_failure=slow_hook)
    def old() -> None:
        raise ValueError("no")

    events = Events()
    execution = Execution(stage.app.declared, stage.clock, events, random.Random(1))
    body = encode(Envelope(cloudq=1, id="t", type="old", time=stage.clock.time(), data=msgspec.Raw(b"{}")))
    job = execution.open(Delivery(Queue("main", "m"), body, None, 1, 60.0, crashes=0), LIMITS)
    outcome = execution.run_sync(job, lambda: False)
    stage.clock.advance(11)
    assert isinstance(execution.close(job, outcome, LIMITS), GiveBack)
    assert not got


@pytest.mark.parametrize("wrong", [{"isolate": True}, {"max_concurrency": 0}])
def test_options_that_cannot_be_kept_are_refused_where_they_are_written(stage, wrong):
    with pytest.raises(ConfigError):

        @stage.app.task(**wrong)
        def inner() -> None: ...


def test_a_hook_that_is_cancelled_by_its_own_doing_has_no_say_either(stage):
    async def hook(ctx, result):
        other = asyncio.ensure_future(asyncio.sleep(9))
        other.cancel()
        await other

    @stage.app.task(name="x", on_success=hook, retry=Backoff(max_attempts=1))
    async def x() -> None: ...

    assert stage.run(x) == (Succeeded(), Ack())
    assert Name.HOOK_FAILED in [event.name for event in stage.events]


def test_a_coroutine_that_cancels_itself_has_failed_and_its_hook_is_called(stage):
    got = []

    @stage.app.task(name="x", on_failure=lambda ctx, error: got.append(error), retry=Backoff(max_attempts=1))
    async def x() -> None:
        raise asyncio.CancelledError

    outcome, settlement = stage.run(x)
    assert isinstance(outcome, Failed)
    assert isinstance(settlement, Bury)
    assert len(got) == 1


def test_reject_takes_an_exception_for_its_reason(stage):
    def rejects(_ctx):
        raise Reject(ValueError("no"))

    for task in both_kinds(stage, rejects):
        assert stage.run(task)[0] == Rejected("no")


def test_a_bare_generator_is_refused_where_it_is_added(stage):
    with pytest.raises(ConfigError, match=r"write @contextmanager \(from contextlib\) between"):

        @stage.app.middleware
        def forgot(ctx):
            yield

    stage.app.middleware(lambda ctx: None)
    for task in both_kinds(stage, lambda ctx: None):
        assert "returned NoneType, which is no context manager" in stage.run(task)[0].error
