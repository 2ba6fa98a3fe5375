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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloudq.clock import Clock
from cloudq.context import Context
from cloudq.driver import Delivery, Limits
from cloudq.envelope import Envelope, Unreadable, decode
from cloudq.errors import ArgumentsError
from cloudq.events import Event, Events, Name
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


class Execution:
    """What the tasks of one application need to be run, wherever their messages come from."""

    def __init__(
        self, declared: Declared, clock: Clock, events: Events, draw: random.Random, unknown_grace: float = 3600.0
    ) -> None:
        """`draw` gives the jitter; `unknown_grace` is in seconds."""
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
                reading = Unreadable(str(error) if isinstance(error, ArgumentsError) else _said(error))
        policy = task.policy if task is not None else None
        verdict = admit(reading, delivery, policy, limits, self._clock.time(), self._unknown_grace)
        if not isinstance(verdict, Run):
            return verdict, envelope
        assert envelope is not None
        assert task is not None
        return Job(task, envelope, delivery, verdict.attempt, *arguments)

    def close(self, job: Job, outcome: Outcome, limits: Limits) -> Settlement:
        """Decide what follows the run."""
        return decide(outcome, job.envelope, job.delivery, job.task.policy, limits, self._clock.time(), self._draw.random())

    def run_sync(self, job: Job, lost: Callable[[], bool]) -> Outcome:
        """Run a `def` task on the calling thread."""
        self._started(job)
        try:
            context = self._context(job, lost)
            result = job.task.function(*context, *job.args, **job.kwargs)
        except BaseException as error:
            return _outcome_of(error)
        if inspect.iscoroutine(result):
            result.close()
            return Failed(f"{job.task.name} returned a coroutine that nobody would run. Declare it with `async def`.")
        return _outcome_of(result) if isinstance(result, (Retry, Reject)) else Succeeded()

    async def run_async(self, job: Job, lost: Callable[[], bool]) -> Outcome:
        """Run an `async def` task on the running loop, cancelled at its timeout. Being cancelled from outside is NotRun."""
        self._started(job)
        limit = asyncio.timeout(job.task.timeout)
        try:
            async with limit:
                context = self._context(job, lost)
                result = await job.task.function(*context, *job.args, **job.kwargs)
        except asyncio.CancelledError:
            return NotRun(started=True)
        except TimeoutError as error:
            if limit.expired():
                return Failed(f"timed out after {job.task.timeout:g} s", _trace_of(error))
            return _outcome_of(error)
        except BaseException as error:
            return _outcome_of(error)
        return _outcome_of(result) if isinstance(result, (Retry, Reject)) else Succeeded()

    def report(self, name: Name, job: Job, **detail: str | float) -> None:
        """Emit an event about this job."""
        self._events.emit(Event(name, self._clock.time(), job.task.queue, job.task.name, job.envelope.id, job.attempt, detail))

    def _started(self, job: Job) -> None:
        self.report(Name.STARTED, job)

    def _context(self, job: Job, lost: Callable[[], bool]) -> tuple[Context, ...]:
        if not job.task.signature.takes_context:
            return ()
        timeout = job.task.timeout
        return (
            Context(
                task=job.task.name,
                task_id=job.envelope.id,
                queue=job.task.queue,
                attempt=job.attempt,
                priority=job.envelope.priority,
                deadline=None if timeout is None else self._clock.time() + timeout,
                lost=lost,
            ),
        )


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case Retry():
            return Failed(error.reason, after=error.after)
        case Reject():
            return Rejected(error.reason)
        case _:
            return Failed(_said(error), _trace_of(error))


def _said(error: BaseException) -> str:
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
