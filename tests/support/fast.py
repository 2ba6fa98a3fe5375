"""An event loop on which an hour takes half a minute, with real sockets: for what has to last as long as a task may.

Every timer of the loop and the clock of the application run `RATE` times as fast as the machine's. What waits elsewhere, in the
SDK or in a server, waits in real time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
RATE = 120.0
_start = time.monotonic()  # noqa: TID251  what is sped up is the real one


class FastClock:
    """Seconds that are short."""

    def __init__(self) -> None:
        self._epoch = time.time()  # noqa: TID251  as above

    def time(self) -> float:
        return self._epoch + self.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - _start) * RATE  # noqa: TID251  as above


class _Selector(selectors.DefaultSelector):
    def select(self, timeout=None):
        return super().select(timeout if timeout is None else timeout / RATE)


class FastLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        return (time.monotonic() - _start) * RATE  # noqa: TID251  as above


def run_fast(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a fast loop."""
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        return runner.run(work)
