"""One message, from its bytes to the settlement that it calls for. Whoever receives messages, receives them through here.

open    bytes -> envelope -> task -> `admit`: a Job to run, or a settlement at once
run     the user's function, its exceptions caught -> an outcome
close   `decide`: the outcome -> a settlement
"""

from __future__ import annotations

import asyncio
import inspect
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.clock import Clock
from cloudq.context import Context
from cloudq.driver import Delivery, Limits, Queue
from cloudq.envelope import Envelope, Unreadable, decode
from cloudq.errors import ArgumentsError
from cloudq.events import Event, Events, Name
from cloudq.middleware import Middleware, around, around_async
from cloudq.outcome import (
    Failed,
    NotRun,
    Outcome,
    Reject,
    Rejected,
    Retry,
    Run,
    Settlement,
    Succeeded,
    admit,
    decide,
    gives_up,
)
from cloudq.task import Declared, Task

#: Lines of a traceback that are kept: the end is where the mistake is.
_TRACE_LINES = 40


@dataclass(slots=True, eq=False)
class Job:
    """A task ready to run, with everything its run needs."""

    task: Task[Any, Any]
    envelope: Envelope
    delivery: Delivery
    attempt: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: When its run ended, in seconds since the epoch: what follows is decided as of then.
    ended_at: float | None = None

    def call(self, context: Context) -> Any:
        """Call the task's function."""
        if self.task.signature.takes_context:
            return self.task.function(context, *self.args, **self.kwargs)
        return self.task.function(*self.args, **self.kwargs)


