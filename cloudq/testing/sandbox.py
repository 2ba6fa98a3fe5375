"""An application in a box: the shipped engine on queues in memory, its tasks run by the test and on the test's own thread."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

from cloudq.app import CloudQ
from cloudq.config import PriorityName
from cloudq.deadletters import look, open_letter
from cloudq.driver import Part
from cloudq.execution import Execution, Job
from cloudq.outcome import Failed, Outcome, Reject, Retry
from cloudq.task import Message, Receipt, Task
from cloudq.testing.clock import ManualClock
from cloudq.testing.handing import HandingRunner
from cloudq.worker.held import Held
from cloudq.worker.process import engine_of, plan

P = ParamSpec("P")
T = TypeVar("T")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """One enqueue that was confirmed. `arguments` are by name, as the task will get them; `delay` is in seconds."""

    task: Task[Any, Any]
    task_id: str
    arguments: dict[str, Any]
    delay: float
    at: datetime | None
    priority: PriorityName
    expires: float | datetime | None
    ordering_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run. `error` is what came of it, middleware included; None where the task returned."""

    task: str
    task_id: str
    attempt: int
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """One dead letter."""

    task: str
    task_id: str
    kind: str
    reason: str
    attempts: int


@contextmanager
def sandbox(
    app: CloudQ, *, inline: bool = False, clock: ManualClock | None = None, like: str | None = None
) -> Generator[Sandbox]:
    """Put an application in a box for the length of a block: its queues are empty, in memory, and gone at the end.

    Nothing runs until the box is told to; with `inline`, every enqueue runs its task (and what that enqueues) before it
    returns, and raises what the task raises. `like` names a provider, as in `memory://?as=<provider>`: its limits then hold.
    """
    box = Sandbox(app, clock or ManualClock(), inline=inline)
    url = f"memory://sandbox-{next(_numbers)}" + (f"?as={like}" if like else "")
    with app.moved(url, box.clock, box):
        yield box


