"""The sessions of one ordered queue: each is held by one receiver, and gives its messages one after the other.

What is received one by one keeps its order without a count: what waits behind a failure uses up no attempts. A session is kept
from message to message, because taking one costs a connection; and while one of its messages waits for its next attempt, so
that nothing overtakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSession
from azure.servicebus.exceptions import OperationTimeoutError

from cloudq.clock import Clock
from cloudq.driver import Settled
from cloudq_servicebus.errors import ENOUGH, short_lock
from cloudq_servicebus.links import BRIEF, SHORTEST, Call, Lease, Link, Spawn, now

_log = logging.getLogger("cloudq.servicebus")

#: Seconds that the service looks for a session that is free, before it is asked again.
_ACCEPT = 15.0
#: The first receive at a session waits for what is known to be there; the next ones look whether there is more.
_FIRST, _NEXT = 5.0, 0.2
#: A lock is renewed when it has less of its length left.
_RENEW = 2 / 3
#: A session of which nothing was asked for so long is left to others.
_IDLE = 1.0


class Session(Link):
    """A session, held."""

    def __init__(self, receiver: ServiceBusReceiver) -> None:
        """Not yet accepted."""
        super().__init__(receiver)
        #: Until then nothing is received, by the driver's monotonic clock.
        self.rests_until: float = 0.0
        #: How often it was turned to; what was planned at an earlier turn is off.
        self.turn: int = 0

    @property
    def session(self) -> ServiceBusSession:
        """The SDK's object."""
        found = self.receiver.session
        assert found is not None, "it was opened with one"
        return found

    def ends(self, _: Lease | None = None) -> float:
        """When the lock of all its messages ends."""
        until = self.session.locked_until_utc
        return 0.0 if until is None else until.timestamp()

    def left(self, clock: Clock) -> float:
        """How many seconds that is ahead."""
        return self.ends() - clock.time()


