"""Receivers of the SDK, each with one owner, and the pool of them that serves a queue without sessions.

The SDK's senders and receivers are neither thread- nor coroutine-safe (its README): a receive has its receiver to itself, and
only settlements are side by side, as the changelog of 7.15 recommends. Each receiver is a connection of its own (SDK
`ServiceBusClient._connection_sharing`), so they are counted and bounded.

What a receiver asked for and did not get, it may still be given: the credit stays with its link, and the SDK cannot take it
back. So that no message waits at a receiver at which nobody looks, one that has credit left is the next to receive; where
several have, they take turns; and one that holds nothing is closed instead, which gives back what was on its way to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import OperationTimeoutError, ServiceBusCommunicationError, ServiceBusConnectionError

from cloudq.clock import Clock
from cloudq.driver import Settled
from cloudq_servicebus.errors import LOST

_log = logging.getLogger("cloudq.servicebus")

Spawn = Callable[[Awaitable[Any]], object]
Call = Callable[[ServiceBusReceiver], Coroutine[Any, Any, Any]]

#: After these, the SDK's receiver is of no use.
_CUT = (ServiceBusConnectionError, ServiceBusCommunicationError, OperationTimeoutError)

#: Seconds until an opening, a settlement or a renewal without an answer is given up.
ANSWER = 10.0
_CLOSE = 5.0
#: A link at which nobody has looked for longer may hold messages that were locked meanwhile.
_FRESH = 0.5
#: A receive cannot be broken off without losing what is on its way. So it lasts no longer than this, and is asked again.
_SLICE = 1.0
#: One at a receiver that holds messages: their settlements wait for its end.
BRIEF = 0.05
#: One that asks for more than one message ends late when it does not get them all (SDK `_further_pull_receive_timeout`, 0.2 s
#: after the first). So it is tried, and not for long, where the last one got what it asked for at once: within these seconds.
_WHOLE, _AT_ONCE = 0.5, 0.1
#: Opening a link takes many turns of the loop, and beside tasks that hold the interpreter's lock each is late. Under a lock
#: shorter than this, the one that renews is opened with the first message, and not with the first renewal.
_HASTY = 20.0
#: A receive that need not wait lasts this long nevertheless: a round trip, and the opening of the link.
SHORTEST = 1.0


@dataclass(slots=True, eq=False)
class Lease:
    """The receipt: a message under lock."""

    message: ServiceBusReceivedMessage
    link: Link
    #: By the driver's clock, in seconds since the epoch, as of its receive or its last renewal.
    ends: float
    #: When it was received, it was locked for no longer than that took.
    fresh: bool = True
    #: The settlement that was asked for last, who asks, and the answer.
    how: str = ""
    asking: asyncio.Future[None] | None = None
    answer: Settled = Settled.UNKNOWN

    @property
    def over(self) -> bool:
        """It was settled, or is lost."""
        return self.answer is not Settled.UNKNOWN


class Link:
    """One receiver and its connection."""

    def __init__(self, receiver: ServiceBusReceiver) -> None:
        """Not yet open."""
        self.receiver: ServiceBusReceiver = receiver
        self.opened: bool = False
        #: A receive came back: when it fails now, it is worth opening another.
        self.proven: bool = False
        #: It failed, or is closed. Nothing more is asked of it.
        self.broken: bool = False
        #: It may be given messages that it has not received.
        self.credit: bool = False
        #: What the last receive brought may be locked for longer than that receive lasted.
        self.stale: bool = False
        self._read_at = 0.0
        #: Some receive has it.
        self.taken: bool = False
        self.leases: set[Lease] = set()
        self._gate = asyncio.Lock()
        self._settling = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def open(self, patience: float = ANSWER) -> None:
        """Connect."""
        try:
            await opened(self.receiver, patience)
        except BaseException:
            self.broken = True
            raise
        self.opened = True

    async def receive(self, most: int, patience: float) -> list[ServiceBusReceivedMessage]:
        """Receive, with nothing beside it. When it fails, the link is broken."""
        async with self._alone():
            # What was sent here meanwhile was locked then, and has waited in the socket.
            self.stale = self.credit and now() - self._read_at > _FRESH
            self.credit = True
            try:
                found = await self.receiver.receive_messages(max_message_count=most, max_wait_time=patience)
            except BaseException:
                self.broken = True
                raise
            finally:
                self._read_at = now()
            self.credit = len(found) < most
            self.proven = True
            return found

    async def settle(self, calls: Sequence[Call]) -> list[Settled]:
        """Settle side by side, and beside other settlements, but no receive. Where no answer comes, the link is broken."""
        return await self._answered(calls, self._beside())

    async def manage(self, calls: Sequence[Call], patience: float = ANSWER) -> list[Settled]:
        """Ask the management of the queue, one after the other: of requests that overlap, the SDK loses some while it opens."""
        answers: list[Settled] = []
        for call in calls:
            answers += [Settled.UNKNOWN] if self.broken else await self._answered([call], self._alone(), patience)
        self.proven = self.proven or not self.broken
        return answers

    async def _answered(
        self, calls: Sequence[Call], turn: AbstractAsyncContextManager[None], patience: float = ANSWER
    ) -> list[Settled]:
        # Each is a task of its own, so that those that were answered keep their answer when another one is given up.
        asking: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(patience), turn:
                asking = [asyncio.ensure_future(call(self.receiver)) for call in calls]
                await asyncio.wait(asking)
        except TimeoutError:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if not asking:
            self.broken = True
            return [Settled.UNKNOWN] * len(calls)
        return [self._read(each) for each in asking]

    def _read(self, asked: asyncio.Future[Any]) -> Settled:
        error = asyncio.CancelledError() if asked.cancelled() else asked.exception()
        if error is None:
            return Settled.OK
        if isinstance(error, LOST):
            return Settled.LOST
        # A ValueError is the SDK's for a receiver that it has closed.
        self.broken = self.broken or isinstance(error, (*_CUT, asyncio.CancelledError, ValueError))
        _log.info("no answer to a settlement or a renewal: %r", error)
        return Settled.UNKNOWN

    def lease(self, messages: Sequence[ServiceBusReceivedMessage], ends: Callable[[Lease], float]) -> list[Lease]:
        """Return what it received under its locks. `ends` tells when those end."""
        leases = [Lease(message, self, 0.0, not self.stale) for message in messages]
        for lease in leases:
            lease.ends = ends(lease)
        self.leases.update(leases)
        return leases

    def holds(self, time: float) -> bool:
        """Tell whether messages of it are under lock; those whose lock ended are nobody's. `time` since the epoch."""
        for lease in [lease for lease in self.leases if lease.ends <= time]:
            self.leases.discard(lease)
        return bool(self.leases)

    async def close(self) -> None:
        """Disconnect. The SDK gives back, uncounted, what was on its way here."""
        self.broken = True
        with contextlib.suppress(TimeoutError):  # whoever has it is given up by then
            async with asyncio.timeout(ANSWER + 1.0), self._alone():
                await self._disconnect()
                return
        await self._disconnect()

    async def _disconnect(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE):
                await self.receiver.close()
        except Exception as error:
            _log.info("a receiver was not closed well: %r", error)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        async with self._gate:
            await self._quiet.wait()
            yield

    @contextlib.asynccontextmanager
    async def _beside(self) -> AsyncGenerator[None]:
        async with self._gate:
            self._settling += 1
            self._quiet.clear()
        try:
            yield
        finally:
            self._settling -= 1
            if not self._settling:
                self._quiet.set()