class Execution:
    """What the tasks of one application need to be run, wherever their messages come from."""

    def __init__(
        self,
        declared: Declared,
        clock: Clock,
        events: Events,
        draw: random.Random,
        unknown_grace: float = 3600.0,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        """`draw` gives the jitter; `unknown_grace` is in seconds; the first middleware is the outermost."""
        self._middleware = middleware
        self._declared = declared
        self._clock = clock
        self._events = events
        self._draw = draw
        self._unknown_grace = unknown_grace

    def open(self, delivery: Delivery, limits: Limits) -> Job | tuple[Settlement, Envelope | None]:
        """Read a message. Returns the job to run, or what to do with the message instead, with what could be read of it."""
        reading = decode(delivery.body)
        task = self._declared.get(reading.type) if isinstance(reading, Envelope) else None
        arguments: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        envelope = reading if isinstance(reading, Envelope) else None
        if envelope is not None and task is not None:
            try:
                arguments = task.signature.decode(bytes(envelope.data))
            except Exception as error:
                reading = Unreadable(str(error) if isinstance(error, ArgumentsError) else said(error))
        policy = task.policy if task is not None else None
        verdict = admit(reading, delivery, policy, limits, self._clock.time(), self._unknown_grace)
        if not isinstance(verdict, Run):
            return verdict, envelope
        assert envelope is not None
        assert task is not None
        return Job(task, envelope, delivery, verdict.attempt, *arguments)

    def cap_of(self, task: str) -> int | None:
        """Return how many of a task may run at once, None for any number."""
        declared = self._declared.get(task)
        return None if declared is None else declared.max_concurrency

    def reopen(self, task: Task[Any, Any], body: bytes, attempt: int) -> Job:
        """Read a message that was admitted elsewhere, for a run in another process."""
        envelope = decode(body)
        assert isinstance(envelope, Envelope), "it was read before"
        args, kwargs = task.signature.decode(bytes(envelope.data))
        return Job(task, envelope, Delivery(Queue(task.queue, ""), body, None, attempt, 0.0), attempt, args, kwargs)

    def close(self, job: Job, outcome: Outcome, limits: Limits) -> Settlement:
        """Decide what follows the run."""
        now = self._clock.time() if job.ended_at is None else job.ended_at
        return decide(outcome, job.envelope, job.delivery, job.task.policy, limits, now, self._draw.random())

    def run_sync(self, job: Job, lost: Callable[[], bool]) -> Outcome:
        """Run a `def` task on the calling thread."""
        self.started(job)
        context = self.context(job, lost)
        result: Any = None
        error: BaseException | None = None
        try:
            if self._middleware:
                with around(self._middleware, context):
                    result = job.call(context)
            else:
                result = job.call(context)
        except BaseException as raised:
            error = raised
        if inspect.iscoroutine(result):
            result.close()
            error = TypeError(f"{job.task.name} returned a coroutine that nobody would run. Declare it with `async def`.")
        outcome = _outcome_of(result if error is None else error)
        hook = self._hook(job, outcome)
        if hook is not None:
            try:
                hook(context, result if error is None else error)
            except BaseException as failed:
                self.hook_failed(job, said(failed), _trace_of(failed))
        return outcome

    async def run_async(self, job: Job, lost: Callable[[], bool]) -> Outcome:
        """Run an `async def` task on the running loop, cancelled at its timeout. Being cancelled from outside is NotRun."""
        self.started(job)
        context = self.context(job, lost)
        limit = asyncio.timeout(job.task.timeout)
        result: Any = None
        error: BaseException | None = None
        try:
            async with limit:
                if self._middleware:
                    async with around_async(self._middleware, context):
                        result = await job.call(context)
                else:
                    result = await job.call(context)
        except BaseException as raised:
            if _cancelled_from_outside(raised):
                return NotRun(started=True)
            error = raised
        timed_out = isinstance(error, TimeoutError) and limit.expired()
        outcome = (
            Failed(f"timed out after {job.task.timeout:g} s", _trace_of(error))
            if timed_out and error is not None
            else _outcome_of(result if error is None else error)
        )
        hook = self._hook(job, outcome)
        if hook is not None:
            try:
                called = hook(context, result if error is None else error)
                if inspect.isawaitable(called):
                    await called
            except BaseException as failed:
                if _cancelled_from_outside(failed):
                    return NotRun(started=True)
                self.hook_failed(job, said(failed), _trace_of(failed))
        return outcome

    def failed_outside(self, job: Job, outcome: Outcome, lost: Callable[[], bool]) -> None:
        """Do what follows a run that could not do it itself, because its process is gone."""
        hook = self._hook(job, outcome)
        if hook is not None and isinstance(outcome, Failed):
            try:
                called = hook(self.context(job, lost), ChildProcessError(outcome.error))
                if inspect.isawaitable(called):
                    asyncio.run(_awaited(called))
            except BaseException as failed:
                self.hook_failed(job, said(failed), _trace_of(failed))

    def context(self, job: Job, lost: Callable[[], bool]) -> Context:
        """Return what the run may know about itself."""
        timeout = job.task.timeout
        return Context(
            task=job.task.name,
            task_id=job.envelope.id,
            queue=job.task.queue,
            attempt=job.attempt,
            priority=job.envelope.priority,
            deadline=None if timeout is None else self._clock.time() + timeout,
            lost=lost,
        )

    def report(self, name: Name, job: Job, **detail: str | float) -> None:
        """Emit an event about this job."""
        self._events.emit(Event(name, self._clock.time(), job.task.queue, job.task.name, job.envelope.id, job.attempt, detail))

    def started(self, job: Job) -> None:
        """Report that a run begins."""
        self.report(Name.STARTED, job)

    def _hook(self, job: Job, outcome: Outcome) -> Callable[[Context, Any], Any] | None:
        """Return the hook that this end of the run calls for: a failure's only when the task is given up."""
        job.ended_at = self._clock.time()
        match outcome:
            case Succeeded():
                return job.task.on_success
            case Failed() | Rejected() if job.task.on_failure is not None:
                last = gives_up(outcome, job.envelope, job.attempt, job.task.policy, job.ended_at)
                return job.task.on_failure if last is not None else None
            case _:
                return None

    def hook_failed(self, job: Job, error: str, trace: str = "") -> None:
        """Report that a hook raised. It has no say in what becomes of the task."""
        self.report(Name.HOOK_FAILED, job, error=error, trace=trace)


def _cancelled_from_outside(error: BaseException) -> bool:
    """Tell a worker that ends from code that cancels itself, or awaits what was: that is a failure like any other."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _awaited(called: Awaitable[Any]) -> None:
    await called


def _outcome_of(end: object) -> Outcome:
    """Return the outcome of a run that returned or raised this. Retry and Reject may be returned as well as raised."""
    match end:
        case Retry():
            return Failed(end.reason, after=end.after)
        case Reject():
            return Rejected(end.reason)
        case BaseException():
            return Failed(said(end), _trace_of(end))
        case _:
            return Succeeded()


def said(error: BaseException) -> str:
    """Return what the error says. One that cannot even say it must not decide what becomes of its message."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__} (it cannot be printed)"


def _trace_of(error: BaseException) -> str:
    try:
        lines = "".join(traceback.format_exception(error)).splitlines()
    except Exception:
        return ""
    return "\n".join(lines[-_TRACE_LINES:])
