"""A runner that runs nothing: it hands each job to whoever asks, on the asker's thread."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from cloudq.context import Context
from cloudq.execution import Execution
from cloudq.outcome import NotRun, Outcome
from cloudq.worker.held import Held


class HandingRunner:
    """Stands between an engine on a thread of its own and a test that runs its jobs."""

    def __init__(self) -> None:
        """Nothing to run yet."""
        self.execution: Execution | None = None
        #: What the last run raised.
        self.raised: BaseException | None = None
        self._jobs: queue.SimpleQueue[Held | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: Callable[[Held, Outcome], None] | None = None
        self._error: BaseException | None = None
        self._at_hand: Held | None = None
        self._over = False
        self._broken_off = False
        #: Makes the engine end early.
        self.drain: Callable[[], None] = lambda: None

    # The engine's side --------------------------------------------------------------------------------------------------

    def of(self, execution: Execution) -> HandingRunner:
        """Serve this execution."""
        self.execution = execution
        return self

    def start(self, done: Callable[[Held, Outcome], None], failed: Callable[[BaseException], None]) -> None:  # noqa: ARG002  a Runner
        """Remember where to tell what ended."""
        self._loop, self._done = asyncio.get_running_loop(), done

    def submit(self, held: Held) -> None:
        """Offer it; when nobody asks any more, give it back."""
        if self._broken_off:
            asyncio.get_running_loop().call_soon(self._tell, held)
        else:
            self._jobs.put(held)

    def _tell(self, held: Held) -> None:
        assert self._done is not None
        self._done(held, NotRun())

    def begin_no_more(self) -> Sequence[Held]:
        """Nothing begins here by itself: the test asks for what is next."""
        return ()

    def cancel_all(self) -> None:
        """Nothing runs here."""

    def stop(self) -> None:
        """Nothing to let go of."""

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the engine to its end on this thread, and then say that no job comes any more."""
        try:
            asyncio.run(work)
        except BaseException as error:
            self._error = error
        finally:
            self._over = True
            self._jobs.put(None)

    # The test's side ----------------------------------------------------------------------------------------------------

    def next(self) -> Held | None:
        """Wait for a job; None when the engine has ended. Raises what broke it."""
        held = self._jobs.get()
        if held is None and self._error is not None:
            raise self._error
        self.raised = None
        self._at_hand = held
        return held

    def ended(self, held: Held, outcome: Outcome) -> None:
        """Give the outcome of a job back."""
        assert self._loop is not None
        assert self._done is not None
        self._at_hand = None
        self._loop.call_soon_threadsafe(self._done, held, outcome)

    def break_off(self) -> None:
        """Have the engine end, if it has not: the test was interrupted in the middle of a job."""
        if self._over or self._loop is None:
            return
        self._broken_off = True
        try:
            self._loop.call_soon_threadsafe(self.drain)
        except RuntimeError:
            return  # the loop is closed: the engine has ended meanwhile
        if self._at_hand is not None:
            self.ended(self._at_hand, NotRun(started=True))
        while True:
            try:
                held = self._jobs.get_nowait()
            except queue.Empty:
                return
            if held is not None:
                self._loop.call_soon_threadsafe(self._tell, held)

    @contextmanager
    def watch(self, _context: Context) -> Generator[None]:
        """See what comes of a run, after everything that translates it."""
        try:
            yield
        except BaseException as error:
            self.raised = error
            raise
