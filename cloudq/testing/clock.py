"""A clock that stands still until it is moved."""

from __future__ import annotations

from datetime import UTC, datetime

from cloudq.durations import Duration, seconds


class ManualClock:
    """Hours pass when a test says so."""

    def __init__(self, now: datetime | float = 1_700_000_000.0) -> None:
        """Start at a time of day: an aware datetime, or seconds since the epoch."""
        self._now = now.timestamp() if isinstance(now, datetime) else now
        self._monotonic = 1000.0

    def time(self) -> float:
        """Return seconds since the epoch, UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since some moment."""
        return self._monotonic

    def now(self) -> datetime:
        """Return the time of day, UTC."""
        return datetime.fromtimestamp(self._now, UTC)

    def advance(self, duration: Duration) -> None:
        """Let so much time pass: "90s", a timedelta, or seconds."""
        self._now += seconds(duration)
        self._monotonic += seconds(duration)
