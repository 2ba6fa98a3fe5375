"""Time as a parameter. Everything in cloudq that reads a clock is handed one, so tests and simulation own the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks, because they answer different questions.

    `time()` is what the world agrees on and may jump: due times, expiry, timestamps that cross processes.
    `monotonic()` never jumps and means nothing elsewhere: leases, timeouts, lingers.
    """

    def time(self) -> float:
        """Return seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def time(self) -> float:
        """Return seconds since the epoch, UTC."""
        return time.time()  # noqa: TID251  this is the one place where the real clock is read

    def monotonic(self) -> float:
        """Return seconds on the machine's monotonic clock."""
        return time.monotonic()  # noqa: TID251  this is the one place where the real clock is read
