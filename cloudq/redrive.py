"""Dead letters, taken back or thrown away: one walk over the dead part for both, on every provider.

A letter that is redriven is sent to its queue, confirmed, and only then removed: a kill at any point leaves it dead, or twice,
and never nowhere. It begins again: no attempts, a new age, and without an expiry that has passed. What is not meant is held
until the end of the walk and then given back, because where a provider cannot look, whoever wants one letter receives them all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cloudq.app import CloudQ
from cloudq.batching import cut
from cloudq.clock import Clock
from cloudq.deadletters import Letter, Wanted, open_letter
from cloudq.driver import RECORD, Delivery, Driver, MovesDeadLetters, Outgoing, Part, Queue, Release, Settled
from cloudq.envelope import anew
from cloudq.errors import DriverError, OutcomeUnknown, Unsupported
from cloudq.sending import Sender

#: A receive of the dead part that finds nothing for so many seconds has found its end.
_END = 1.0
#: How often a move by the provider is looked at, in seconds.
_LOOK = 1.0


@dataclass(slots=True)
class Tally:
    """What became of the letters. `doubtful` may have been sent back and are perhaps still dead too; `failed` surely stayed."""

    done: int = 0
    failed: int = 0
    doubtful: int = 0
    kept: int = 0
    #: The first error.
    error: str = ""


Progress = Callable[[Tally], None]


class Work(Protocol):
    """`redrive` or `purge`."""

    def __call__(
        self, app: CloudQ, queue: str, wanted: Wanted, *, limit: int, rate: float | None, progress: Progress
    ) -> Coroutine[Any, Any, Tally]:
        """Do it with the dead letters of a queue that are wanted."""
        ...


async def redrive(
    app: CloudQ, queue: str, wanted: Wanted, *, limit: int, rate: float | None = None, progress: Progress = lambda _: None
) -> Tally:
    """Send dead letters of a queue back to it, at most `limit`, at most `rate` a second. Those of its future are left."""
    async with app.driver(app.url_of(queue)) as driver:
        tasks: set[asyncio.Task[None]] = set()

        def spawn(work: Awaitable[None]) -> asyncio.Task[None]:
            task = asyncio.ensure_future(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        sender = Sender(driver, app.clock, spawn, app.draw)
        mains = {address.priority: address for address in app.addresses(queue) if address.part is Part.MAIN}

        async def send_back(letter: Letter) -> None:
            envelope, delivery = letter.envelope, letter.delivery
            attributes = {name: value for name, value in delivery.attributes.items() if name != RECORD}
            if envelope is None:
                # Another id: within a dedup window, a copy under the old one would be dropped, and confirmed.
                another = f"{delivery.message_id[:90]}:{app.new_id()[:8]}"
                await sender.send(mains["normal"], Outgoing(delivery.body, another, 0.0, delivery.group, attributes))
                return
            generation = envelope.generation + 1
            body = anew(delivery.body, generation=generation, now=round(app.clock.time(), 3))
            copy = Outgoing(body, f"{envelope.id}:{generation}", 0.0, envelope.group, attributes)
            await sender.send(mains.get(envelope.priority, mains["normal"]), copy)

        walk = _Walk(driver, app.address(queue, Part.DEAD), app.clock, send_back, rate, progress)
        return await walk.over(wanted, limit)


async def purge(
    app: CloudQ, queue: str, wanted: Wanted, *, limit: int, rate: float | None = None, progress: Progress = lambda _: None
) -> Tally:
    """Remove dead letters of a queue for good, at most `limit`."""
    async with app.driver(app.url_of(queue)) as driver:

        async def nothing(_letter: Letter) -> None: ...

        return await _Walk(driver, app.address(queue, Part.DEAD), app.clock, nothing, rate, progress).over(wanted, limit)


async def move(app: CloudQ, queue: str, *, rate: float | None = None, progress: Progress = lambda _: None) -> Tally:
    """Have the provider move all dead letters of a queue back by itself, and watch it until it ends.

    Nothing is looked at or rewritten: a task keeps its age, its expiry and its record, and all go to the queue's normal
    priority. Unsupported where the provider cannot.
    """
    async with app.driver(app.url_of(queue)) as driver:
        if app.address(queue, Part.MAIN).ordered:
            raise Unsupported(
                f"the queue {queue!r} is ordered, and a move by the provider keeps no ordering key. Redrive without --bulk."
            )
        if not isinstance(driver, MovesDeadLetters):
            raise Unsupported(
                f"{driver.limits.provider} moves no dead letters by itself. Redrive them one by one: without --bulk."
            )
        dead = app.address(queue, Part.DEAD)
        await driver.move_dead_letters(dead, app.address(queue, Part.MAIN), rate)
        while (moved := await driver.moved(dead)).running:
            progress(Tally(done=moved.count))
            await asyncio.sleep(_LOOK)
        return Tally(done=moved.count, doubtful=int(not moved.well), error="" if moved.well else moved.state)


class _Walk:
    """Receives every dead letter once, and does something with those that are meant."""

    def __init__(
        self,
        driver: Driver,
        dead: Queue,
        clock: Clock,
        act: Callable[[Letter], Awaitable[None]],
        rate: float | None,
        progress: Progress,
    ) -> None:
        """`act` is done before a letter is removed; when it raises a DriverError, the letter stays."""
        self._driver = driver
        self._dead = dead
        self._clock = clock
        self._act = act
        self._rate = rate
        self._progress = progress
        self._tally = Tally()
        self._held: list[Delivery] = []
        self._extended_at = clock.monotonic()

    async def over(self, wanted: Wanted, limit: int) -> Tally:
        # What dies while this goes on is not met again and again: a task that fails at once would never end it.
        began = self._clock.time()
        try:
            while (room := limit - self._tally.done - self._tally.failed - self._tally.doubtful) > 0:
                count = min(room, self._driver.limits.receive_count, max(1, int(self._rate or room)))
                batch = await self._driver.receive(self._dead, count, min(_END, self._driver.limits.receive_wait))
                if not batch:
                    break
                letters = [open_letter(delivery) for delivery in batch]
                meant = [letter for letter in letters if wanted.fits(letter) and letter.record.at <= began]
                chosen = {id(letter.delivery) for letter in meant}
                not_meant = [letter.delivery for letter in letters if id(letter.delivery) not in chosen]
                self._held += not_meant
                self._tally.kept += len(not_meant)
                await self._take(meant)
                await self._keep()
                await self._pace(len(meant))
        finally:
            await self._give_back()
        return self._tally

    async def _pace(self, done: int) -> None:
        """Wait as the rate asks, in pieces in which no lease runs out."""
        rest = done / self._rate if self._rate is not None else 0.0
        while rest > 0:
            piece = min(rest, self._dead.lease / 4)
            await asyncio.sleep(piece)
            rest -= piece
            await self._keep()

    async def _give_back(self) -> None:
        for part in cut(self._held, self._driver.limits.settle_count):
            with contextlib.suppress(DriverError):  # its lease brings it back
                await self._driver.release(self._dead, [Release(delivery, counted=False) for delivery in part])

    async def _take(self, letters: Sequence[Letter]) -> None:
        results = await asyncio.gather(*(self._act(letter) for letter in letters), return_exceptions=True)
        acted: list[Delivery] = []
        for letter, result in zip(letters, results, strict=True):
            if result is None:
                acted.append(letter.delivery)
            elif isinstance(result, DriverError):
                # Without an answer the copy may be there; either way the letter stays.
                doubtful = isinstance(result, OutcomeUnknown)
                self._count(result, doubtful=int(doubtful), failed=int(not doubtful))
                self._held.append(letter.delivery)
            else:
                raise result
        for part in cut(acted, self._driver.limits.settle_count):
            try:
                answers = await self._driver.ack(self._dead, part)
            except DriverError as error:
                self._count(error, doubtful=len(part))
                continue
            self._tally.done += sum(answer is Settled.OK for answer in answers)
            self._tally.doubtful += sum(answer is not Settled.OK for answer in answers)
        self._progress(self._tally)

    def _count(self, error: DriverError, *, doubtful: int = 0, failed: int = 0) -> None:
        self._tally.doubtful += doubtful
        self._tally.failed += failed
        self._tally.error = self._tally.error or str(error)

    async def _keep(self) -> None:
        """Keep the leases of what is held, so that it is not received again."""
        if self._clock.monotonic() - self._extended_at < self._dead.lease / 2:
            return
        self._extended_at = self._clock.monotonic()
        kept: list[Delivery] = []
        for part in cut(self._held, self._driver.limits.settle_count):
            answers = await self._driver.extend(self._dead, part, self._dead.lease)
            kept += [delivery for delivery, answer in zip(part, answers, strict=True) if answer is not Settled.LOST]
        self._held = kept
