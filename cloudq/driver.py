"""The seam between cloudq and a provider. An adapter implements `Driver`; nothing else of a provider reaches the core.

One `Driver` is one open connection. It moves bytes and leases, and decides nothing: what a task is, when it is retried and
when it is given up is decided above, once for every provider. Only bytes and the frozen values of this file cross.

The contract, for every method:

- **Who calls.** One asyncio loop. Several calls may be under way at once, also on the same queue, and a long `receive` must
  not hold up an `ack`: an adapter over a blocking SDK keeps them in separate executors.
- **Who retries.** The caller. A driver makes one attempt (the SDK's own connection retry is its business) and tells what
  came of it. It never sleeps to wait out an error.
- **Neighbours.** In a batch each item stands alone. The failure of one is told for that one; the others are done. Raising is
  for a request that failed as a whole.
- **What an error means.** Raise the classes of `cloudq.errors.DriverError`, the SDK's own error as `__cause__`. All but
  `OutcomeUnknown` promise that the request had no effect. When in doubt, it is `OutcomeUnknown`: a false "surely not" makes
  the caller repeat, or report as failed, something that happened.
- **Cancelling.** A cancelled call leaves nothing that waits for a lease to run out: a driver whose request cannot be
  interrupted lets it end in the background, gives back what it brought, and `aclose()` waits for that.
- **Sizes.** The caller never exceeds `limits`: no batch is larger, no delay longer. A driver does not clamp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol, TypeVar, runtime_checkable

from cloudq.errors import DriverError

T = TypeVar("T")

#: The attribute of a dead letter that says why it is one.
RECORD = "cloudq-dead"


class Part(Enum):
    """The parts of a logical queue, each a physical queue of its own."""

    MAIN = "main"
    #: Waits for messages that are due further ahead than the provider's own delay reaches.
    DELAY = "delay"
    #: Keeps what was given up, with the reason.
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Queue:
    """The address of one physical queue, with what a provider must know to serve it.

    `physical` is computed in `cloudq.naming` and nowhere else. `lease` is how long a received message stays hidden from
    other receivers, in seconds. `dedup` is the window in seconds within which a second message of the same id is dropped
    by the provider, 0 for none. `of_ordered` says that the logical queue keeps order, for a provider whose dead part must then
    be of another kind; the dead part itself need not keep any. `mains` are, for a dead part, the physical names of those whose
    dead letters it keeps: a provider that has one built into each queue finds them there. `retention` is how long a message is
    kept in seconds, None for as long as the provider keeps any; `attempts` is the most that a task of the queue is tried, and
    `served` says that a function takes the place of workers: all three are for whoever makes the queue.
    """

    logical: str
    physical: str
    part: Part = Part.MAIN
    priority: str = "normal"
    ordered: bool = False
    lease: float = 60.0
    dedup: float = 0.0
    of_ordered: bool = False
    mains: tuple[str, ...] = ()
    retention: float | None = None
    attempts: int = 15
    served: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send.

    `message_id` is what the provider deduplicates by, where it does. `delay` is in seconds from now, at most
    `Limits.send_delay`. `group` is the ordering key, or in a queue that is not ordered the tenant (`Limits.fair`).
    `attributes` travel beside the body.
    """

    body: bytes
    message_id: str
    delay: float = 0.0
    group: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A received message under lease. Compared by identity: the same message received twice is two deliveries.

    `receipt` is the driver's own token for this delivery; settling with the receipt of an earlier delivery must not touch a
    later one. `deliveries` is the provider's count including this one, from 1: an upper bound of how often it was run.
    `crashes` is how many leases ran out without any settlement, where the provider knows (`Limits.counts_crashes`). After the
    first, only a lease that had been extended counts: until then, it may never have reached a worker.
    `leased_for` is how many seconds of the lease are left, at the least, when `receive` returns.
    """

    queue: Queue
    body: bytes
    receipt: object
    deliveries: int
    leased_for: float
    sent_at: float | None = None
    message_id: str = ""
    group: str | None = None
    crashes: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Release:
    """Give a delivery back. It is received again after `delay` seconds, at most `Limits.release_delay`.

    `counted` False says that it was not run: a provider that can (`Limits.release_uncounted`) leaves its count as it was.
    """

    delivery: Delivery
    delay: float = 0.0
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Burial:
    """Move a delivery to the dead part. Body and attributes are kept as they are.

    `kind` is one word, `record` the whole story as text, at most `Limits.attribute_bytes` long. Whoever receives the dead
    letter finds the record as the attribute `RECORD`, wherever the provider keeps it (its own reason fields, say).
    """

    delivery: Delivery
    kind: str
    record: str


class Settled(Enum):
    """What became of one settlement or extension."""

    OK = "ok"
    #: The lease had ended; somebody else may have the message. Nothing was changed.
    LOST = "lost"
    #: The provider did not tell. Repeating is safe.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one physical queue. None where the provider does not tell; never 0 for unknown. Age in seconds.

    `unsettled` is ready and in flight together, where they are counted as one.
    """

    ready: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    oldest_age: float | None = None
    unsettled: int | None = None

    @property
    def both(self) -> int | None:
        """Ready and in flight, however they are counted."""
        if self.unsettled is not None or self.ready is None or self.in_flight is None:
            return self.unsettled
        return self.ready + self.in_flight

    @property
    def left(self) -> int | None:
        """All that is in the queue."""
        return None if self.both is None or self.delayed is None else self.both + self.delayed


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider can do, as facts. Sizes in bytes, times in seconds; `inf` where there is no limit."""

    provider: str
    #: Largest body, attributes included.
    message_bytes: int
    #: Largest value of one attribute.
    attribute_bytes: int
    send_count: int
    send_bytes: int
    receive_count: int
    settle_count: int
    #: Longest wait of one `receive`.
    receive_wait: float
    #: Longest delay of a sent message; 0 where there is none.
    send_delay: float
    #: Longest delay of a released message.
    release_delay: float
    #: How many messages of a queue may be hidden by releases at a time.
    parked: float
    #: How long a message is kept at the most, from its sending.
    retention: float
    #: Shortest and longest lease that may be asked for.
    lease: tuple[float, float]
    #: How long a settlement may wait for company. 0 where a request costs nothing.
    linger: float
    #: Moves to the dead part by itself, in one step (`Driver.dead_letter`).
    native_dead_letter: bool
    #: Keeps the order within a group.
    native_order: bool
    #: Keeps the order within a group even when a message of it is sent with a delay.
    ordered_delay: bool
    #: Longest delay of a release in an ordered queue, with the rest of the group waiting behind it.
    ordered_release_delay: float
    #: Shares the workers of a queue that is not ordered between the groups, so that a busy one does not hold up the others.
    fair: bool
    #: In which queues a repeated message id is dropped: some providers do so only where they also keep the order.
    dedup: Literal["none", "ordered", "all"]
    #: Shortest and longest window of `dedup` that may be asked for.
    dedup_window: tuple[float, float]
    #: Knows how many leases ran out unsettled, as `Delivery.crashes` tells them.
    counts_crashes: bool
    #: Can take back an unrun message without raising its count.
    release_uncounted: bool
    #: Answers LOST when a settlement came too late. Otherwise a late one may look like OK.
    tells_lost: bool
    #: Takes back a message that is not due yet (`Schedules`).
    cancels: bool

    @property
    def delays(self) -> bool:
        """A message can be sent that is due later: by a delay of the provider's own, or through the delay part."""
        return self.send_delay > 0 or self.parked > 0


class Driver(Protocol):
    """One open connection to a provider. Read the module's docstring first: it binds every method here."""

    @property
    def limits(self) -> Limits:
        """What this provider can do. Constant for the life of the driver."""
        ...

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> Mapping[int, DriverError]:
        """Send, and return when the provider has confirmed that the messages are kept.

        Returns the failures by position in the batch; empty means that all are confirmed. Raises when the request as a
        whole failed, and then nothing of it was sent, or for `OutcomeUnknown` any of it.
        """
        ...

    async def receive(self, queue: Queue, max_messages: int, wait: float) -> Sequence[Delivery]:
        """Lease up to `max_messages`, waiting up to `wait` seconds for the first.

        An empty answer is normal, as is one with fewer than asked. Returns as soon as anything is there: it does not wait
        to fill the batch. A message whose lease ran out, or that was released and is due, is received again with a higher
        count. In an ordered queue nothing of a group is received while an earlier message of it is leased or not yet due,
        except together with it, in order.
        """
        ...

    async def ack(self, queue: Queue, batch: Sequence[Delivery]) -> Sequence[Settled]:
        """Remove for good. One answer per delivery, in order. A message that is already gone is OK: the wish is fulfilled.

        One that was released or taken over is LOST, where that is known (`Limits.tells_lost`). An SDK that only says "already
        settled" leaves it to the driver to remember how.
        """
        ...

    async def release(self, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:
        """Give back. One answer per item, in order. The delay is kept by the provider: it survives this process.

        Delays are never cut short: a provider that counts whole seconds rounds up.
        """
        ...

    async def extend(self, queue: Queue, batch: Sequence[Delivery], lease: float) -> Sequence[Settled]:
        """Let each lease end `lease` seconds from now. One answer per delivery, in order. What is gone is LOST.

        A provider that leases whole groups extends the group's lease for any of its messages.
        """
        ...

    async def dead_letter(self, queue: Queue, dead: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:
        """Move to the dead part in one step that cannot stop half way. Called only where `Limits.native_dead_letter`.

        Elsewhere the core composes it: send to the dead part, confirm, ack. `dead` is the address of that part; a provider
        with a built-in one may ignore it.
        """
        ...

    async def stats(self, queue: Queue) -> Stats:
        """Count. Approximate where the provider is."""
        ...

    def unwrap(self, kind: type[T]) -> T:
        """Return the native client of that type, for what cloudq does not cover. TypeError names the types there are."""
        ...

    async def aclose(self) -> None:
        """Close. A second call does nothing. Waits for what still runs in the background."""
        ...


@runtime_checkable
class Provisioner(Protocol):
    """An adapter that can make its queues: for development and tests. In production Terraform makes them."""

    async def create(self, queues: Sequence[Queue]) -> Sequence[Queue]:
        """Make the queues that do not exist and return those that were made. Existing ones are left as they are."""
        ...


@dataclass(frozen=True, slots=True)
class Declared:
    """A queue as it is declared, for a comparison with the one that there is.

    `tag` is what the Terraform modules tag its resources with, "" where nothing is known of that. `served` says that a function
    takes the place of workers.
    """

    queue: Queue
    tag: str = ""
    served: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One setting of one physical queue: as it is declared, and as it is.

    `live` is None where it could not be read; `ok` is None then. `why` tells what happens if it stays as it is, and `mend` is
    the command that changes it; both are empty where nothing is to be done.
    """

    queue: str
    setting: str
    declared: str
    live: str | None
    ok: bool | None
    why: str = ""
    mend: str = ""

    @classmethod
    def compare(cls, queue: str, setting: str, declared: object, live: object, *, why: str, mend: str) -> Check:
        """Return a check that was made; what is as declared needs neither reason nor command."""
        ok = declared == live
        return cls(
            queue=queue,
            setting=setting,
            declared=str(declared),
            live=str(live),
            ok=ok,
            why="" if ok else why,
            mend="" if ok else mend,
        )

    @classmethod
    def untold(cls, queue: str, setting: str, declared: object, why: str) -> Check:
        """Return a check that could not be made, and why not."""
        return cls(queue=queue, setting=setting, declared=str(declared), live=None, ok=None, why=why)


@runtime_checkable
class Inspects(Protocol):
    """An adapter that can tell how its queues differ from what is declared. It only reads."""

    async def inspect(self, queues: Sequence[Declared]) -> Sequence[Check]:
        """Compare every setting that cloudq depends on. A queue that cannot be read is a check that could not be made."""
        ...


@runtime_checkable
class Peeks(Protocol):
    """An adapter that can look at messages without leasing them."""

    async def peek(self, queue: Queue, max_messages: int) -> Sequence[Delivery]:
        """Return messages in the order of their age, changing nothing. They cannot be settled."""
        ...


@runtime_checkable
class Schedules(Protocol):
    """An adapter that can take back what it was sent, as long as it is not due (`Limits.cancels`)."""

    async def schedule(self, queue: Queue, message: Outgoing) -> str:
        """Send one message with its delay, confirmed as by `send`, and return what `cancel` takes. Raises as `send` does."""
        ...

    async def cancel(self, queue: Queue, token: str) -> bool:
        """Take it back. False when it is due, was taken back before, or was dropped as a duplicate."""
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """How far a move of a dead part has come. `state` is the provider's own word; `count` as far as it is told."""

    running: bool
    well: bool
    state: str
    count: int = 0


@runtime_checkable
class MovesDeadLetters(Protocol):
    """An adapter whose provider moves a whole dead part by itself. Nothing is selected, and nothing is rewritten."""

    async def move_dead_letters(self, dead: Queue, queue: Queue, rate: float | None) -> None:
        """Start to move all of `dead` to `queue`, at most `rate` a second. It goes on when this process ends."""
        ...

    async def moved(self, dead: Queue) -> Moved:
        """Return the state of the latest move of a dead part."""
        ...
