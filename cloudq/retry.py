"""When a failed task runs again: the policy. Whether it does is decided in `cloudq.outcome`."""

from __future__ import annotations

from dataclasses import dataclass

from cloudq.durations import Duration, seconds, spoken
from cloudq.errors import ConfigError, names_options


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential backoff with equal jitter: half of the delay is fixed, half is drawn.

    The defaults ride out an outage of hours: 15 attempts from 15 s to 4 h apart, about a day in all. `max_age` counts from
    the moment the task was due; a task that fails after it is given up however few its attempts were, because some
    providers count attempts only roughly. Durations are "90s", "15m", a timedelta or seconds.
    """

    max_attempts: int = 15
    first: Duration = "15s"
    factor: float = 3.0
    cap: Duration = "4h"
    max_age: Duration = "36h"

    def __post_init__(self) -> None:
        """Refuse what makes no policy."""
        if type(self.max_attempts) is not int or type(self.factor) not in (int, float):
            raise ConfigError(f"max_attempts = {self.max_attempts!r} is a whole number, factor = {self.factor!r} a number.")
        if self.max_attempts < 1:
            raise ConfigError(f"max_attempts = {self.max_attempts}: a task is run at least once. Use 1 for no retry.")
        if self.factor < 1:
            raise ConfigError(f"factor = {self.factor}: a backoff does not shrink. Use 1 or more.")
        if seconds(self.first, "first") > seconds(self.cap, "cap"):
            raise ConfigError(
                f"first = {spoken(seconds(self.first))} is longer than cap = {spoken(seconds(self.cap))}. Raise the cap."
            )
        seconds(self.max_age, "max_age")

    def delay(self, attempt: int, draw: float) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (from 1); `draw` is random, 0 to 1."""
        cap = seconds(self.cap)
        # The exponent is bounded so that a count gone wild cannot overflow.
        full = min(cap, seconds(self.first) * self.factor ** min(attempt - 1, 64))
        return full / 2 + full / 2 * draw


Backoff.__init__ = names_options("Backoff(...)")(Backoff.__init__)  # type: ignore[method-assign]  # a dataclass writes it itself

#: Never retried. A crash of its worker still gives the task back: at-least-once has no off switch.
NO_RETRY = Backoff(max_attempts=1)
