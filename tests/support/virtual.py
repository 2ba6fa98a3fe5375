"""An event loop on which time passes only when nothing else can happen.

When no callback is ready, the clock jumps to the next timer. Hours pass in milliseconds, and the same program gives the same
trace. Nothing ready and no timer is a deadlock, and raised as one. No threads, no sockets in here.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Nothing is ready and no timer is set: everybody waits for somebody."""


class Standstill(Exception):
    """Always something is ready, and no time passes: somebody does the same thing again and again."""


#: Turns of the loop at one moment, at the most.
_MOST_TURNS = 100_000


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    turns = 0

    def select(self, timeout=None):
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            self.turns += 1
            if self.turns > _MOST_TURNS:
                raise Standstill
            return ready
        if timeout is None:
            raise Deadlock
        self.loop.now += timeout
        self.turns = 0
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now


class VirtualClock:
    """The wall clock starts at a round number; both go with the loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        return 1_700_000_000.0 + self._loop.now

    def monotonic(self) -> float:
        return self._loop.now


def run(make: Any) -> Any:
    """Run `make(clock)`, a coroutine, to its end in virtual time."""
    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    try:
        work: Coroutine[Any, Any, Any] = make(VirtualClock(loop))
        return loop.run_until_complete(work)
    finally:
        # In rounds: a task that is cancelled may begin others on its way out.
        for _ in range(100):
            left = [task for task in asyncio.all_tasks(loop) if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            with contextlib.suppress(Deadlock):
                loop.run_until_complete(_ended(left))
        loop.close()


def virtually(test: Any) -> Any:
    """Run a test `async def test(clock, ...)` in virtual time; its other arguments come from pytest."""

    def run_it(**arguments: Any) -> None:
        run(lambda clock: test(clock, **arguments))

    signature = inspect.signature(test)
    run_it.__name__, run_it.__doc__ = test.__name__, test.__doc__
    others = [parameter for name, parameter in signature.parameters.items() if name != "clock"]
    run_it.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]  # what pytest reads
    return run_it


async def _ended(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