class Sessions:
    """Serves one ordered queue."""

    def __init__(
        self, make: Callable[[float], ServiceBusReceiver], most: int, lease: float, named: str, clock: Clock, spawn: Spawn
    ) -> None:
        """`make` returns a receiver for the next session that is free, waiting so long.

        `most` are worked on at a time, and as many again may be held while a message of theirs waits for its next attempt.
        `named` is the queue in words.
        """
        self._named = named
        self._keeping: set[asyncio.Task[None]] = set()
        self._make = make
        self._most = most
        self._lease = lease
        self._clock = clock
        self._spawn = spawn
        self._held: list[Session] = []
        self._accepting: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def receive(self, most: int, wait: float, stop: asyncio.Event) -> list[Lease]:
        """Receive up to `most` messages of different sessions, waiting up to `wait` seconds for the first, or until `stop`."""
        until = now() + max(wait, SHORTEST)
        began = False
        while not stop.is_set():
            self._changed.clear()
            found = await self._from_held(most)
            if found:
                return found
            rest = until - now()
            if self._accepting is not None and self._accepting.done():
                accepting, self._accepting = self._accepting, None
                await accepting
                until = until if rest > 0 else now()  # what it brought is still looked at
            elif rest <= 0 and (not began or self._accepting is None or wait > SHORTEST):
                break
            elif self._accepting is None and self._room():
                # Who does not want to wait waits for this one answer: it tells whether there is anything.
                began = True
                self._accepting = asyncio.ensure_future(self._accept(max(SHORTEST, min(_ACCEPT, rest))))
            else:
                await self._wait(max(rest, BRIEF))
        return []

    async def settle(self, link: Link, calls: Sequence[Call]) -> list[Settled]:
        """Settle by the receiver that holds the session. Where that is gone, the session is free."""
        if link.broken:
            return [Settled.LOST] * len(calls)
        answers = await link.settle(calls)
        self._drop_broken(link)
        return answers

    async def renew(self, leases: Sequence[Lease]) -> list[Settled]:
        """Renew the locks of the sessions."""
        return [answer for answers in await asyncio.gather(*map(self._renew, leases)) for answer in answers]

    async def _renew(self, lease: Lease) -> list[Settled]:
        if lease.link.broken:
            return [Settled.LOST]
        answers = await lease.link.manage([_renewal])
        self._drop_broken(lease.link)
        return answers

    def ends(self, lease: Lease) -> float:
        """When the lock ends, in seconds since the epoch."""
        assert isinstance(lease.link, Session)
        return lease.link.ends(lease)

    def done(self, lease: Lease, rest: float) -> None:
        """It was settled. Its session gives its next message after `rest` seconds."""
        session = lease.link
        assert isinstance(session, Session)
        session.leases.discard(lease)
        session.rests_until = self._clock.monotonic() + rest
        session.turn += 1
        self._kept(session)
        self._changed.set()

    async def close(self) -> None:
        """Let all sessions go."""
        waiting = [*self._keeping, *filter(None, (self._accepting,))]
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        held, self._held = self._held, []
        await asyncio.gather(*(session.close() for session in held))

    # Sessions ---------------------------------------------------------------------------------------------------------

    async def _from_held(self, most: int) -> list[Lease]:
        time, monotonic = self._clock.time(), self._clock.monotonic()
        idle = [
            session
            for session in self._held
            if not session.taken and not session.holds(time) and session.rests_until <= monotonic
        ]
        chosen = idle[:most]
        for session in chosen:  # at once: other receives look for sessions beside this one
            session.taken = True
            session.turn += 1
        return [lease for leases in await asyncio.gather(*map(self._next, chosen)) for lease in leases]

    async def _next(self, session: Session) -> list[Lease]:
        """Receive the next message of a session; one that has none, or that failed, is let go."""
        try:
            if session.left(self._clock) < self._lease * _RENEW:
                # The lock is the session's: without this, the next message would have what the last one left of it.
                await session.manage([_renewal])
            found = await session.receive(1, _NEXT if session.proven else _FIRST) if not session.broken else []
        except Exception as error:
            _log.info("a session was lost: %r", error)
            found = []
        finally:
            session.taken = False
        if not found:
            self._let_go(session)
        return session.lease(found, session.ends)

    async def _accept(self, patience: float) -> None:
        session = Session(self._make(patience))
        try:
            await session.open(patience + _FIRST)
        except OperationTimeoutError:  # there is none
            self._spawn(session.close())
            return
        except BaseException:
            self._spawn(session.close())
            raise
        finally:
            self._changed.set()
        if session.session.locked_until_utc is None:  # the link was refused, and the SDK has not read of it yet: there is none
            self._spawn(session.close())
            return
        left = session.left(self._clock)
        if left < self._lease * ENOUGH:
            self._spawn(session.close())
            raise short_lock(self._named, left, self._lease)
        self._held.append(session)
        session.turn += 1
        self._kept(session)

    def _kept(self, session: Session) -> None:
        keeping = asyncio.ensure_future(self._keep(session, session.turn))
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)

    def _room(self) -> bool:
        """Tell whether one more may be held: those that rest do not keep the others out, up to as many again."""
        monotonic = self._clock.monotonic()
        working = sum(session.rests_until <= monotonic for session in self._held)
        return working < self._most and len(self._held) < 2 * self._most

    async def _keep(self, session: Session, turn: int) -> None:
        """Keep the lock while the session rests; then, when nobody turns to it, let it go."""
        while (rest := session.rests_until - self._clock.monotonic()) > 0:
            if session.left(self._clock) < min(rest + 1.0, self._lease * _RENEW):
                await session.manage([_renewal])
            if session.turn != turn or session.broken or session.left(self._clock) <= 0:
                break  # it is somebody else's, or its lock is lost: nothing is kept by staying
            await asyncio.sleep(min(rest, self._lease / 4))
            if session.turn != turn:
                return
        self._changed.set()
        await asyncio.sleep(_IDLE)
        if session.turn == turn:
            self._let_go(session)

    def _let_go(self, session: Session) -> None:
        if session in self._held:
            self._held.remove(session)
            self._spawn(session.close())
            self._changed.set()

    def _drop_broken(self, link: Link) -> None:
        if link.broken and isinstance(link, Session):
            self._let_go(link)

    async def _wait(self, longest: float) -> None:
        """Wait until something changes, a session has rested, or so many seconds are over."""
        monotonic = self._clock.monotonic()
        rests = [session.rests_until - monotonic for session in self._held if session.rests_until > monotonic]
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([changed], timeout=min([longest, SHORTEST, *rests]))
        finally:
            changed.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await changed


async def _renewal(receiver: ServiceBusReceiver) -> None:
    session = receiver.session
    assert session is not None, "it was opened with one"
    await session.renew_lock()
