"""Keeps the leases of everything in hand, from a loop that no task runs on.

A lease is renewed at half its length. A renewal that fails is tried again until the lease ends; then, or when the provider
says that it is gone, the task is told and its result will not be settled, whatever the provider would say: on some, a late
ack of a message that somebody else runs would be accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cloudq.batching import Spawn, cut
from cloudq.clock import Clock
from cloudq.driver import Settled
from cloudq.errors import DriverError
from cloudq.events import Event, Events, Name
from cloudq.worker.held import Held, Station

#: Renewals that fall due within this share of a lease go out together.
_TOGETHER = 0.1
#: After a failed renewal, the next try comes after this share of the lease.
_AGAIN = 0.05


class Leases:
    """The lease keeper of one engine."""

    def __init__(self, clock: Clock, events: Events, spawn: Spawn, lost: Callable[[Held], None]) -> None:
        """`spawn` owns the tasks; `lost` is called for every lease that is lost."""
        self._clock = clock
        self._spawn = spawn
        self._lost = lost
        self._events = events
        self._held: dict[Held, None] = {}  # a dict for its order: renewals must not depend on hash values
        self._sooner = asyncio.Event()
        self._target = float("inf")
        #: Longest time by which a renewal came later than planned, in seconds: what a starved loop shows.
        self.worst_gap: float = 0.0

    def hold(self, held: Held) -> None:
        """Keep this lease until `drop`."""
        self._held[held] = None
        if self._next_look(held) < self._target:
            self._sooner.set()

    def drop(self, held: Held) -> None:
        """The lease is settled, being settled, or lost."""
        self._held.pop(held, None)

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            self._sooner.clear()
            self._target = min((self._next_look(held) for held in self._held), default=float("inf"))
            now = self._clock.monotonic()
            if self._target > now:
                wait = None if self._target == float("inf") else self._target - now
                try:
                    async with asyncio.timeout(wait):
                        await self._sooner.wait()
                except TimeoutError:
                    pass
                else:
                    continue
            self._renew_due()

    def _next_look(self, held: Held) -> float:
        return min(held.lease_end, held.renew_at, held.renew_until)

    def _renew_due(self) -> None:
        now = self._clock.monotonic()
        due: dict[Station, list[Held]] = {}
        for held in list(self._held):
            if held.lease_end <= now and held.finished:
                self.drop(held)  # its settlement may have been done in time: the settler reports what became of it
            elif held.lease_end <= now:
                self.lose(held)
            elif now >= held.renew_until:
                self._time_out(held)
            elif held.renew_at <= now + _TOGETHER * held.station.queue.lease and not held.renewing:
                if held.renew_at <= now:
                    self.worst_gap = max(self.worst_gap, now - held.renew_at)
                due.setdefault(held.station, []).append(held)
        for station, helds in due.items():
            for batch in cut(helds, station.limits.settle_count):
                # Not awaited: a renewal without an answer must not keep other queues from theirs.
                self._spawn(self._renew(station, self._begun(batch)))

    @staticmethod
    def _begun(batch: Sequence[Held]) -> Sequence[Held]:
        """Mark as being renewed, before anything is awaited: `run` must not find them due again."""
        for held in batch:
            held.renewing, held.renew_at = True, held.lease_end
        return batch

    async def confirm(self, held: Held) -> None:
        """Extend this lease now. `held.extended` tells whether the provider says that it did."""
        await self._renew(held.station, self._begun([held]))

    async def _renew(self, station: Station, batch: Sequence[Held]) -> None:
        lease = station.queue.lease
        began = self._clock.monotonic()
        answers: Sequence[Settled]
        reason = ""
        try:
            # Half of what is left after the half at which it began: time for a second try.
            async with asyncio.timeout(lease / 4):
                answers = await station.driver.extend(station.queue, [held.delivery for held in batch], lease)
        except (DriverError, TimeoutError) as error:
            answers = [Settled.UNKNOWN] * len(batch)
            reason = str(error) or "no answer"
        for held, answer in zip(batch, answers, strict=True):
            held.renewing, held.renew_at = False, self._clock.monotonic() + _AGAIN * lease  # if this try came to nothing
            if held not in self._held:
                continue  # settled meanwhile: the answer is about a message that is gone
            if answer is Settled.OK:
                # From before the request: the provider's count cannot have begun earlier.
                held.extended = True
                held.lease_end = began + lease
                held.renew_at = began + lease / 2
                self._report(Name.RENEWED, held)
            elif answer is Settled.LOST and held.finished:
                self.drop(held)  # perhaps gone by its own settlement, whose answer is on the way
            elif answer is Settled.LOST:
                self.lose(held)
            else:
                self._report(Name.RENEW_FAILED, held, reason=reason)
        self._sooner.set()  # the loop sleeps until the leases end: it is to look at the new times

    def lose(self, held: Held) -> None:
        """The lease is gone: tell the task and the operator, once."""
        self.drop(held)
        if not held.reported_lost:
            held.reported_lost = True
            self._report(Name.LEASE_LOST, held, running=int(held.job is not None and not held.finished))
            self._lost(held)

    def _time_out(self, held: Held) -> None:
        held.renew_until, held.renew_at = float("inf"), float("inf")
        if not held.reported_timeout and held.job is not None and not held.finished:
            held.reported_timeout = True
            self._report(Name.TIMED_OUT, held, timeout=held.job.task.timeout or 0.0)

    def _report(self, name: Name, held: Held, **detail: str | float) -> None:
        attempt = held.job.attempt if held.job is not None else 0
        self._events.emit(
            Event(name, self._clock.time(), held.station.queue.logical, held.task_name, held.task_id, attempt, detail)
        )
