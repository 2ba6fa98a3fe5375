"""One structured event per transition of a task. Logs, tests and telemetry all read these; nothing reports beside them.

A sink is any callable that takes an `Event`. It is called on whichever thread the transition happens, so it must be quick and
thread-safe; an exception in one is logged and goes no further, because reporting must not change what is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import msgspec

logger: logging.Logger = logging.getLogger("cloudq.events")


class Name(StrEnum):
    """The transitions. The value is what logs and telemetry show."""

    ENQUEUED = "enqueued"
    RECEIVED = "received"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    REJECTED = "rejected"
    #: Moved to the dead part; confirmed.
    DEAD_LETTERED = "dead-lettered"
    #: Past its expiry and, as its task asks, removed without a run.
    DROPPED = "dropped"
    #: Given back: to be retried, or unrun at a shutdown, or not yet due.
    RELEASED = "released"
    #: A task that this worker does not know: another version may.
    NOT_KNOWN = "not-known"
    #: Cut off at the end of a shutdown's grace, and given back.
    INTERRUPTED = "interrupted"
    #: Forwarded from the delay part to its queue.
    FORWARDED = "forwarded"
    #: Removed from the queue; confirmed.
    ACKED = "acked"
    #: The lease ended under a running task: its result will not be acked, and it will run again.
    LEASE_LOST = "lease-lost"
    RENEWED = "renewed"
    RENEW_FAILED = "renew-failed"
    #: A settlement that came too late: somebody else may have the message.
    SETTLE_LOST = "settle-lost"
    #: A settlement without an answer; the message may come again.
    SETTLE_UNKNOWN = "settle-unknown"
    #: `on_success` or `on_failure` raised. The outcome of the task stays what it was.
    HOOK_FAILED = "hook-failed"
    #: A running task passed its timeout; its lease is no longer renewed.
    TIMED_OUT = "timed-out"
    #: The provider could not be asked; asked again after a pause.
    RECEIVE_FAILED = "receive-failed"
    WORKER_STARTED = "worker-started"
    WORKER_DRAINING = "worker-draining"
    WORKER_STOPPED = "worker-stopped"


class Event(msgspec.Struct, frozen=True):
    """What happened, when (seconds since the epoch), to what. `detail` holds numbers and texts special to the name."""

    name: Name
    at: float
    queue: str = ""
    task: str = ""
    task_id: str = ""
    attempt: int = 0
    detail: Mapping[str, str | float | int] = {}


Sink = Callable[[Event], None]

# What the line means for the operator, where the name alone does not say it.
_CONSEQUENCE = {
    Name.RETRIED: "will run again",
    Name.DEAD_LETTERED: "given up; it is kept among the dead letters: `cloudq dlq ls APP`",
    Name.NOT_KNOWN: "was not run, because this worker does not know it",
    Name.INTERRUPTED: "was cut off at the end of the grace and given back: it will run again",
    Name.LEASE_LOST: "lost its lease while running: it runs again elsewhere, and this result is not acked",
    Name.SETTLE_LOST: "was settled too late: somebody else has it, so it may run twice",
    Name.SETTLE_UNKNOWN: "was settled without an answer: it may run again",
    Name.RENEW_FAILED: "could not renew its lease; tried again until the lease ends",
    Name.HOOK_FAILED: "has a hook that failed; what became of the task stays as it was",
    Name.TIMED_OUT: "passed its timeout; its lease is not renewed any more",
    Name.RECEIVE_FAILED: "no messages could be received; trying again",
}
_LEVEL = {
    Name.FAILED: logging.WARNING,
    Name.RETRIED: logging.INFO,
    Name.NOT_KNOWN: logging.WARNING,
    Name.INTERRUPTED: logging.WARNING,
    Name.DEAD_LETTERED: logging.ERROR,
    Name.LEASE_LOST: logging.ERROR,
    Name.SETTLE_LOST: logging.WARNING,
    Name.SETTLE_UNKNOWN: logging.WARNING,
    Name.RENEW_FAILED: logging.WARNING,
    Name.HOOK_FAILED: logging.ERROR,
    Name.TIMED_OUT: logging.ERROR,
    Name.RECEIVE_FAILED: logging.WARNING,
    Name.DROPPED: logging.WARNING,
    Name.WORKER_STARTED: logging.INFO,
    Name.WORKER_DRAINING: logging.INFO,
    Name.WORKER_STOPPED: logging.INFO,
}


def log(event: Event) -> None:
    """The sink that is always there: one log record per event. Arguments of tasks are never part of an event."""
    level = _LEVEL.get(event.name, logging.DEBUG)
    if not logger.isEnabledFor(level):
        return
    attempt = f"attempt {event.attempt}" if event.attempt else ""
    words = [event.task or event.queue, event.task_id, attempt, _CONSEQUENCE.get(event.name, event.name.value)]
    facts = {key: value for key, value in event.detail.items() if key != "trace"}
    if facts:
        words.append("(" + ", ".join(f"{key}: {_spoken(value)}" for key, value in facts.items()) + ")")
    # A traceback may hold anything, but so may any log of a failed program; arguments are not added to it.
    trace = event.detail.get("trace")
    text = " ".join(word for word in words if word)
    logger.log(level, "%s", f"{text}\n{trace}" if trace else text, extra={"event": event})


def _spoken(value: str | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Events:
    """Where transitions are reported. Sinks are called in the order they were added."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        """Start with the log and the given sinks."""
        self._sinks: list[Sink] = [log, *sinks]

    @classmethod
    def only(cls, sink: Sink) -> Events:
        """Return events that go to one sink, and not to the log."""
        events = cls()
        events._sinks = [sink]
        return events

    def add(self, sink: Sink) -> None:
        """Call this sink for every event from now on."""
        self._sinks.append(sink)

    def emit(self, event: Event) -> None:
        """Tell every sink. Their errors are logged, not raised."""
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:
                logger.exception("the event sink %r failed on %s; the task goes on", sink, event.name.value)
