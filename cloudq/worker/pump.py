"""Walks delayed messages from the delay part to their queues, hop by hop, where a delay is longer than the provider's own.

Each hop is one of three steps, and a kill between any two calls loses nothing: hold (release for as long as the provider can
hide it), forward (send to the queue with the rest of the delay, confirm, ack), or where the provider hides no more, or would
forget it soon, send anew (to the delay part, confirm, ack). The pump keeps nothing in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from cloudq import deadletters
from cloudq.batching import cut
from cloudq.clock import Clock
from cloudq.delay import Forward, next_hop
from cloudq.driver import RECORD, Delivery, Outgoing, Queue, Release, Settled
from cloudq.envelope import Envelope, Newer, copy, decode
from cloudq.errors import DriverError
from cloudq.events import Event, Events, Name
from cloudq.outcome import Bury, Kind
from cloudq.worker.held import Station

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: A step that failed is tried again after this many seconds.
_AGAIN = 5.0
#: Longest time for one hop, and for a receive after its wait, in seconds.
_HOP, _OVERDUE = 15.0, 30.0
#: How often a provider that hides only so many is asked how many it hides: in seconds, and in messages that this pump has
#: hidden, because there are other pumps.
_COUNT_EVERY, _COUNT_AFTER = 300.0, 500


@dataclass(frozen=True, slots=True)
class _Copy:
    """What is to be sent before the original is removed, and what is told then."""

    target: Queue
    outgoing: Outgoing
    told: Name | None
    detail: dict[str, str]


class Pump:
    """The pump of one logical queue's delay part."""

    def __init__(
        self, stations: Sequence[Station], station: Station, clock: Clock, events: Events, *, wait: float = 20.0
    ) -> None:
        """`station` is any of the logical queue; its priorities are looked up in `stations`.

        It waits so long for something to do, in seconds: a stop may have to wait as long, where a receive cannot be broken off.
        """
        self._wait = min(wait, station.limits.receive_wait)
        self._station = station
        self._mains = {other.queue.priority: other.queue for other in stations if other.queue.logical == station.queue.logical}
        self._clock = clock
        self._events = events
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()
        self._busy = False
        self._task: asyncio.Task[None] | None = None
        #: How many messages the delay part hides, as far as is known, and when it was asked.
        self._parked = 0.0
        self._counted_at = float("-inf")
        self._hidden_since = 0

    async def run(self) -> None:
        """Pump until stopped."""
        self._task = asyncio.current_task()
        try:
            await self._pump()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            self._stopped.set()

    async def once(self) -> int:
        """Take every step that is due now. Returns how many were taken."""
        station, taken = self._station, 0
        while deliveries := await station.driver.receive(station.delay, station.limits.receive_count, 0.0):
            await self._round(deliveries)
            taken += len(deliveries)
        return taken

    async def stop(self) -> None:
        """Finish the hops under way; what was not taken stays with the provider."""
        self._stop.set()
        if self._task is not None:
            if not self._busy:
                self._task.cancel()
            await self._stopped.wait()

    async def _pump(self) -> None:
        pause = _FIRST_PAUSE
        limits = self._station.limits
        wait = self._wait
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(wait + _OVERDUE):
                    deliveries = await self._station.driver.receive(self._station.delay, limits.receive_count, wait)
            except (DriverError, TimeoutError) as error:
                self._report(Name.RECEIVE_FAILED, reason=str(error) or "no answer", retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            self._busy = True
            await self._round(deliveries)
            self._busy = False

    async def _round(self, deliveries: Sequence[Delivery]) -> None:
        """Take one step with each: its copies first, then one request for all acks and one for all holds."""
        if not deliveries:
            return
        # Well within the lease, so that no step settles what may be somebody else's by then.
        patience = min(_HOP, min(delivery.leased_for for delivery in deliveries) / 4)
        await self._count_parked(patience)
        steps = [(delivery, self._plan(delivery)) for delivery in deliveries]
        held = [Release(delivery, step) for delivery, step in steps if not isinstance(step, _Copy)]
        copies = [(delivery, step) for delivery, step in steps if isinstance(step, _Copy)]
        sent = await asyncio.gather(*(self._send(delivery, made, patience) for delivery, made in copies))
        confirmed = [pair for pair, well in zip(copies, sent, strict=True) if well]
        held += [Release(delivery, _AGAIN) for (delivery, _), well in zip(copies, sent, strict=True) if not well]
        for acks in cut(confirmed, self._station.limits.settle_count):
            await self._ack(acks, patience)
        for holds in cut(held, self._station.limits.settle_count):
            await self._hold(holds, patience)

    def _plan(self, delivery: Delivery) -> _Copy | float:
        """Return the copy to make, or for how long the message is to be hidden."""
        station, now = self._station, self._clock.time()
        envelope = decode(delivery.body)
        if isinstance(envelope, Newer):
            return min(300.0, station.limits.release_delay)
        if not isinstance(envelope, Envelope):
            return self._burial(delivery, envelope.reason, now)
        due = envelope.due if envelope.due is not None else now
        hop = next_hop(due, now, station.limits, ordered=station.queue.ordered)
        if isinstance(hop, Forward):
            target = self._mains.get(envelope.priority, station.queue)
        elif self._may_park(delivery, now + hop.delay):
            self._parked += 1
            self._hidden_since += 1
            return hop.delay
        else:
            target, hop = station.delay, Forward(min(station.limits.send_delay, hop.delay))
        generation = envelope.generation + 1
        body = copy(delivery.body, generation=generation, attempts=envelope.attempts, due=due)
        outgoing = Outgoing(body, f"{envelope.id}:{generation}", hop.delay, envelope.group)
        return _Copy(target, outgoing, Name.FORWARDED if target is not station.delay else None, {"task_id": envelope.id})

    def _burial(self, delivery: Delivery, reason: str, now: float) -> _Copy:
        bury = Bury(Kind.UNREADABLE, reason)
        limits, attempts = self._station.limits, delivery.deliveries
        record = deadletters.write(bury, delivery, limits, now=now, task="", task_id="", attempts=attempts)
        outgoing = Outgoing(delivery.body, delivery.message_id, attributes={**delivery.attributes, RECORD: record})
        return _Copy(self._station.dead, outgoing, Name.DEAD_LETTERED, {"kind": bury.kind.value, "reason": bury.reason})

    def _may_park(self, delivery: Delivery, until: float) -> bool:
        """A provider forgets what is old and hides only so many: then a copy, with an age of its own, takes its place."""
        limits = self._station.limits
        sent_at = delivery.sent_at
        return self._parked < limits.parked and (sent_at is None or until - sent_at <= limits.retention / 2)

    async def _count_parked(self, patience: float) -> None:
        """Ask how many are hidden, once in a while; in between, what this pump hides is added."""
        limits, now = self._station.limits, self._clock.monotonic()
        recent = now - self._counted_at < _COUNT_EVERY and self._hidden_since < _COUNT_AFTER
        if limits.parked == float("inf") or (recent and self._parked < limits.parked):
            return
        self._counted_at, self._hidden_since = now, 0
        with contextlib.suppress(DriverError, TimeoutError):  # the older figure stands
            async with asyncio.timeout(patience):
                stats = await self._station.driver.stats(self._station.delay)
                self._parked = stats.in_flight or 0

    async def _send(self, delivery: Delivery, made: _Copy, patience: float) -> bool:
        try:
            async with asyncio.timeout(patience):
                await self._station.sender.send(made.target, made.outgoing)
        except (DriverError, TimeoutError) as error:
            self._unknown(delivery, str(error))
            return False
        return True

    async def _ack(self, batch: Sequence[tuple[Delivery, _Copy]], patience: float) -> None:
        """Remove what has been copied. What is not confirmed as removed comes back: a duplicate, never a loss."""
        answers: Sequence[Settled] = [Settled.UNKNOWN] * len(batch)
        reason = ""
        try:
            async with asyncio.timeout(patience):
                answers = await self._station.driver.ack(self._station.delay, [delivery for delivery, _ in batch])
        except (DriverError, TimeoutError) as error:
            reason = str(error)
        for (delivery, made), answer in zip(batch, answers, strict=True):
            if answer is not Settled.OK:
                self._unknown(delivery, reason or answer.value)
            if made.told is not None:
                self._report(made.told, **made.detail)

    async def _hold(self, batch: Sequence[Release], patience: float) -> None:
        """Hide again. What is not hidden comes back when its lease ends, and takes its step then."""
        try:
            async with asyncio.timeout(patience):
                await self._station.driver.release(self._station.delay, batch)
        except (DriverError, TimeoutError) as error:
            for release in batch:
                self._unknown(release.delivery, str(error))

    def _unknown(self, delivery: Delivery, reason: str) -> None:
        self._report(Name.SETTLE_UNKNOWN, step="hop", task_id=delivery.message_id, reason=reason)

    def _report(self, name: Name, **detail: str | float) -> None:
        self._events.emit(Event(name, self._clock.time(), self._station.queue.logical, detail=detail))
