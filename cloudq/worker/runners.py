"""Where tasks run: never on the loop that keeps the leases.

`def` tasks run in a pool of threads that pull from a queue; `async def` tasks on a second loop in a thread of its own, so that
one that blocks holds up its like and no lease. What ends is handed to the control loop in batches: it is woken once, however
many ended meanwhile.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from cloudq.clock import Clock
from cloudq.execution import Execution
from cloudq.outcome import Failed, Outcome
from cloudq.worker.held import Held
from cloudq.worker.isolation import Isolation

Done = Callable[[Held, Outcome], None]


class Runner(Protocol):
    """Runs jobs elsewhere. Injected, so that a simulation can run them in virtual time."""

    def start(self, done: Done, failed: Callable[[BaseException], None]) -> None:
        """Get ready. `done` is called on the running loop for every job; `failed` when the runner itself breaks."""
        ...

    def submit(self, held: Held) -> None:
        """Run `held.job`. Call from the control loop."""
        ...

    def begin_no_more(self) -> Sequence[Held]:
        """Return what has not begun: it is the caller's again. Call from the control loop; nothing is submitted after it."""
        ...

    def cancel_all(self) -> None:
        """Cancel what can be cancelled: it ends as NotRun. What cannot goes on until the process ends."""
        ...

    def stop(self) -> None:
        """Take no more work, and let go of the threads."""
        ...


class _Completions:
    """Carries outcomes from any thread to the control loop, waking it once per batch."""

    def __init__(self, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self._loop = loop
        self._done = done
        self._ended: deque[tuple[Held, Outcome]] = deque()
        self._lock = threading.Lock()
        self._woken = False

    def put(self, held: Held, outcome: Outcome) -> None:
        with self._lock:
            self._ended.append((held, outcome))
            if self._woken:
                return
            self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return  # the loop is closed: a task went on past the end of its worker, and its lease brings it back

    def _deliver(self) -> None:
        with self._lock:
            self._woken = False
            ended, self._ended = self._ended, deque()
        for held, outcome in ended:
            self._done(held, outcome)


class _Jobs:
    """What waits for a thread. One thread is woken, and it wakes the next while there is more: short tasks are run by one.

    Waking a thread for each job, as a queue does, has them all wait for the interpreter's lock; with tasks that take
    microseconds, that was more than half of what a worker did.
    """

    def __init__(self) -> None:
        self._waiting: deque[Held] = deque()
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()
        #: A token is on its way, and whoever takes it looks at all that waits.
        self._waking = False

    def put(self, held: Held) -> None:
        self._waiting.append(held)
        self._wake()

    def get(self) -> Held | None:
        """Return the next job, waiting for it, or None at the end."""
        while True:
            try:
                held = self._waiting.popleft()
            except IndexError:
                more = self._tokens.get()
                # Before it looks: what is put from here on sends a token of its own.
                self._waking = False
                if not more:
                    return None
            else:
                if self._waiting:
                    self._wake()
                return held

    def take_all(self) -> list[Held]:
        """Return what no thread has taken: each job has one taker."""
        taken = list[Held]()
        while True:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:
                return taken

    def end(self) -> None:
        """Let one thread end."""
        self._tokens.put(False)

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            self._tokens.put(True)


class ThreadRunner:
    """The runner of real workers."""

    def __init__(self, execution: Execution, threads: int, clock: Clock) -> None:
        """`threads` bounds the pool for `def` and isolated tasks; they are started as they are needed."""
        self._execution = execution
        self._isolation = Isolation(execution, clock)
        self._most = threads
        self._jobs = _Jobs()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._completions: _Completions | None = None
        self._failed: Callable[[BaseException], None] | None = None
        self._control: asyncio.AbstractEventLoop | None = None
        self._async = _AsyncThread(execution)

    def start(self, done: Done, failed: Callable[[BaseException], None]) -> None:
        """Remember the running loop as the control loop."""
        self._control = asyncio.get_running_loop()
        self._failed = failed
        self._completions = _Completions(self._control, self._one_less(done))
        self._async.start(self._completions, self._broke)

    def submit(self, held: Held) -> None:
        """Hand over to the pool or to the task loop."""
        if not _threaded(held):
            self._async.submit(held)
            return
        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, name=f"cloudq-task-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(held)

    def begin_no_more(self) -> Sequence[Held]:
        """What waits for a thread, or for a loop that a task blocks, would begin in the middle of the grace, or never."""
        self._isolation.begin_no_more()
        return [*self._jobs.take_all(), *self._async.take_all()]

    def cancel_all(self) -> None:
        """Coroutines are cancelled and isolated tasks killed; nothing is injected into a thread."""
        self._async.cancel_all()
        self._isolation.cancel_all()

    def stop(self) -> None:
        """The threads are daemons: one in the middle of a task ends with the process. What waits is left to its lease."""
        self._jobs.take_all()
        self._async.take_all()
        for _ in self._threads:
            self._jobs.end()
        self._async.stop()
        self._isolation.stop()

    def _serve(self) -> None:
        assert self._completions is not None
        try:
            while (held := self._jobs.get()) is not None:
                self._completions.put(held, self._run(held))
        except BaseException as error:
            self._broke(error)

    def _run(self, held: Held) -> Outcome:
        assert held.job is not None
        if held.job.task.isolate:
            return self._isolation.run(held)
        return self._execution.run_sync(held.job, held.told_lost)

    def _one_less(self, done: Done) -> Done:
        def count_and_tell(held: Held, outcome: Outcome) -> None:
            if _threaded(held):
                self._busy -= 1
            done(held, outcome)

        return count_and_tell

    def _broke(self, error: BaseException) -> None:
        assert self._control is not None
        assert self._failed is not None
        self._control.call_soon_threadsafe(self._failed, error)


def _threaded(held: Held) -> bool:
    """Tell whether a thread of the pool runs it: a `def`, or one that waits for a process."""
    assert held.job is not None
    return held.job.task.isolate or not held.job.task.is_async


class _AsyncThread:
    """The loop on which `async def` tasks run. Started at the first of them."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived: deque[Held] = deque()
        #: What has not begun. Who takes it out, to begin it or to give it back, has it.
        self._waiting: dict[Held, None] = {}
        self._lock = threading.Lock()
        self._woken = False

    def start(self, completions: _Completions, broke: Callable[[BaseException], None]) -> None:
        self._completions = completions
        self._broke = broke

    def submit(self, held: Held) -> None:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._serve, args=(self._loop,), name="cloudq-task-loop", daemon=True).start()
        with self._lock:
            self._arrived.append(held)
            self._waiting[held] = None
            if self._woken:
                return
            self._woken = True
        self._loop.call_soon_threadsafe(self._begin)

    def take_all(self) -> list[Held]:
        with self._lock:
            taken, self._waiting = list(self._waiting), {}
        return taken

    def cancel_all(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        except BaseException as error:
            self._broke(error)
        else:
            loop.close()

    def _begin(self) -> None:
        with self._lock:
            self._woken = False
            arrived, self._arrived = [held for held in self._arrived if held in self._waiting], deque()
        assert self._loop is not None
        for held in arrived:
            task = self._loop.create_task(self._run(held))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, held: Held) -> None:
        assert held.job is not None
        with self._lock:
            if held not in self._waiting:
                return  # given back: the loop was blocked until after the drain
            del self._waiting[held]
        # Whatever goes wrong below must count, or the task would come back at once, for ever.
        outcome: Outcome = Failed("its run was broken off")
        try:
            outcome = await self._execution.run_async(held.job, held.told_lost)
        finally:
            self._completions.put(held, outcome)

    def _cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()
