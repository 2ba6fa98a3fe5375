"""Durations as people write them: "90s", "15m", "2h", a timedelta, or a number of seconds."""

from __future__ import annotations

import re
from datetime import timedelta

from cloudq.errors import ConfigError

Duration = str | float | int | timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: A hundred years: what lies beyond is a mistake, and would be kept for ever without a word.
_LONGEST = 36_525 * 86400.0
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def seconds(value: Duration, what: str = "duration") -> float:
    """Return seconds. "1h30m" adds up; bare numbers are seconds. ConfigError for anything else, or below zero."""
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, bool):
        raise ConfigError(f"{what} = {value!r} is not a duration. Write a timedelta, a number of seconds or '90s'.")
    elif isinstance(value, (int, float)):
        result = float(value)
    else:
        text = value.strip().lower()
        parts = _PART.findall(text)
        if parts and _PART.sub("", text).strip() == "":
            result = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            try:
                result = float(text)
            except ValueError:
                raise ConfigError(
                    f"{what} = {value!r} is not a duration. Write a number and a unit, e.g. '90s', '15m', '2h', '7d'."
                ) from None
    if not 0 <= result <= _LONGEST:
        raise ConfigError(f"{what} = {value!r} is not a duration from 0 to {_LONGEST / _UNITS['d']:g} days.")
    return result


def spoken(duration: float) -> str:
    """Return the largest unit that says it well: 90.0 -> '90s', 7200.0 -> '2h'."""
    for unit in ("d", "h", "m"):
        size = _UNITS[unit]
        if duration >= 2 * size and duration % size == 0:
            return f"{duration / size:g}{unit}"
    return f"{duration:g}s"
