"""The two decisions of cloudq, as pure functions: is a received message run (`admit`), and what follows its run (`decide`).

Everything that can become of a message is a value here. Whoever holds a delivery asks, and carries out the one settlement
that comes back; nothing else in cloudq acks, releases, resends or dead-letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from cloudq.driver import Delivery, Limits
from cloudq.durations import Duration, seconds
from cloudq.envelope import Envelope, Newer, Unreadable
from cloudq.retry import Backoff

#: A provider that knows its crashes gives a message three: once can be a restart, twice bad luck.
CRASHES = 3
#: One that only counts deliveries cannot tell a crash from a message handed back unrun at a restart. Five of those are
#: forgiven before a task is given up without a failed run: fewer would punish rolling deploys, more would let a message
#: that kills its process do so more often.
UNRUN_FORGIVEN = 5
#: A message this close to due is run: clocks and providers are no more exact than that.
EARLY = 1.0
_FIRST_GIVE_BACK, _LONGEST_GIVE_BACK = 5.0, 300.0
#: So many graces old, a task that no worker knows was offered for long enough, whatever was counted; and a count that says so.
_LONG_OFFERED, _ENDLESS = 24, 1_000_000


class Kind(Enum):
    """Why a message is in the dead part."""

    FAILED = "failed"
    REJECTED = "rejected"
    UNREADABLE = "unreadable"
    UNKNOWN_TASK = "unknown-task"
    EXPIRED = "expired"
    CRASHED = "crashed"


class Retry(Exception):
    """Raise it in a task to have it run again, after `after` or by the task's own backoff. It counts as an attempt."""

    def __init__(self, after: Duration | None = None, reason: str = "the task asked for a retry") -> None:
        """`after` as in "90s", a timedelta or seconds."""
        reason = str(reason)
        super().__init__(reason)
        self.after: float | None = None if after is None else seconds(after, "after")
        self.reason = reason


class Reject(Exception):
    """Raise it in a task that can never succeed: it goes to the dead part at once, with this reason."""

    def __init__(self, reason: str) -> None:
        """The reason is what the operator reads."""
        reason = str(reason)  # an exception is handed over as often as its text
        super().__init__(reason)
        self.reason = reason


# What came of a run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task returned."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The task raised: what, and where, as text. `after` is the delay it asked for itself."""

    error: str
    trace: str = ""
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The task said that it can never succeed."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotRun:
    """The task was not started, or given up in the middle at the end of a shutdown's grace: `started` tells which.

    It is offered again after `delay` seconds.
    """

    started: bool = False
    delay: float = 0.0


Outcome = Succeeded | Failed | Rejected | NotRun


# What is done with the message -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ack:
    """Remove it: its work is done, or was not wanted any more."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Release it, to be received again after `delay`."""

    delay: float
    counted: bool = True
    #: Why it was not run, where it was not.
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resend:
    """Send a copy that is due in `delay` seconds, confirm it, then ack this one. `attempts` is what the copy starts from."""

    delay: float
    attempts: int
    #: Why it was not run, where it was not.
    reason: str = ""
    #: How often it was offered to workers that do not know its task, where this is one of them.
    offers: int | None = None


@dataclass(frozen=True, slots=True)
class Bury:
    """Move it to the dead part with this record."""

    kind: Kind
    reason: str
    trace: str = ""


Settlement = Ack | GiveBack | Resend | Bury


@dataclass(frozen=True, slots=True)
class Run:
    """The message is run: as this attempt, an upper bound of how often it has been run, this time included."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What a task says about its own failures."""

    retry: Backoff = Backoff()
    on_expiry: Literal["dead-letter", "drop"] = "dead-letter"


def admit(
    reading: Envelope | Unreadable | Newer,
    delivery: Delivery,
    policy: Policy | None,
    limits: Limits,
    now: float,
    unknown_grace: float,
) -> Run | Settlement:
    """Decide whether a received message is run. `policy` is None for a task that this worker does not know."""
    match reading:
        case Unreadable():
            return Bury(Kind.UNREADABLE, reading.reason)
        case Newer():
            return _not_mine(
                delivery.deliveries,
                unknown_grace,
                None,
                delivery,
                limits,
                Bury(
                    Kind.UNREADABLE,
                    f"envelope version {reading.version}; this worker reads version 1. Deploy a newer one.",
                ),
            )
        case Envelope():
            pass
    if policy is None:
        # Where a copy cannot be made, offers may not be counted either: then its age ends them, long after.
        aged = not limits.delays and now - reading.born >= _LONG_OFFERED * unknown_grace
        return _not_mine(
            _ENDLESS if aged else reading.offers + delivery.deliveries,
            unknown_grace,
            reading,
            delivery,
            limits,
            Bury(
                Kind.UNKNOWN_TASK,
                f"no worker knew the task {reading.type!r} while it was offered for {unknown_grace:g} s",
            ),
        )
    if reading.expires is not None and now >= reading.expires:
        if policy.on_expiry == "drop":
            return Ack()
        return Bury(Kind.EXPIRED, f"expired {now - reading.expires:.0f} s before a worker took it")
    attempt = attempts(reading, delivery)
    crashed = _crashed(attempt, delivery, policy)
    if crashed:
        return Bury(Kind.CRASHED, crashed)
    if reading.due is not None and reading.due - now > EARLY:
        rest = reading.due - now
        if rest <= limits.release_delay:
            return GiveBack(rest, counted=False)
        return Resend(rest, reading.attempts + delivery.deliveries - 1)
    return Run(attempt)


