"""Carries out the one settlement that was decided for a delivery: ack, release, resend-then-ack, or dead-letter.

Rules that hold on every path: a message is acked only after its copy is confirmed; a delivery whose lease is lost is not
settled at all; an answer that does not come is asked for again while the lease lasts, and reported when it does not come.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from cloudq import deadletters
from cloudq.batching import Batcher, Spawn
from cloudq.clock import Clock
from cloudq.delay import route
from cloudq.driver import RECORD, Burial, Outgoing, Part, Queue, Release, Settled
from cloudq.envelope import Envelope, copy
from cloudq.errors import DriverError, Unsupported
from cloudq.events import Event, Events, Name
from cloudq.outcome import Ack, Bury, GiveBack, Resend, Settlement
from cloudq.worker.held import Held, Station
from cloudq.worker.leases import Leases

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: When a copy cannot be sent for this share of a lease, the delivery is given back, so that its slot is free for work that
#: can end. Meanwhile its lease is renewed.
_PATIENCE = 1.0
_COPY_FAILED_DELAY = 5.0
#: For this many leases a settlement is asked for again. Fewer would run work twice for a short outage; more would pile up
#: messages in a worker whose right to settle was taken away.
_TRIED_FOR = 5


class Settler:
    """Settles what comes from one station, in batches."""

    def __init__(
        self, station: Station, leases: Leases, clock: Clock, events: Events, spawn: Spawn, draw: random.Random
    ) -> None:
        """`spawn` owns the tasks; `draw` spreads pauses."""
        self._station = station
        self._leases = leases
        self._clock = clock
        self._events = events
        self._spawn = spawn
        self._draw = draw
        #: What is decided and not yet confirmed, given up, or lost.
        self._open: dict[Held, None] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        limits = station.limits
        # A tenth of the lease at the most: what lingers is lost to a kill and runs again. Ordered work does not linger, for
        # the next of its key waits.
        linger = 0.0 if station.queue.ordered else min(limits.linger, station.queue.lease / 10)

        def batcher(handle: Callable[[list[tuple[Held, T]]], Awaitable[None]]) -> Batcher[tuple[Held, T]]:
            return Batcher(handle, spawn, max_count=limits.settle_count, linger=linger)

        self._acks: Batcher[tuple[Held, Ack]] = batcher(self._ack)
        self._releases: Batcher[tuple[Held, GiveBack]] = batcher(self._release)
        self._burials: Batcher[tuple[Held, Bury]] = batcher(self._bury)

    def settle(self, held: Held, settlement: Settlement, envelope: Envelope | None) -> None:
        """Settle, in the background. `held.then` is called at the end, with whether it was confirmed.

        The lease is kept meanwhile, but not for ever: a settlement without an answer is tried again while it lasts.
        """
        assert held.finished, "the engine decides once"
        held.renew_until = self._clock.monotonic() + _TRIED_FOR * self._station.queue.lease
        self._open[held] = None
        self._none_open.clear()
        match settlement:
            case Ack():
                self._acks.add((held, settlement))
            case GiveBack():
                self._releases.add((held, settlement))
            case Bury() if self._station.limits.native_dead_letter:
                self._burials.add((held, settlement))
            case Bury() | Resend():
                self._spawn(self._compose(held, settlement, envelope))

    def hurry(self) -> None:
        """A shutdown is waiting: nothing lingers any more."""
        for batcher in (self._acks, self._releases, self._burials):
            batcher.hurry()

    def settling(self) -> bool:
        """Tell whether anything that was decided is not yet confirmed."""
        return bool(self._open)

    async def join(self) -> None:
        """Wait until everything is settled, or given up to its lease."""
        await self._none_open.wait()

    # Batches ----------------------------------------------------------------------------------------------------------

    async def _ack(self, batch: list[tuple[Held, Ack]]) -> None:
        driver, queue = self._station.driver, self._station.queue

        def call(part: Sequence[tuple[Held, Ack]]) -> Awaitable[Sequence[Settled]]:
            return driver.ack(queue, [held.delivery for held, _ in part])

        await self._ask(self._acks, batch, call, Name.ACKED)

    async def _release(self, batch: list[tuple[Held, GiveBack]]) -> None:
        driver, queue = self._station.driver, self._station.queue

        def call(part: Sequence[tuple[Held, GiveBack]]) -> Awaitable[Sequence[Settled]]:
            return driver.release(queue, [Release(held.delivery, how.delay, how.counted) for held, how in part])

        await self._ask(self._releases, batch, call, Name.RELEASED)

    async def _bury(self, batch: list[tuple[Held, Bury]]) -> None:
        station = self._station

        def call(part: Sequence[tuple[Held, Bury]]) -> Awaitable[Sequence[Settled]]:
            burials = [Burial(held.delivery, bury.kind.value, self._record(held, bury)) for held, bury in part]
            return station.driver.dead_letter(station.queue, station.dead, burials)

        await self._ask(self._burials, batch, call, Name.DEAD_LETTERED)

    async def _ask(
        self,
        batcher: Batcher[tuple[Held, T]],
        batch: list[tuple[Held, T]],
        call: Callable[[Sequence[tuple[Held, T]]], Awaitable[Sequence[Settled]]],
        done: Name,
    ) -> None:
        """Ask once. What gets no answer goes back to its batcher after a pause; it holds up nobody else meanwhile.

        What is lost is not asked for at all: some providers would say OK to a late ack of somebody else's message.
        """
        alive: list[tuple[Held, T]] = []
        for held, how in batch:
            if not held.lost():
                alive.append((held, how))
                continue
            if held.unanswered:
                self._report(Name.SETTLE_UNKNOWN, held)
            self._leases.lose(held)
            self._end(held, ok=False)
        if not alive:
            return
        for (held, how), answer in zip(alive, await self._answers(alive, call), strict=True):
            if answer is Settled.OK and (self._station.limits.tells_lost or not held.lost()):
                self._report(done, held, **_detail(how))
                self._end(held, ok=True)
            elif answer is Settled.OK:  # it came after the end of the lease, from a provider that would say so in any case
                self._report(Name.SETTLE_UNKNOWN, held)
                self._end(held, ok=False)
            elif answer is Settled.LOST:
                self._report(Name.SETTLE_LOST, held)
                self._end(held, ok=False)
            else:
                held.unanswered += 1
                pause = min(_FIRST_PAUSE * 2 ** (held.unanswered - 1), _LONGEST_PAUSE) * self._draw.uniform(0.5, 1.0)
                asyncio.get_running_loop().call_later(pause, batcher.add, (held, how))

    async def _answers(
        self,
        batch: Sequence[tuple[Held, T]],
        call: Callable[[Sequence[tuple[Held, T]]], Awaitable[Sequence[Settled]]],
    ) -> Sequence[Settled]:
        try:
            async with asyncio.timeout(self._station.queue.lease / 4):
                return await call(batch)
        except (DriverError, TimeoutError):
            return [Settled.UNKNOWN] * len(batch)

    # Copies -----------------------------------------------------------------------------------------------------------

    async def _compose(self, held: Held, settlement: Bury | Resend, envelope: Envelope | None) -> None:
        """Send the copy, confirm it, then ack. The lease is kept meanwhile."""
        target, message = (
            (self._station.dead, self._dead_copy(held, settlement))
            if isinstance(settlement, Bury)
            else self._later_copy(held, settlement, envelope)
        )
        confirmed = await self._confirmed(held, target, message)
        if confirmed:
            ran = held.job is not None
            name = Name.DEAD_LETTERED if isinstance(settlement, Bury) else Name.RETRIED if ran else Name.RELEASED
            self._report(name, held, **_detail(settlement))
        if held.lost():
            # Where the copy is there, the original comes back beside it: a duplicate, never a loss.
            self._leases.lose(held)
            self._end(held, ok=False)
        elif confirmed:
            self._acks.add((held, Ack()))
        else:
            self._releases.add((held, GiveBack(min(_COPY_FAILED_DELAY, self._station.limits.release_delay))))

    async def _confirmed(self, held: Held, target: Queue, message: Outgoing) -> bool:
        patience = self._clock.monotonic() + _PATIENCE * self._station.queue.lease
        pause = _FIRST_PAUSE
        while not held.lost():
            try:
                await self._station.sender.send(target, message)
            except DriverError as error:
                self._report(Name.SETTLE_UNKNOWN, held, step="copy", reason=str(error))
                if self._clock.monotonic() + pause >= patience:
                    return False
                await self._pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                return True
        return False

    def _dead_copy(self, held: Held, bury: Bury) -> Outgoing:
        delivery = held.delivery
        message_id = delivery.message_id or held.task_id
        attributes = {**delivery.attributes, RECORD: self._record(held, bury)}
        return Outgoing(delivery.body, message_id, group=delivery.group, attributes=attributes)

    def _later_copy(self, held: Held, resend: Resend, envelope: Envelope | None) -> tuple[Queue, Outgoing]:
        assert envelope is not None, "only what could be read is resent"
        station, generation = self._station, envelope.generation + 1
        due = self._clock.time() + resend.delay
        try:
            first = route(resend.delay, station.limits, envelope.ordering_key, ordered=station.queue.ordered)
        except Unsupported as error:  # `decide` does not resend ordered work
            raise AssertionError(str(error)) from error
        body = copy(
            held.delivery.body,
            generation=generation,
            attempts=resend.attempts,
            due=round(due, 3),
            since=envelope.born,
            offers=resend.offers,
        )
        target = station.queue if first.part is Part.MAIN else station.delay
        return target, Outgoing(body, f"{envelope.id}:{generation}", first.delay, envelope.group)

    def _record(self, held: Held, bury: Bury) -> str:
        return deadletters.write(
            bury,
            held.delivery,
            self._station.limits,
            now=self._clock.time(),
            task=held.task_name,
            task_id=held.task_id,
            attempts=held.job.attempt if held.job is not None else held.delivery.deliveries,
        )

    # Ends -------------------------------------------------------------------------------------------------------------

    def _end(self, held: Held, *, ok: bool) -> None:
        self._leases.drop(held)
        del self._open[held]
        if not self._open:
            self._none_open.set()
        then, held.then = held.then, None
        if then is not None:
            then(ok)

    async def _pause(self, length: float) -> None:
        await asyncio.sleep(length * self._draw.uniform(0.5, 1.0))

    def _report(self, name: Name, held: Held, **detail: str | float) -> None:
        attempt = held.job.attempt if held.job is not None else 0
        self._events.emit(
            Event(name, self._clock.time(), self._station.queue.logical, held.task_name, held.task_id, attempt, detail)
        )


def _detail(settlement: object) -> dict[str, str | float]:
    match settlement:
        case Bury():
            return {"kind": settlement.kind.value, "reason": settlement.reason}
        case GiveBack() | Resend():
            return {"delay": settlement.delay}
        case _:
            return {}
