"""Walks delayed messages from the delay part to their queues, hop by hop, where a delay is longer than the provider's own.

Each hop is one of two steps, and a kill between any two calls loses nothing: hold (release for as long as the provider can
hide it) or forward (send to the queue with the rest of the delay, confirm, ack). The pump keeps nothing in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from cloudq import deadletters
from cloudq.clock import Clock
from cloudq.delay import Forward, next_hop
from cloudq.driver import RECORD, Delivery, Outgoing, Release, Settled
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


class Pump:
    """The pump of one logical queue's delay part."""

    def __init__(self, stations: Sequence[Station], station: Station, clock: Clock, events: Events) -> None:
        """`station` is any of the logical queue; its priorities are looked up in `stations`."""
        self._station = station
        self._mains = {other.queue.priority: other.queue for other in stations if other.queue.logical == station.queue.logical}
        self._clock = clock
        self._events = events
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()
        self._busy = False
        self._task: asyncio.Task[None] | None = None

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
            await asyncio.gather(*(self._step(delivery) for delivery in deliveries))
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
        wait = min(20.0, limits.receive_wait)
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
            await asyncio.gather(*(self._step(delivery) for delivery in deliveries))
            self._busy = False

    async def _step(self, delivery: Delivery) -> None:
        # A step that fails leaves the message where it is: hidden until its lease ends or the release below. It must end
        # well within the lease, so that no step settles what may be somebody else's by then.
        try:
            async with asyncio.timeout(min(_HOP, delivery.leased_for / 2)):
                await self._hop(delivery)
        except (DriverError, TimeoutError) as error:
            self._report(Name.SETTLE_UNKNOWN, step="hop", task_id=delivery.message_id, reason=str(error))
            with contextlib.suppress(DriverError, TimeoutError):
                async with asyncio.timeout(min(_HOP, delivery.leased_for / 4)):
                    await self._station.driver.release(self._station.delay, [Release(delivery, _AGAIN)])

    async def _hop(self, delivery: Delivery) -> None:
        station, now = self._station, self._clock.time()
        envelope = decode(delivery.body)
        if isinstance(envelope, Newer):
            await station.driver.release(station.delay, [Release(delivery, min(300.0, station.limits.release_delay))])
            return
        if not isinstance(envelope, Envelope):
            bury = Bury(Kind.UNREADABLE, envelope.reason)
            record = deadletters.write(
                bury, delivery, station.limits, now=now, task="", task_id="", attempts=delivery.deliveries
            )
            copied = Outgoing(delivery.body, delivery.message_id, attributes={**delivery.attributes, RECORD: record})
            await station.sender.send(station.dead, copied)
            await self._acked(delivery)
            self._report(Name.DEAD_LETTERED, kind=bury.kind.value, reason=bury.reason)
            return
        due = envelope.due if envelope.due is not None else now
        hop = next_hop(due, now, station.limits)
        if not isinstance(hop, Forward):
            await station.driver.release(station.delay, [Release(delivery, hop.delay)])
            return
        generation = envelope.generation + 1
        body = copy(delivery.body, generation=generation, attempts=envelope.attempts, due=due)
        target = self._mains.get(envelope.priority, station.queue)
        await station.sender.send(target, Outgoing(body, f"{envelope.id}:{generation}", hop.delay, envelope.ordering_key))
        await self._acked(delivery)
        self._report(Name.FORWARDED, task_id=envelope.id)

    async def _acked(self, delivery: Delivery) -> None:
        (answer,) = await self._station.driver.ack(self._station.delay, [delivery])
        if answer is not Settled.OK:
            # The copy is there and the original comes back: a duplicate, never a loss.
            self._report(Name.SETTLE_UNKNOWN, step="hop", task_id=delivery.message_id, reason=answer.value)

    def _report(self, name: Name, **detail: str | float) -> None:
        self._events.emit(Event(name, self._clock.time(), self._station.queue.logical, detail=detail))