class Receivers:
    """Serves one queue without sessions, or the dead-letter queue of one."""

    def __init__(self, make: Callable[[], ServiceBusReceiver], most: int, lease: float, clock: Clock, spawn: Spawn) -> None:
        """`most` receivers are open at a time, and one more for renewals."""
        self._lease = lease
        self._hasty = lease < _HASTY
        self._make = make
        self._most = most
        self._clock = clock
        self._spawn = spawn
        self._links: list[Link] = []
        self._changed = asyncio.Condition()
        #: The last receive got all it asked for: there may be more.
        self._full = False
        self._helper: Link | None = None
        self._opening_helper = asyncio.Lock()

    async def receive(self, most: int, wait: float, stop: asyncio.Event) -> list[Lease]:
        """Receive up to `most` messages, waiting up to `wait` seconds for the first, or until `stop`."""
        until = now() + max(wait, SHORTEST)
        again = True
        while (link := await self._take(until, stop)) is not None:
            try:
                leases = await self._from(link, most, until)
            except Exception:
                if not (link.proven and again):
                    raise
                again = False  # a link that was idle for long is detached by the service: that is no news
                continue
            finally:
                await self._give(link)
            if leases or now() >= until:
                return leases
        return []

    async def settle(self, link: Link, calls: Sequence[Call]) -> list[Settled]:
        """Settle by the receiver that received them. A lock is not bound to it: where it is gone, another does it by token."""
        if link.broken:
            return await (await self._helping()).manage(calls)
        answers = await link.settle(calls)
        if link.broken:
            await self._give(link)
        return answers

    async def renew(self, leases: Sequence[Lease]) -> list[Settled]:
        """Renew by a receiver of its own, which no receive keeps busy."""
        patience = min(ANSWER, max(1.0, self._lease / 8))
        helper = await self._helping()
        worked = helper.proven
        answers = await helper.manage([_renewal(lease) for lease in leases], patience)
        if helper.broken and worked:  # it was idle for long, and is gone: that is no news
            unknown = [position for position, answer in enumerate(answers) if answer is Settled.UNKNOWN]
            again = await (await self._helping()).manage([_renewal(leases[position]) for position in unknown], patience)
            for position, answer in zip(unknown, again, strict=True):
                answers[position] = answer
        return answers

    def ends(self, lease: Lease) -> float:
        """When the lock ends, in seconds since the epoch."""
        until = lease.message.locked_until_utc
        return 0.0 if until is None else until.timestamp()

    def done(self, lease: Lease, rest: float) -> None:  # noqa: ARG002  there is none without sessions
        """It was settled for good."""
        lease.link.leases.discard(lease)

    async def close(self) -> None:
        """Close all links."""
        links, self._links = [*self._links, *filter(None, (self._helper,))], []
        await asyncio.gather(*(link.close() for link in links))

    # Links ------------------------------------------------------------------------------------------------------------

    async def _from(self, link: Link, most: int, until: float) -> list[Lease]:
        """Receive for a moment."""
        whole = self._full and most > 1
        patience = BRIEF if link.holds(self._clock.time()) or self._strays(link) else _WHOLE if whole else _SLICE
        ask, began = most if whole else 1, now()
        found = await link.receive(ask, max(BRIEF, min(patience, until - began)))
        self._full = len(found) == ask and (whole or now() - began < _AT_ONCE)
        if found and self._hasty:
            self._hasty = False
            self._spawn(self._helping())
        return link.lease(found, self.ends)

    async def _take(self, until: float, stop: asyncio.Event) -> Link | None:
        """Return a link that nobody else receives with; None when there is none in time, or it is to stop."""
        async with self._changed:
            while stop.is_set() or (link := self._choose()) is None:
                if stop.is_set() or now() >= until:
                    return None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(until - now(), _SLICE)):
                        await self._changed.wait()
            link.taken = True
            self._links.remove(link)
            self._links.append(link)  # the next one of its kind is another
        if not link.opened:
            try:
                await link.open()
            except BaseException:
                await self._give(link)
                raise
        return link

    def _choose(self) -> Link | None:
        time = self._clock.time()
        free = [link for link in self._links if not link.taken]
        best = min(free, key=lambda link: (not link.credit, link.holds(time)), default=None)
        if best is not None and (best.credit or not best.holds(time)):
            return best
        if len(self._links) == self._most:
            return best
        link = Link(self._make())
        self._links.append(link)
        return link

    def _strays(self, but: Link) -> bool:
        """Tell whether another link may be given messages, at which nobody looks."""
        return any(link.credit and not link.taken for link in self._links if link is not but)

    async def bury(self, token: UUID, reason: str, description: str) -> Settled:
        """Dead-letter what somebody else received, by its lock's token, through the management of the queue."""
        details = {"deadletter-reason": reason, "deadletter-description": description}

        def call(receiver: ServiceBusReceiver) -> Coroutine[Any, Any, Any]:
            # Not public. The SDK settles so what it received itself, where the link is gone; a token belongs to no link (docs,
            # AMQP request/response, update-disposition).
            private: Any = receiver
            settle: Callable[..., Coroutine[Any, Any, Any]] = private._settle_message_via_mgmt_link  # noqa: SLF001  as said
            return settle("suspended", [token], dead_letter_details=details)

        return (await (await self._helping()).manage([call]))[0]

    async def _give(self, link: Link) -> None:
        link.taken = False
        idle = not link.holds(self._clock.time())
        if link in self._links and (link.broken or (link.credit and idle and self._others_receive(link))):
            self._links.remove(link)
            self._spawn(link.close())
        async with self._changed:
            self._changed.notify_all()

    def _others_receive(self, but: Link) -> bool:
        return any(link.credit or link.taken for link in self._links if link is not but)

    async def _helping(self) -> Link:
        async with self._opening_helper:
            if self._helper is None or self._helper.broken:
                if self._helper is not None:
                    self._spawn(self._helper.close())
                helper = Link(self._make())
                await helper.open()
                self._helper = helper
            return self._helper


def _renewal(lease: Lease) -> Call:
    return lambda receiver: receiver.renew_message_lock(lease.message)


async def opened(client: ServiceBusReceiver | ServiceBusSender, patience: float = ANSWER) -> None:
    """Have one of the SDK's connect. TimeoutError: it does not."""
    try:
        async with asyncio.timeout(patience):
            await client.__aenter__()
    except TimeoutError:
        # The SDK leaves the socket of an opening that is given up to the garbage collector, which has little to do in a worker
        # that cannot connect.
        gc.collect()
        raise


def now() -> float:
    """Return the time of the loop, by which real answers are waited for."""
    return asyncio.get_running_loop().time()
