"""The Service Bus driver: azure-servicebus on asyncio, under cloudq's own lease keeper.

The SDK's retries are off: who tries again, and when, is decided above, where it is known whether trying again can duplicate
something. Connections are opened when they are needed; `links` and `sessions` tell who uses which.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from cloudq.clock import Clock
from cloudq.driver import Burial, Check, Declared, Delivery, Limits, Outgoing, Part, Queue, Release, Settled, Stats
from cloudq.errors import AccessDenied, DriverError, Refused, Unavailable
from cloudq_servicebus import inspection, messages
from cloudq_servicebus.administration import Administration
from cloudq_servicebus.errors import ENOUGH, short_lock, translate
from cloudq_servicebus.facts import SERVICEBUS
from cloudq_servicebus.links import SHORTEST, Call, Lease, Link, Receivers, now
from cloudq_servicebus.options import Options, endpoint_of
from cloudq_servicebus.senders import Sender
from cloudq_servicebus.sessions import Sessions

T = TypeVar("T")
_log = logging.getLogger("cloudq.servicebus")

#: The SDK tells each frame's state as INFO, and as a warning that it could not read a refusal; whoever wants that sets a level.
_LOUD = {"azure": logging.WARNING, "azure.servicebus._pyamqp": logging.ERROR}
#: A queue whose lock was too short is looked at again after so many seconds, and at the longest after so many.
_FIRST_REFUSAL, _LONGEST_REFUSAL = 60.0, 3600.0
_NEVER = (-math.inf, 0.0, "")
#: SDK: how long one read of a socket waits (0.2 s by default), and so the most that a settlement waits for another's answer.
_READ = 0.05
#: SDK: bounds an opening, and a request to the management of a queue.
_TRY = 30.0


class _Source(Protocol):
    """What serves the receives of one queue."""

    async def receive(self, most: int, wait: float, stop: asyncio.Event) -> list[Lease]: ...
    async def settle(self, link: Link, calls: Sequence[Call]) -> list[Settled]: ...
    async def renew(self, leases: Sequence[Lease]) -> list[Settled]: ...
    def ends(self, lease: Lease) -> float: ...
    def done(self, lease: Lease, rest: float) -> None: ...
    async def close(self) -> None: ...


class ServiceBusDriver:
    """A driver on one namespace. Make it after a fork, not before."""

    def __init__(self, options: Options, clock: Clock) -> None:
        """Finds credentials as Azure's libraries do, at the first call."""
        for name, level in _LOUD.items():
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(level)
        self._options = options
        self._clock = clock
        self._pid = os.getpid()
        self._client: ServiceBusClient | None = None
        self._credential: Any = None
        self._administration = Administration(options)
        self._senders: dict[str, Sender] = {}
        self._sources: dict[str, _Source] = {}
        #: Where a lock was too short: until when nothing is received, how long that is, and what is said meanwhile.
        self._refused: dict[_Source, tuple[float, float, str]] = {}
        self._background: set[asyncio.Future[Any]] = set()
        self._closed = False

    @property
    def limits(self) -> Limits:
        """See `facts`."""
        return SERVICEBUS.limits

    # Sending ----------------------------------------------------------------------------------------------------------

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> Mapping[int, DriverError]:
        """Send, packed as the link takes it; a batch is taken or refused as a whole (docs, AMQP protocol guide)."""
        self._usable()
        if queue.part is Part.DEAD:
            raise Refused(f"{self._named(queue)}: a dead-letter queue takes nothing that is sent. Dead-letter it instead.")
        sending = asyncio.ensure_future(self._sender(queue).send(queue, batch))
        self._hold(sending)
        # Cancelled, it goes on: the SDK's sender cannot be left in the middle, and the next one must not overtake it.
        failures = await asyncio.shield(sending)
        if len(failures) == len(batch) and len({id(error) for error in failures.values()}) == 1:
            raise failures[0]  # the whole of it failed
        return failures

    async def schedule(self, queue: Queue, message: Outgoing) -> str:
        """schedule_messages, through the management of the queue: what cancels it is its sequence number."""
        self._usable()
        scheduling = asyncio.ensure_future(self._sender(queue).schedule(queue, message))
        self._hold(scheduling)
        return str(await asyncio.shield(scheduling))

    async def cancel(self, queue: Queue, token: str) -> bool:
        """cancel_scheduled_messages."""
        self._usable()
        cancelling = asyncio.ensure_future(self._sender(queue).cancel(int(token)))
        self._hold(cancelling)
        return await asyncio.shield(cancelling)

    def _sender(self, queue: Queue) -> Sender:
        name = self._options.name(queue)
        if name not in self._senders:
            client = self._connected()
            self._senders[name] = Sender(lambda: client.get_queue_sender(name), self._named(queue), self._clock)
        return self._senders[name]

    # Receiving --------------------------------------------------------------------------------------------------------

    async def receive(self, queue: Queue, max_messages: int, wait: float) -> Sequence[Delivery]:
        """Receive under the lock that the queue gives. Cancelled, it ends within a second and gives back what it brought."""
        self._usable()
        stop = asyncio.Event()
        receiving = asyncio.ensure_future(self._receive(queue, max_messages, wait, stop))
        self._hold(receiving)
        try:
            return await asyncio.shield(receiving)
        except asyncio.CancelledError:
            stop.set()
            self._hold(asyncio.ensure_future(self._undo(receiving)))
            raise

    async def _receive(self, queue: Queue, most: int, wait: float, stop: asyncio.Event) -> list[Delivery]:
        until = now() + wait
        names = self._names(queue)
        while True:
            for name in names:
                source = self._source(queue, name)
                refused_until, _, why = self._refused.get(source, _NEVER)
                if (left := refused_until - self._clock.monotonic()) > 0:
                    raise Refused(f"{why} It is looked at again in {left:.0f} s.")
                rest = max(0.0, until - now())
                try:
                    leases = await source.receive(most, rest if len(names) == 1 else SHORTEST, stop)
                except DriverError:
                    raise
                except Exception as error:
                    raise translate(error, f"{name} on {self._place}", "Listen") from error
                if leases:
                    return await self._believed(queue, source, leases)
            if stop.is_set() or now() >= until:
                return []

    async def _believed(self, queue: Queue, source: _Source, leases: list[Lease]) -> list[Delivery]:
        """Return deliveries, unless their locks are shorter than the application believes: it would run tasks twice at once."""
        time = self._clock.time()
        # Of a session the lock was looked at when it was accepted; since then, it is as old as it is.
        new = [lease.ends for lease in leases if lease.fresh and not queue.ordered]
        shortest = min(new, default=math.inf) - time
        if shortest < queue.lease * ENOUGH:
            # Each look costs a message an attempt, so the next one is later, and the one after that twice as late.
            pause = min(2 * self._refused[source][1], _LONGEST_REFUSAL) if source in self._refused else _FIRST_REFUSAL
            refusal = short_lock(self._named(queue), shortest, queue.lease)
            self._refused[source] = self._clock.monotonic() + pause, pause, str(refusal)
            await self._settle("abandon", [_Wish(source, lease, _abandon) for lease in leases])
            raise refusal
        self._refused.pop(source, None)
        return [
            messages.to_delivery(queue, lease.message, (source, lease), min(queue.lease, lease.ends - time)) for lease in leases
        ]

    def _source(self, queue: Queue, name: str) -> _Source:
        key = f"{name}\n{queue.part.value}"
        if key not in self._sources:
            client = self._connected()

            def plain() -> ServiceBusReceiver:
                sub_queue = ServiceBusSubQueue.DEAD_LETTER if queue.part is Part.DEAD else None
                return client.get_queue_receiver(name, sub_queue=sub_queue)

            def session(wait: float) -> ServiceBusReceiver:
                return client.get_queue_receiver(name, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=wait)

            self._sources[key] = (
                Sessions(session, self._options.sessions, queue.lease, self._named(queue), self._clock, self._spawn)
                if queue.ordered
                else Receivers(plain, self._options.receivers, queue.lease, self._clock, self._spawn)
            )
        return self._sources[key]

    async def _undo(self, receiving: asyncio.Future[list[Delivery]]) -> None:
        with contextlib.suppress(DriverError):  # not given back, it comes back when its lock ends
            if taken := await receiving:
                await self._settle("abandon", [_Wish(*_receipt(delivery), _abandon) for delivery in taken])

    # Settling ---------------------------------------------------------------------------------------------------------

    async def ack(self, queue: Queue, batch: Sequence[Delivery]) -> Sequence[Settled]:  # noqa: ARG002  the contract's
        """Complete, each on its own, all at a time (SDK 7.15 changelog: each is confirmed)."""
        self._usable()
        return await self._settle("complete", [_Wish(*_receipt(delivery), _complete) for delivery in batch])

    async def release(self, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:  # noqa: ARG002  the contract's
        """Abandon. With a delay, which only an ordered queue may have, its session is kept meanwhile, and its lock renewed."""
        self._usable()
        return await self._settle("abandon", [_Wish(*_receipt(each.delivery), _abandon, each.delay) for each in batch])

    async def extend(self, queue: Queue, batch: Sequence[Delivery], lease: float) -> Sequence[Settled]:  # noqa: ARG002  a lock's length is the queue's
        """Renew. The lock lasts as long as at first, whatever is asked for."""
        self._usable()
        held = [_receipt(delivery) for delivery in batch]
        alive: dict[_Source, list[Lease]] = defaultdict(list)
        for source, one in held:
            if not one.over:
                alive[source].append(one)
        renewing = [asyncio.ensure_future(self._renew(queue, source, leases)) for source, leases in alive.items()]
        for each in renewing:
            self._hold(each)
        answers: dict[int, Settled] = {}
        for each in renewing:
            answers |= await asyncio.shield(each)
        return [answers.get(id(one), Settled.LOST) for _, one in held]

    async def _renew(self, queue: Queue, source: _Source, leases: Sequence[Lease]) -> dict[int, Settled]:
        try:
            answers = await source.renew(leases)
        except Exception as error:
            raise translate(error, self._named(queue), "Listen") from error
        for lease, answer in zip(leases, answers, strict=True):
            if answer is Settled.OK:
                lease.ends = source.ends(lease)
        return dict(zip(map(id, leases), answers, strict=True))

    async def dead_letter(self, queue: Queue, dead: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:  # noqa: ARG002  it is built in
        """Dead-letter, the kind as the reason and the record as the description."""
        self._usable()
        return await self._settle("dead-letter", [_Wish(*_receipt(each.delivery), _bury(each)) for each in batch])

    async def bury_locked(self, queue: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:
        """Dead-letter what somebody else holds under a lock, whose token is the receipt (a `uuid.UUID`). No sessions."""
        self._usable()
        source = self._source(queue, self._options.name(queue))
        assert isinstance(source, Receivers), "a lock of a session belongs to whoever holds it"
        answers: list[Settled] = []
        for each in batch:
            burying = asyncio.ensure_future(
                source.bury(cast("UUID", each.delivery.receipt), each.kind, each.record or messages.NO_RECORD)
            )
            self._hold(burying)
            try:
                answers.append(await asyncio.shield(burying))
            except Exception as error:
                _log.warning("%s: not dead-lettered: %s", self._named(queue), translate(error, self._named(queue), "Listen"))
                answers.append(Settled.UNKNOWN)
        return answers

    async def _settle(self, how: str, wishes: Sequence[_Wish]) -> list[Settled]:
        """Settle once. What is asked for again meanwhile, or afterwards, gets the same answer; another wish came too late."""
        fresh: dict[Link, list[_Wish]] = defaultdict(list)
        late: set[int] = set()
        seen: set[int] = set()
        for wish in wishes:
            lease = wish.lease
            if id(lease) in seen:
                continue
            seen.add(id(lease))
            if lease.asking is None or (lease.asking.done() and lease.answer is Settled.UNKNOWN):
                lease.how = how
                fresh[lease.link].append(wish)
            elif lease.how != how:
                late.add(id(lease))
        for link, of_link in fresh.items():
            asking = asyncio.ensure_future(self._ask(link, of_link))
            self._hold(asking)
            for wish in of_link:
                wish.lease.asking = asking
        # Cancelled, they go on: the answer to a disposition must find somebody.
        asked = {wish.lease.asking for wish in wishes if wish.lease.asking is not None and id(wish.lease) not in late}
        for each in asked:
            await asyncio.shield(each)
        return [Settled.LOST if id(wish.lease) in late else wish.lease.answer for wish in wishes]

    async def _ask(self, link: Link, wishes: Sequence[_Wish]) -> None:
        try:
            answers = await wishes[0].source.settle(link, [wish.call() for wish in wishes])
        except Exception as error:  # no connection: nothing was asked
            _log.info("settlements could not be asked for: %r", error)
            return
        for wish, answer in zip(wishes, answers, strict=True):
            wish.lease.answer = answer
            if answer is not Settled.UNKNOWN:
                wish.source.done(wish.lease, wish.rest if answer is Settled.OK else 0.0)

    # The rest ---------------------------------------------------------------------------------------------------------

    async def stats(self, queue: Queue) -> Stats:
        """Count, where this identity has the claim Manage; else tell only that the bus was asked."""
        self._usable()
        with contextlib.suppress(AccessDenied):
            if queue.part is Part.DEAD:
                counts = [await self._administration.counts(name) for name in self._options.sources(queue)]
                return Stats(delayed=0, unsettled=sum(each.dead for each in counts))
            count = await self._administration.counts(self._options.name(queue))
            # docs, message counters: active is what is locked, too.
            return Stats(delayed=count.scheduled, unsettled=count.active)
        return Stats()

    async def peek(self, queue: Queue, max_messages: int) -> Sequence[Delivery]:
        """Look at messages, changing nothing; those that are locked or scheduled, too."""
        self._usable()
        found: list[Delivery] = []
        for name in self._names(queue):
            try:
                found += await self._peek(queue, name, max_messages - len(found))
            except Exception as error:
                raise translate(error, f"{name} on {self._place}", "Listen") from error
        return found

    async def _peek(self, queue: Queue, name: str, most: int) -> list[Delivery]:
        sub_queue = ServiceBusSubQueue.DEAD_LETTER if queue.part is Part.DEAD else None
        found: list[Delivery] = []
        next_number = 1
        async with asyncio.timeout(_TRY), self._connected().get_queue_receiver(name, sub_queue=sub_queue) as receiver:
            while len(found) < most:
                peeked = await receiver.peek_messages(min(most - len(found), 100), sequence_number=next_number)
                if not peeked:
                    break
                found += [messages.to_delivery(queue, message, None, 0.0) for message in peeked]
                next_number = (peeked[-1].sequence_number or 0) + 1
        return found

    async def create(self, queues: Sequence[Queue]) -> Sequence[Queue]:
        """Make the queues that are missing. A dead part is built into each; a delay part is not needed."""
        self._usable()
        mains = (queue for queue in queues if queue.part is Part.MAIN)
        return [queue for queue in mains if await self._administration.create(self._options.name(queue), queue)]

    async def inspect(self, queues: Sequence[Declared]) -> Sequence[Check]:
        """GetQueue of the administration, for each. The right to manage is needed (docs, authentication and authorization)."""
        self._usable()
        found: list[Check] = []
        for declared in queues:
            if declared.queue.part is Part.MAIN:
                name = self._options.name(declared.queue)
                try:
                    found += inspection.compare(name, self._place, declared.queue, await self._administration.read(name))
                except DriverError as error:
                    found.append(Check.untold(name, "all settings", "readable", str(error)))
        return found

    def unwrap(self, kind: type[T]) -> T:
        """The client: `unwrap(azure.servicebus.aio.ServiceBusClient)`. Do not close it."""
        if kind is ServiceBusClient:
            return cast("T", self._connected())
        raise TypeError(
            f"the Service Bus driver can be unwrapped to azure.servicebus.aio.ServiceBusClient, not to {kind.__name__}"
        )

    async def aclose(self) -> None:
        """Wait for what still runs, then close every connection."""
        if self._closed:
            return
        self._closed = True
        while self._background:  # gives back what was on its way here
            await asyncio.wait(self._background)
        closing = [*(source.close() for source in self._sources.values()), *(each.close() for each in self._senders.values())]
        await asyncio.gather(*closing)
        while self._background:
            await asyncio.wait(self._background)
        if self._client is not None:
            await self._client.close()
        if self._credential is not None:
            await self._credential.close()
        await self._administration.aclose()

    # Connections ------------------------------------------------------------------------------------------------------

    def _connected(self) -> ServiceBusClient:
        # At the first call, because a client belongs to the loop on which it is made.
        if self._client is None:
            settings: dict[str, Any] = {"retry_total": 0, "socket_timeout": _READ, "try_timeout": _TRY}
            if self._options.connection_string:
                self._client = ServiceBusClient.from_connection_string(self._options.connection_string, **settings)
            else:
                from azure.identity.aio import DefaultAzureCredential

                self._credential = DefaultAzureCredential()
                self._client = ServiceBusClient(self._options.namespace, self._credential, **settings)
        return self._client

    def _usable(self) -> None:
        if self._pid != os.getpid():
            raise Unavailable(
                "this Service Bus driver was opened before a fork: its connections are the parent's. Open it anew."
            )
        if self._closed:
            raise Unavailable("this Service Bus driver is closed")

    def _spawn(self, work: Awaitable[Any]) -> None:
        self._hold(asyncio.ensure_future(work))

    def _hold(self, work: asyncio.Future[Any]) -> None:
        self._background.add(work)
        work.add_done_callback(self._over)

    def _over(self, work: asyncio.Future[Any]) -> None:
        self._background.discard(work)
        if not work.cancelled():
            work.exception()  # when nobody waits for it any more, nobody asks

    def _names(self, queue: Queue) -> list[str]:
        names = [self._options.name(queue)] if queue.part is not Part.DEAD else self._options.sources(queue)
        if not names:
            raise Refused(f"{queue.physical}: a dead part is built into the queues it belongs to, and none is named (mains).")
        return names

    @property
    def _place(self) -> str:
        return self._options.namespace or endpoint_of(self._options.connection_string)

    def _named(self, queue: Queue) -> str:
        name = self._options.name(queue) if queue.part is not Part.DEAD else ", ".join(self._options.sources(queue))
        return f"{name} on {self._place}"


@dataclass(frozen=True, slots=True)
class _Wish:
    """One settlement that is asked for. `rest` is for how long its session is kept."""

    source: _Source
    lease: Lease
    how: Callable[[ServiceBusReceiver, ServiceBusReceivedMessage], Coroutine[Any, Any, None]]
    rest: float = 0.0

    def call(self) -> Call:
        return lambda receiver: self.how(receiver, self.lease.message)


def _complete(receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> Coroutine[Any, Any, None]:
    return receiver.complete_message(message)


def _abandon(receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> Coroutine[Any, Any, None]:
    return receiver.abandon_message(message)


def _bury(burial: Burial) -> Callable[[ServiceBusReceiver, ServiceBusReceivedMessage], Coroutine[Any, Any, None]]:
    return lambda receiver, message: receiver.dead_letter_message(
        message, reason=burial.kind, error_description=burial.record or messages.NO_RECORD
    )


def _receipt(delivery: Delivery) -> tuple[_Source, Lease]:
    assert delivery.receipt is not None, "a peeked message cannot be settled"
    return cast("tuple[_Source, Lease]", delivery.receipt)