def decide(
    outcome: Outcome, envelope: Envelope, delivery: Delivery, policy: Policy, limits: Limits, now: float, draw: float
) -> Settlement:
    """Decide what becomes of a message after its run. `draw` is a random number from 0 to 1, for the jitter."""
    attempt = attempts(envelope, delivery)
    match outcome:
        case Succeeded():
            return Ack()
        case NotRun():
            longest = limits.release_delay if envelope.ordering_key is None else limits.ordered_release_delay
            return GiveBack(min(outcome.delay, longest), counted=outcome.started)
        case Failed() | Rejected():
            given_up = gives_up(outcome, envelope, attempt, policy, now)
            if given_up is not None:
                return given_up
    assert isinstance(outcome, Failed), "a rejection is always given up"
    retry = policy.retry
    delay = retry.delay(attempt, draw) if outcome.after is None else outcome.after
    # Releasing keeps one message one message. A copy is made only for a wait that the provider cannot hold; for ordered
    # work never, because a copy would go to the end of its group.
    if envelope.ordering_key is not None:
        return GiveBack(min(delay, limits.ordered_release_delay))
    if delay <= limits.release_delay:
        return GiveBack(delay)
    return Resend(delay, attempt)


def gives_up(outcome: Failed | Rejected, envelope: Envelope, attempt: int, policy: Policy, now: float) -> Bury | None:
    """Decide whether a failed run was the last."""
    if isinstance(outcome, Rejected):
        return Bury(Kind.REJECTED, outcome.reason)
    retry = policy.retry
    if attempt >= retry.max_attempts:
        return Bury(Kind.FAILED, f"{outcome.error} (attempt {attempt} of {retry.max_attempts})", outcome.trace)
    age = now - envelope.born
    if age >= seconds(retry.max_age):
        return Bury(
            Kind.FAILED, f"{outcome.error} (attempt {attempt}, {age:.0f} s old, max_age {retry.max_age})", outcome.trace
        )
    return None


def attempts(envelope: Envelope, delivery: Delivery) -> int:
    """Return which attempt this delivery is, at the most: earlier copies plus what the provider counted for this one."""
    return envelope.attempts + delivery.deliveries


def _crashed(attempt: int, delivery: Delivery, policy: Policy) -> str | None:
    if delivery.crashes is not None:
        if delivery.crashes >= CRASHES:
            return f"its worker ended or lost the lease {delivery.crashes} times without an outcome"
        return None
    bound = policy.retry.max_attempts + UNRUN_FORGIVEN
    if attempt > bound:
        return f"delivered {attempt} times without an outcome; {bound} are allowed"
    return None


def _not_mine(
    offers: int, grace: float, envelope: Envelope | None, delivery: Delivery, limits: Limits, last: Bury
) -> Settlement:
    """Give back what another version of the worker may know, with growing delay, until it was offered for `grace` seconds.

    Time is counted in offers, not from the enqueue: a message that waited for days in a queue without workers still gets
    its full grace. A copy, where it can be made, keeps these offers out of the task's attempts.
    """
    delays = [min(_LONGEST_GIVE_BACK, _FIRST_GIVE_BACK * 2**n) for n in range(min(offers, 12))]
    waited = sum(delays[:-1]) + max(0, offers - 12) * _LONGEST_GIVE_BACK
    if waited >= grace:
        return last
    delay = min(delays[-1], max(grace - waited, 1.0))
    what = "a newer envelope" if envelope is None else f"the task {envelope.type!r}"
    reason = f"this worker does not know {what}; it is offered again, for {max(0.0, grace - waited):.0f} s more"
    if envelope is not None and envelope.ordering_key is None and limits.delays:
        return Resend(delay, envelope.attempts + delivery.deliveries - 1, reason, offers)
    # Counted, although it was not run: the count is all that ends the offers.
    return GiveBack(min(delay, limits.release_delay), reason=reason)