class Sandbox:
    """What a test holds in its hands; made by `sandbox`."""

    def __init__(self, app: CloudQ, clock: ManualClock, *, inline: bool) -> None:
        """Use `sandbox(app)`."""
        self.clock = clock
        self._app = app
        self._inline = inline
        self._seen: list[Enqueued] = []
        self._running = False

    # What was enqueued ------------------------------------------------------------------------------------------------

    def all_enqueued(self, task: Task[Any, Any] | None = None) -> list[Enqueued]:
        """Return what was enqueued, in order: all of it, or of one task."""
        return [each for each in self._seen if task is None or each.task is task]

    def assert_enqueued(self, task: Task[P, Any], *args: P.args, **kwargs: P.kwargs) -> Enqueued:
        """Return the one enqueue of the task with these arguments. AssertionError when there is none, or more than one."""
        wanted = task.signature.by_name(task.signature.encode(args, kwargs))
        found = [each for each in self.all_enqueued(task) if each.arguments == wanted]
        if len(found) != 1:
            others = [each.arguments for each in self.all_enqueued(task)]
            instead = f"it was with {others}" if others else f"enqueued were: {self._names() or 'no tasks'}"
            raise AssertionError(f"{task.name} was enqueued {len(found)} times with {wanted}; {instead}")
        return found[0]

    def assert_not_enqueued(self, task: Task[Any, Any]) -> None:
        """AssertionError when the task was enqueued at all."""
        found = self.all_enqueued(task)
        assert not found, f"{task.name} was enqueued {len(found)} times: {[each.arguments for each in found]}"

    # Running it -------------------------------------------------------------------------------------------------------

    def run_pending(self, *, errors: bool = True) -> list[Ran]:
        """Run what is due, and what it enqueues, one after the other on this thread. Returns the runs, in order.

        What a task raises is dealt with as in production (a retry is due later: move the clock), and then raised here, so
        that no test passes over it; `errors=False` leaves it in the returned runs. `Retry` and `Reject` are no errors.
        Isolated tasks are run here too.
        """
        ran: list[Ran] = []
        with self._engine() as runner, asyncio.Runner() as own:
            while (held := runner.next()) is not None:
                execution, job = _at_hand(runner, held)
                outcome = (
                    own.run(execution.run_async(job, held.told_lost))
                    if job.task.is_async
                    else execution.run_sync(job, held.told_lost)
                )
                ran.append(_noted(runner, held, job, outcome))
        return _checked(ran, errors=errors)

    async def arun_pending(self, *, errors: bool = True) -> list[Ran]:
        """As `run_pending`, with `async def` tasks on the running loop. A `def` task holds it up meanwhile."""
        ran: list[Ran] = []
        with self._engine() as runner:
            while (held := await asyncio.to_thread(runner.next)) is not None:
                execution, job = _at_hand(runner, held)
                outcome = (
                    await execution.run_async(job, held.told_lost)
                    if job.task.is_async
                    else execution.run_sync(job, held.told_lost)
                )
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise asyncio.CancelledError  # the run has eaten what was meant for the test
                ran.append(_noted(runner, held, job, outcome))
        return _checked(ran, errors=errors)

    def dead(self) -> list[Dead]:
        """Return the dead letters of all queues."""
        return _apart(self._look())

    # The application tells --------------------------------------------------------------------------------------------

    def enqueued(self, message: Message, receipt: Receipt) -> None:  # noqa: ARG002  an Observer
        """A message is confirmed."""
        task, options = message.task, message.options
        self._seen.append(
            Enqueued(
                task=task,
                task_id=message.task_id,
                arguments=task.signature.by_name(message.data),
                delay=options.delay,
                at=options.at,
                priority=options.priority,
                expires=options.expires,
                ordering_key=options.ordering_key,
            )
        )

    def returning(self) -> None:
        """A blocking enqueue returns; inline, its task runs first."""
        if self._inline and not self._running:
            self.run_pending()

    async def areturning(self) -> None:
        """An awaited enqueue returns; inline, its task runs first."""
        if self._inline and not self._running:
            await self.arun_pending()

    # The engine -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _engine(self) -> Generator[HandingRunner]:
        """Have the engine on a thread of its own, until it finds nothing more that is due."""
        runner = HandingRunner()
        thread = threading.Thread(target=runner.keep, args=(self._work(runner),), name="cloudq-sandbox", daemon=True)
        self._running = True
        thread.start()
        try:
            yield runner
        finally:
            self._running = False
            runner.break_off()
            thread.join()

    async def _work(self, runner: HandingRunner) -> None:
        work = plan(self._app, concurrency=1, burst=True)
        while True:
            # One after the other: what the pump forwards is run by an engine that has not yet found the queues empty.
            async with engine_of(self._app, work, runner.of, [runner.watch]) as engine:
                forwarded = await engine.pump_once()
                runner.drain = engine.drain
                await engine.run()
            if not forwarded:
                return

    async def _look(self) -> list[Dead]:
        found: list[Dead] = []
        for name in self._app.queue_names():
            async with self._app.driver(self._app.url_of(name)) as driver:
                letters = [open_letter(each) for each in await look(driver, self._app.address(name, Part.DEAD), 10_000)]
            found += [
                Dead(
                    task=letter.task,
                    task_id=letter.task_id,
                    kind=letter.record.kind,
                    reason=letter.record.reason,
                    attempts=letter.record.attempts,
                )
                for letter in letters
            ]
        return found

    def _names(self) -> list[str]:
        return sorted({each.task.name for each in self._seen})


def _at_hand(runner: HandingRunner, held: Held) -> tuple[Execution, Job]:
    assert runner.execution is not None
    assert held.job is not None
    return runner.execution, held.job


def _noted(runner: HandingRunner, held: Held, job: Job, outcome: Outcome) -> Ran:
    error = runner.raised
    if isinstance(outcome, Failed) and (error is None or isinstance(error, asyncio.CancelledError)):
        # Cancelled at its timeout: what the task saw is no error that a test could read.
        error = TimeoutError(outcome.error)
    runner.ended(held, outcome)
    if isinstance(error, KeyboardInterrupt):
        raise error
    return Ran(task=job.task.name, task_id=job.envelope.id, attempt=job.attempt, error=error)


def _checked(ran: list[Ran], *, errors: bool) -> list[Ran]:
    for run in ran if errors else ():
        if run.error is not None and not isinstance(run.error, (Retry, Reject)):
            raise run.error
    return ran


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Run on a thread of its own: the caller may be on a loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
