"""Every error that cloudq raises on purpose.

    CloudQError
    ├── ConfigError                   a setting, URL or declaration that cannot be used
    │   ├── NoProvider                no URL given where the local default would lose work
    │   ├── MissingAdapter            nothing installed opens this URL
    │   └── UnknownOption             a keyword that does not exist (also a TypeError)
    ├── ArgumentsError                the arguments do not fit the task's signature (also a TypeError)
    ├── EnqueueError
    │   ├── EnqueueRejected           surely not queued
    │   │   ├── MessageTooLarge       over the provider's limit: both numbers are given
    │   │   └── Unsupported           an option this provider or queue cannot keep
    │   ├── EnqueueUnknown            it may be queued: repeat with the same task id
    │   └── PartialEnqueueError       some of many failed: one outcome per item
    ├── StuckWorker                   every slot is held by a run that cannot be stopped
    └── DriverError                   what an adapter raises; the provider's own error is its __cause__
        ├── QueueNotFound
        ├── AccessDenied
        ├── Refused                   the provider will not take this request, now or later
        ├── Throttled                 surely not applied; later it may be
        ├── Unavailable               surely not applied: the provider could not be reached
        └── OutcomeUnknown            sent, and no answer came: it may have been applied

A class docstring is its default message, so the two cannot drift. Codes, not texts, are matched: `except Throttled`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

P = ParamSpec("P")
R = TypeVar("R")


class CloudQError(Exception):
    """Something in cloudq went wrong."""

    def __init__(self, message: str | None = None) -> None:
        """Take the message, or the first paragraph of the class docstring."""
        super().__init__(message or (inspect.getdoc(type(self)) or "").split("\n\n")[0])


class ConfigError(CloudQError):
    """A setting cannot be used."""


class NoProvider(ConfigError):
    """No provider is configured."""


class MissingAdapter(ConfigError):
    """No installed adapter opens this URL."""


class UnknownOption(ConfigError, TypeError):
    """There is no such option."""


class ArgumentsError(CloudQError, TypeError):
    """The arguments do not fit the task's signature."""


class EnqueueError(CloudQError):
    """The task was not confirmed as queued."""


class EnqueueRejected(EnqueueError):
    """The task is surely not queued."""


class MessageTooLarge(EnqueueRejected):
    """The message is larger than the provider takes."""

    def __init__(self, actual: int, limit: int, room: int = 0) -> None:
        """Both sizes in bytes; `room` is what cloudq keeps free of the provider's limit for the dead-letter record."""
        kept = f" ({room:,} bytes of the provider's limit are kept for the dead-letter record)" if room else ""
        super().__init__(
            f"the message is {actual:,} bytes and this queue takes {limit:,}{kept}. Store the payload elsewhere and "
            f"enqueue a reference to it."
        )
        self.actual = actual
        self.limit = limit


class Unsupported(EnqueueRejected):
    """The option cannot be kept here."""


class EnqueueUnknown(EnqueueError):
    """The task may be queued or not: no answer came in time."""

    def __init__(self, task_id: str, detail: str) -> None:
        """`task_id` is the id to repeat the call with, so that a copy that did arrive can be recognised."""
        super().__init__(
            f"{detail}. The task {task_id} may be queued or not. Repeat with the same id: "
            f"task.options(task_id={task_id!r}).enqueue(...)"
        )
        self.task_id = task_id


class PartialEnqueueError(EnqueueError):
    """Some of the tasks were not queued."""

    def __init__(self, failures: Mapping[int, EnqueueError], attempted: int) -> None:
        """`failures` maps the position of each failed message to its error; the others below `attempted` were confirmed."""
        first = min(failures)
        super().__init__(
            f"{len(failures)} of {attempted} tasks were not confirmed; the first, at position {first}: {failures[first]} "
            f"Repeat the positions in `.failures`, and what the iterable holds from position {attempted} on: it was not read."
        )
        self.failures: dict[int, EnqueueError] = dict(failures)
        self.attempted = attempted
        self.accepted: int = attempted - len(self.failures)


class StuckWorker(CloudQError):
    """Every slot of the worker is held by a run that cannot be stopped."""


class DriverError(CloudQError):
    """The provider did not do what was asked."""

    #: Asking again later may succeed.
    retryable: ClassVar[bool] = False


class QueueNotFound(DriverError):
    """The queue does not exist."""


class AccessDenied(DriverError):
    """The provider denied the request."""


class Refused(DriverError):
    """The provider refused the request for good."""


class Throttled(DriverError):
    """The provider asks to slow down; the request was not applied."""

    retryable = True


class Unavailable(DriverError):
    """The provider could not be reached; the request was not applied."""

    retryable = True


class OutcomeUnknown(DriverError):
    """No answer came; the request may have been applied."""

    retryable = True


def names_options(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function refuse a keyword that it does not have with the nearest one, instead of Python's own words."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        options = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in parameters:
                    raise UnknownOption(f"{what} has no option {name!r}.{nearest(name, options)}")
            return function(*args, **kwargs)

        return checked

    return decorate


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...?' with the closest known word, or the list of those there are."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" There is: {', '.join(names)}." if names else ""
