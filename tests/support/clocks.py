"""Clocks that a test moves."""

from __future__ import annotations

from cloudq.clock import SystemClock
from cloudq.testing import ManualClock

__all__ = ["JumpingClock", "ManualClock"]


class JumpingClock:
    """Goes with the real one, and can be moved ahead: a lease of a minute ends at once, and waits still end by themselves."""

    def __init__(self) -> None:
        self._real = SystemClock()
        self._ahead = 0.0

    def time(self) -> float:
        return self._real.time() + self._ahead

    def monotonic(self) -> float:
        return self._real.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds
