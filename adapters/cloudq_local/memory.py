"""A broker in a dict. It keeps the driver contract to the letter, on whatever clock it is given, and the facts of its provider
are a parameter: `memory://?as=sqs` has the limits of Amazon SQS, refuses what is over them, counts as it counts, rounds as it
rounds, and tells no more than it tells. So the core composes here what it composes there.

Not imitated, because it would make a test guess: duplicates and disorder that a provider allows itself, counts that are late
or approximate, the native dead-letter net, retention, throttling, quotas on messages in flight, prices.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeVar

from cloudq.clock import Clock
from cloudq.driver import RECORD, Burial, Delivery, Limits, Outgoing, Queue, Release, Settled, Stats
from cloudq.errors import ConfigError, DriverError, Refused, nearest
from cloudq.facts import Facts, facts_of
from cloudq_local.facts import MEMORY

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Message:
    number: int
    body: bytes
    message_id: str
    group: str | None
    attributes: Mapping[str, str]
    sent_at: float
    #: On the monotonic clock: when it can be received, by delay or by the end of its lease.
    visible_at: float
    lease: object | None = None
    extended: bool = False
    received_at: float = 0.0
    deliveries: int = 0
    crashes: int = 0


@dataclass(slots=True, eq=False)
class _Receipt:
    """Unique by identity: the receipt of an earlier delivery never equals that of a later one."""

    message: _Message


@dataclass(slots=True, eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryBroker:
    """The messages, shared by every driver that is opened on it, from any thread or loop."""

    def __init__(self, clock: Clock, facts: Facts = MEMORY) -> None:
        """`facts` are those of the provider that it behaves like."""
        self.clock: Clock = clock
        self.facts: Facts = facts
        self.limits: Limits = facts.limits
        self._lock = threading.Lock()
        self._queues: dict[str, dict[int, _Message]] = {}
        self._numbers = count(1)
        self._seen: dict[tuple[str, str], float] = {}
        self._waiters: dict[str, list[_Waiter]] = {}

    def send(self, queue: Queue, batch: Sequence[Outgoing], numbers: list[int] | None = None) -> dict[int, DriverError]:
        """Add the messages, but for those that are refused or that the queue has seen within its dedup window.

        `numbers` takes in those of the messages that were added.
        """
        refused: dict[int, DriverError] = {
            index: error for index, message in enumerate(batch) if (error := self._refusal(message)) is not None
        }
        with self._lock:
            now = self.clock.monotonic()
            for message in (message for index, message in enumerate(batch) if index not in refused):
                if queue.dedup:
                    key = (queue.physical, message.message_id)
                    if self._seen.get(key, 0.0) > now:
                        continue
                    self._seen[key] = now + queue.dedup
                number = next(self._numbers)
                if numbers is not None:
                    numbers.append(number)
                self._put(
                    queue.physical,
                    _Message(
                        number=number,
                        body=message.body,
                        message_id=message.message_id,
                        group=message.group,
                        attributes=dict(message.attributes),
                        sent_at=self.clock.time(),
                        visible_at=now + self._whole(message.delay),
                    ),
                )
        self.notify(queue.physical)
        return refused

    def take(self, queue: Queue, max_messages: int) -> list[Delivery]:
        """Lease what is due."""
        with self._lock:
            now = self.clock.monotonic()
            chosen = [message for message, _ in zip(self._due(queue, now), range(max_messages), strict=False)]
            return [self._lease(queue, message, now) for message in chosen]

    def settle(self, queue: Queue, delivery: Delivery) -> Settled:
        """Remove the message."""
        with self._lock:
            message = self._held(queue, delivery)
            if message is None:
                gone = _message(delivery).number not in self._queues.get(queue.physical, {})
                return Settled.OK if gone or not self.limits.tells_lost else Settled.LOST
            del self._queues[queue.physical][message.number]
        self.notify(queue.physical)  # the next of its group may be free now
        return Settled.OK

    def release(self, queue: Queue, item: Release) -> Settled:
        """End the lease."""
        with self._lock:
            message = self._held(queue, item.delivery)
            if message is None:
                return Settled.LOST
            message.lease = None
            message.visible_at = self.clock.monotonic() + self._whole(item.delay)
            if not item.counted and self.limits.release_uncounted:
                message.deliveries -= 1
        self.notify(queue.physical)
        return Settled.OK

    def extend(self, queue: Queue, delivery: Delivery, lease: float) -> Settled:
        """Move the end of the lease."""
        with self._lock:
            message = self._held(queue, delivery)
            if message is None:
                return Settled.LOST
            until = self.clock.monotonic() + self._whole(lease)
            if until > message.received_at + self.facts.hidden:
                return Settled.LOST
            message.visible_at = until
            message.extended = True
            return Settled.OK

    def bury(self, queue: Queue, dead: Queue, item: Burial) -> Settled:
        """Move the message to the dead part."""
        with self._lock:
            message = self._held(queue, item.delivery)
            if message is None:
                return Settled.LOST
            del self._queues[queue.physical][message.number]
            message.lease, message.deliveries, message.crashes = None, 0, 0
            message.attributes = {**message.attributes, RECORD: item.record}
            message.visible_at = self.clock.monotonic()
            self._put(dead.physical, message)
        self.notify(queue.physical)
        self.notify(dead.physical)
        return Settled.OK

    def cancel(self, queue: Queue, number: int) -> bool:
        """Remove a message that was never due."""
        with self._lock:
            messages = self._queues.get(queue.physical, {})
            message = messages.get(number)
            if message is None or message.received_at or message.visible_at <= self.clock.monotonic():
                return False
            del messages[number]
            self._seen.pop((queue.physical, message.message_id), None)  # it never was: the same id may be sent again
        self.notify(queue.physical)
        return True

    def stats(self, queue: Queue) -> Stats:
        """Count exactly."""
        with self._lock:
            now = self.clock.monotonic()
            messages = list(self._queues.get(queue.physical, {}).values())
            ready = [message for message in messages if message.visible_at <= now]
            leased = sum(1 for message in messages if message.visible_at > now and message.lease is not None)
            oldest = min((message.sent_at for message in ready), default=None)
            told = self.facts.tells
            return Stats(
                ready=len(ready) if "ready" in told else None,
                in_flight=leased if "in_flight" in told else None,
                delayed=len(messages) - len(ready) - leased if "delayed" in told else None,
                oldest_age=self.clock.time() - oldest if oldest is not None and "oldest_age" in told else None,
                unsettled=len(ready) + leased if "unsettled" in told else None,
            )

    def peek(self, queue: Queue, max_messages: int) -> list[Delivery]:
        """Look, changing nothing."""
        with self._lock:
            messages = list(self._queues.get(queue.physical, {}).values())[:max_messages]
            return [self._delivery(queue, message, 0.0, None) for message in messages]

    def next_due(self, queue: Queue) -> float | None:
        """Return when the next hidden message becomes visible, on the monotonic clock."""
        with self._lock:
            now = self.clock.monotonic()
            times = [m.visible_at for m in self._queues.get(queue.physical, {}).values() if m.visible_at > now]
            return min(times, default=None)

    def wait_on(self, queue: Queue, waiter: _Waiter) -> None:
        """Wake this waiter whenever the queue changes."""
        with self._lock:
            self._waiters.setdefault(queue.physical, []).append(waiter)

    def stop_waiting(self, queue: Queue, waiter: _Waiter) -> None:
        """The opposite of `wait_on`."""
        with self._lock:
            self._waiters[queue.physical].remove(waiter)

    def notify(self, physical: str) -> None:
        """Wake those who wait on a queue, on their own loops."""
        with self._lock:
            waiters = list(self._waiters.get(physical, ()))
        for waiter in waiters:
            if waiter.loop is _running_loop():
                waiter.wake.set()
            else:
                waiter.loop.call_soon_threadsafe(waiter.wake.set)

    def _whole(self, duration: float) -> float:
        step = self.facts.resolution
        # A hair under the step is the step: 0.3 is no exact multiple of 0.1.
        return duration if step == 0 else math.ceil(duration / step - 1e-9) * step

    def _refusal(self, message: Outgoing) -> Refused | None:
        size = len(message.body) + sum(len(k.encode()) + len(v.encode()) for k, v in message.attributes.items())
        if size > self.limits.message_bytes:
            return Refused(f"a message of {size:,} bytes; {self.limits.provider} takes {self.limits.message_bytes:,}")
        for name, value in message.attributes.items():
            if len(value.encode()) > self.limits.attribute_bytes:
                return Refused(
                    f"the attribute {name} has {len(value.encode()):,} bytes; {self.limits.provider} takes "
                    f"{self.limits.attribute_bytes:,}"
                )
        if message.delay > self.limits.send_delay:
            return Refused(f"a delay of {message.delay:g} s; {self.limits.provider} takes {self.limits.send_delay:g} s")
        return None

    def _put(self, physical: str, message: _Message) -> None:
        self._queues.setdefault(physical, {})[message.number] = message

    def _due(self, queue: Queue, now: float) -> Iterator[_Message]:
        messages = self._queues.get(queue.physical, {}).values()
        if not queue.ordered:
            yield from sorted((m for m in messages if m.visible_at <= now), key=lambda m: (m.visible_at, m.number))
            return
        blocked: set[str] = set()
        for message in sorted(messages, key=lambda m: m.number):
            if message.group in blocked:
                continue
            if message.visible_at <= now:
                yield message
            elif message.group is not None:
                blocked.add(message.group)

    def _lease(self, queue: Queue, message: _Message, now: float) -> Delivery:
        message.crashes += message.lease is not None and (message.crashes == 0 or message.extended)
        message.extended = False
        message.deliveries += 1
        message.visible_at = now + self._whole(queue.lease)
        message.received_at = now
        receipt = _Receipt(message)
        message.lease = receipt
        return self._delivery(queue, message, queue.lease, receipt)

    def _delivery(self, queue: Queue, message: _Message, lease: float, receipt: object) -> Delivery:
        return Delivery(
            queue=queue,
            body=message.body,
            receipt=receipt,
            deliveries=message.deliveries,
            leased_for=lease,
            sent_at=message.sent_at,
            message_id=message.message_id,
            group=message.group,
            crashes=message.crashes if self.limits.counts_crashes else None,
            attributes=message.attributes,
        )

    def _held(self, queue: Queue, delivery: Delivery) -> _Message | None:
        message = self._queues.get(queue.physical, {}).get(_message(delivery).number)
        return message if message is not None and message.lease is delivery.receipt else None


class MemoryDriver:
    """A driver on a broker."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Many drivers may share one broker."""
        self._broker = broker

    @property
    def limits(self) -> Limits:
        """The broker's."""
        return self._broker.limits

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> Mapping[int, DriverError]:
        """Fail the messages that the provider would refuse."""
        self._at_most(len(batch), self.limits.send_count, "messages in a send")
        self._at_most(sum(len(message.body) for message in batch), self.limits.send_bytes, "bytes in a send")
        return self._broker.send(queue, batch)

    async def schedule(self, queue: Queue, message: Outgoing) -> str:
        """As `send`; what cancels it is its number, 0 for one that was dropped as a duplicate."""
        numbers: list[int] = []
        for error in self._broker.send(queue, [message], numbers).values():
            raise error
        return str(numbers[0] if numbers else 0)

    async def cancel(self, queue: Queue, token: str) -> bool:
        """Remove what was never due."""
        return self._broker.cancel(queue, int(token))

    async def receive(self, queue: Queue, max_messages: int, wait: float) -> Sequence[Delivery]:
        """Wake at a change of the queue or when something becomes due."""
        self._at_most(max_messages, self.limits.receive_count, "messages in a receive")
        self._at_most(wait, self.limits.receive_wait, "seconds of waiting")
        clock = self._broker.clock
        deadline = clock.monotonic() + wait
        waiter = _Waiter(asyncio.get_running_loop())
        self._broker.wait_on(queue, waiter)
        try:
            while True:
                waiter.wake.clear()
                taken = self._broker.take(queue, max_messages)
                rest = deadline - clock.monotonic()
                if taken or rest <= 0:
                    return taken
                due = self._broker.next_due(queue)
                if due is not None:
                    rest = min(rest, due - clock.monotonic())
                try:
                    # A timer can ring a rounding error before its time: then wait for a moment, not for none.
                    async with asyncio.timeout(max(rest, 1e-6)):
                        await waiter.wake.wait()
                except TimeoutError:
                    pass
        finally:
            self._broker.stop_waiting(queue, waiter)

    async def ack(self, queue: Queue, batch: Sequence[Delivery]) -> Sequence[Settled]:
        """One by one."""
        self._at_most(len(batch), self.limits.settle_count, "messages in an ack")
        return [self._broker.settle(queue, delivery) for delivery in batch]

    async def release(self, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:
        """One by one."""
        self._at_most(len(batch), self.limits.settle_count, "messages in a release")
        longest = self.limits.ordered_release_delay if queue.ordered else self.limits.release_delay
        self._at_most(max((item.delay for item in batch), default=0.0), longest, "seconds of a release")
        return [self._broker.release(queue, item) for item in batch]

    async def extend(self, queue: Queue, batch: Sequence[Delivery], lease: float) -> Sequence[Settled]:
        """One by one."""
        self._at_most(len(batch), self.limits.settle_count, "messages in an extension")
        return [self._broker.extend(queue, delivery, lease) for delivery in batch]

    async def dead_letter(self, queue: Queue, dead: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:
        """One by one."""
        if not self.limits.native_dead_letter:
            raise Refused(f"{self.limits.provider} moves no message to its dead part with a reason")
        self._at_most(len(batch), self.limits.settle_count, "messages in a move")
        return [self._broker.bury(queue, dead, item) for item in batch]

    async def stats(self, queue: Queue) -> Stats:
        """Exact."""
        return self._broker.stats(queue)

    async def create(self, queues: Sequence[Queue]) -> Sequence[Queue]:  # noqa: ARG002  the contract's signature
        """Nothing to make: a queue is there with its first message."""
        return ()

    def unwrap(self, kind: type[T]) -> T:
        """The broker itself."""
        if isinstance(self._broker, kind):
            return self._broker
        raise TypeError(f"the memory driver can be unwrapped to MemoryBroker, not to {kind.__name__}")

    async def aclose(self) -> None:
        """Nothing is open."""

    def _at_most(self, asked: float, limit: float, what: str) -> None:
        if asked > limit:
            raise Refused(f"{asked:g} {what}; {self.limits.provider} takes {limit:g}")


class PeekingDriver(MemoryDriver):
    """A driver on a broker whose provider can look at messages without receiving them."""

    async def peek(self, queue: Queue, max_messages: int) -> Sequence[Delivery]:
        """In the order in which they were sent."""
        return self._broker.peek(queue, max_messages)


_brokers: dict[str, MemoryBroker] = {}


def open_memory(place: str, options: Mapping[str, str], clock: Clock) -> MemoryDriver:
    """Open the broker of that name in this process. `as` names the provider that it behaves like."""
    for option in options:
        if option != "as":
            raise ConfigError(f"memory://{place} takes no option {option!r}.{nearest(option, ['as'])}")
    model = options.get("as")
    name = place if model is None else f"{place}?as={model}"
    if name not in _brokers:
        _brokers[name] = MemoryBroker(clock, MEMORY if model is None else _in_memory(facts_of(model)))
    return connect(_brokers[name])


def connect(broker: MemoryBroker) -> MemoryDriver:
    """Return a driver on the broker that can do what its provider can."""
    return PeekingDriver(broker) if broker.facts.peeks else MemoryDriver(broker)


def _in_memory(facts: Facts) -> Facts:
    return replace(facts, limits=replace(facts.limits, provider=f"{facts.name} (in memory)"))


def _message(delivery: Delivery) -> _Message:
    assert isinstance(delivery.receipt, _Receipt), "a peeked message cannot be settled"
    return delivery.receipt.message


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
