"""Clocks that a test moves."""

from __future__ import annotations

from cloudq.clock import SystemClock


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds


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
