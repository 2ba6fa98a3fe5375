"""One delivery in this worker's hands, from its receive to its settlement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloudq.clock import Clock
from cloudq.driver import Delivery, Driver, Limits, Queue
from cloudq.execution import Job
from cloudq.sending import Sender


@dataclass(frozen=True, slots=True, eq=False)
class Station:
    """A physical queue that the worker serves, with all that is needed to settle what comes from it."""

    queue: Queue
    dead: Queue
    delay: Queue
    driver: Driver
    sender: Sender
    #: False: whoever handed its messages over keeps their leases, and told how long they last.
    renews: bool = True

    @property
    def limits(self) -> Limits:
        """Of the queue's provider."""
        return self.driver.limits


@dataclass(slots=True, eq=False)
class Held:
    """A delivery and its lease, on the worker's monotonic clock.

    `finished` is set once, by whoever decides its settlement: it is the guard of "settle once". `renew_until` is when a
    running task has had its time; its lease is then left to run out.
    """

    delivery: Delivery
    station: Station
    clock: Clock
    lease_end: float
    renew_at: float
    renew_until: float = float("inf")
    #: The provider has confirmed an extension of its lease: from here on, a lease that runs out is a crash.
    extended: bool = False
    #: A renewal is under way.
    renewing: bool = False
    started_at: float = 0.0
    job: Job | None = None
    finished: bool = False
    #: Its settlement takes the message off the queue, so that the next of its ordering key may run.
    removes: bool = False
    #: It runs, or runs next, for its ordering key; others of the key wait behind it.
    heads_lane: bool = False
    #: It came while one before it of its key was in hand: its lease is over at the provider, or it was given out twice.
    out_of_turn: bool = False
    #: How often its settlement was asked for without an answer.
    unanswered: int = 0
    reported_lost: bool = False
    reported_timeout: bool = False
    #: What to do once the settlement is confirmed (True) or was not (False): the next of its ordering key waits for it.
    then: Callable[[bool], None] | None = None

    def lost(self) -> bool:
        """Tell whether the lease has ended. Asked of the clock, not only of the renewals: a stopped process has none."""
        return self.reported_lost or self.clock.monotonic() >= self.lease_end

    def told_lost(self) -> bool:
        """What the task is told: its lease ended, or its worker gave it back at the end of its grace."""
        return self.finished or self.lost()

    @property
    def lane(self) -> tuple[str, str] | None:
        """What this delivery must not be run beside: its queue and ordering key."""
        group = self.delivery.group
        return None if group is None or not self.station.queue.ordered else (self.station.queue.physical, group)

    @property
    def task_id(self) -> str:
        """The task's id where it could be read, else the provider's."""
        return self.job.envelope.id if self.job is not None else self.delivery.message_id

    @property
    def task_name(self) -> str:
        """The task's name where it could be read."""
        return self.job.task.name if self.job is not None else ""
