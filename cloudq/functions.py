"""Functions: a platform calls with messages, and asks which of them it is to remove. A worker that does not receive.

    messages -> `Handed`, a driver that receives what was handed over -> the engine of every worker -> True for each to remove

The engine cannot tell such a driver from a queue: what is admitted, how it is run, when it is tried again and when it is given
up is decided in the same places, and carried out by the same code, for a container and for a function. What a platform settles
itself is told by a `Platform`, one for each adapter. The default is always "not removed": whatever goes wrong, or is not over
in time, comes back by the lease that the platform keeps.

A crash cannot be told from a function that was never reached, because the platform counts its deliveries either way. So that
nothing is given up unrun after an outage, what is handed over has never crashed; what ends the process again and again is moved
to the dead part by the provider itself, far behind.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from cloudq.app import CloudQ
from cloudq.batching import cut
from cloudq.driver import Burial, Delivery, Driver, Limits, Outgoing, Part, Queue, Release, Settled, Stats
from cloudq.errors import ConfigError, DriverError, StuckWorker, nearest
from cloudq.facts import facts_of
from cloudq.opening import load_adapter, open_driver, parts_of, scheme_of
from cloudq.portal import Portal
from cloudq.worker.engine import Engine
from cloudq.worker.process import engine_of, plan

T = TypeVar("T")
_log = logging.getLogger("cloudq.functions")

#: By how much the longest run of late shrinks with each that is shorter, so that one that was slow is forgotten.
_FORGET = 0.9
#: Of how many of it there must be time for another to be started.
_MARGIN = 1.25
#: By how much it shrinks with each call in which nothing was started, because it would not have been over in time.
_HALVED = 0.5


#: Returns the provider's own driver, opened when it is first asked for.
Opened = Callable[[], Awaitable[Driver]]


class Platform:
    """What an adapter knows of the platform that calls its functions."""

    #: The provider whose messages it hands over.
    scheme: ClassVar[str]

    def name(self, place: str, options: Mapping[str, str], queue: Queue) -> str:
        """Return the name by which the platform tells from which queue a message is. The URL is `scheme://place?options`."""
        raise NotImplementedError

    def limits(self, of: Limits) -> Limits:
        """Return what can still be done with a message that was handed over, where the provider can do this much."""
        return of

    async def release(self, driver: Opened, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:  # noqa: ARG002  for those that need it
        """Give back, as in `Driver.release`. By default nothing is done: the answer to the call is all that is needed."""
        return [Settled.OK] * len(batch)

    async def dead_letter(self, driver: Opened, queue: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:
        """As in `Driver.dead_letter`. Called where the limits say that it is native."""
        raise NotImplementedError


@dataclass(slots=True, eq=False)
class _Call:
    """One call of the platform: until when it may last, and what is not over. Times of the monotonic clock."""

    until: float
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    #: Not over, and of those how many the engine has.
    left: int = 0
    running: int = 0


@dataclass(slots=True, eq=False)
class _Item:
    call: _Call
    queue: Queue
    delivery: Delivery
    #: What the engine has been given, and when.
    given: Delivery | None = None
    given_at: float = 0.0
    over: bool = False
    removed: bool = False

    @property
    def lane(self) -> str | None:
        return self.delivery.group if self.queue.ordered else None


class Handed:
    """A driver whose messages are handed over. It sends through the provider's own, which is opened when it is needed."""

    def __init__(self, url: str, app: CloudQ, platform: Platform, limits: Limits, concurrency: int) -> None:
        """`limits` are those of what is handed over, of which so many run at once."""
        self._url = url
        self._app = app
        self._platform = platform
        self._limits = limits
        self._concurrency = concurrency
        self._behind: Driver | None = None
        self._opening = asyncio.Lock()
        self._waiting: dict[Queue, deque[_Item]] = {}
        self._news: dict[Queue, asyncio.Event] = {}
        self._out: dict[Delivery, _Item] = {}
        self._longest: dict[Queue, float] = {}
        self._broken_off = False

    @property
    def limits(self) -> Limits:
        """Of what is handed over."""
        return self._limits

    async def hand_over(self, queue: Queue, deliveries: Sequence[Delivery], patience: float, spare: float) -> list[bool]:
        """Have messages run, for `patience` seconds at the most. Returns, for each, whether the platform is to remove it.

        `spare` is how many seconds more there are for giving back what was not started.
        """
        if self._broken_off:
            return [False] * len(deliveries)
        call = _Call(self._app.clock.monotonic() + patience, left=len(deliveries))
        items = [_Item(call, queue, replace(delivery, crashes=0)) for delivery in deliveries]
        self._waiting.setdefault(queue, deque()).extend(items)
        self._bell(queue).set()
        try:
            while call.left and (pause := self._pause(queue, call)) > 0:
                call.changed.clear()
                try:
                    async with asyncio.timeout(pause):
                        await call.changed.wait()
                except TimeoutError:
                    pass
        finally:
            unstarted = [item for item in items if item.given is None]
            for item in items:
                self._end(item, removed=False)
        if unstarted:
            if len(unstarted) == len(items):
                self._longest[queue] = self._longest.get(queue, 0.0) * _HALVED
            await self._return(queue, unstarted, spare)
        return [item.removed for item in items]

    def break_off(self) -> None:
        """Nobody runs what is here, or comes, any more: it is not to be removed."""
        self._broken_off = True
        for item in [*self._out.values(), *(item for line in self._waiting.values() for item in line)]:
            self._end(item, removed=False)

    def _pause(self, queue: Queue, call: _Call) -> float:
        """Return how many seconds there is something to wait for; 0 for nothing any more."""
        now = self._app.clock.monotonic()
        late = self._late(queue, call)
        if call.running < call.left and now < late:
            return late - now
        return call.until - now if call.running else 0.0

    def _late(self, queue: Queue, call: _Call) -> float:
        """Return from when on nothing more is started: it would not be over in time."""
        return call.until - _MARGIN * self._longest.get(queue, 0.0)

    async def _return(self, queue: Queue, unstarted: Sequence[_Item], spare: float) -> None:
        """Give back what was not started, so that it need not wait for the end of its lease.

        Each for about as long as those before it take: given back at once, all of a large batch would be delivered again and
        again, and the provider's net counts deliveries. What is behind another of its key waits for that one anyway.
        """
        step = 0.0 if queue.ordered else self._longest.get(queue, 0.0) / self._concurrency
        releases = [
            Release(item.delivery, min(position * step, self._limits.release_delay), counted=False)
            for position, item in enumerate(unstarted)
        ]
        parts = cut(releases, self._limits.settle_count)
        try:
            async with asyncio.timeout(spare):
                await asyncio.gather(*(self._platform.release(self._open, queue, part) for part in parts))
        except Exception as error:  # whatever it is, what has succeeded in this call is to be told as such
            _log.warning("%s: what was not started comes back by its lease: %s", queue.physical, str(error) or "no answer")

    def _bell(self, queue: Queue) -> asyncio.Event:
        return self._news.setdefault(queue, asyncio.Event())

    def _end(self, item: _Item, *, removed: bool, ran: bool = False) -> None:
        """`ran` says that the engine is done with it: only then is it known how long it took."""
        if item.over:
            return
        item.over, item.removed = True, removed
        call = item.call
        call.left -= 1
        if item.given is not None:
            call.running -= 1
            self._out.pop(item.given, None)
        if ran:
            took = self._app.clock.monotonic() - item.given_at
            self._longest[item.queue] = max(took, self._longest.get(item.queue, 0.0) * _FORGET)
        call.changed.set()
        if item.lane is not None:
            self._bell(item.queue).set()  # the next of its key

    # Driver -----------------------------------------------------------------------------------------------------------

    async def receive(self, queue: Queue, max_messages: int, wait: float) -> Sequence[Delivery]:
        """Return what was handed over, as leases that last as long as its call."""
        deadline = self._app.clock.monotonic() + wait
        while True:
            bell = self._bell(queue)
            bell.clear()
            taken = self._take(queue, max_messages)
            left = deadline - self._app.clock.monotonic()
            if taken or left <= 0:
                return taken
            try:
                async with asyncio.timeout(left):
                    await bell.wait()
            except TimeoutError:
                return []

    def _take(self, queue: Queue, most: int) -> list[Delivery]:
        now = self._app.clock.monotonic()
        line, taken, stays = self._waiting.get(queue, deque[_Item]()), list[Delivery](), deque[_Item]()
        busy = {item.lane for item in self._out.values() if item.queue is queue}
        while line and len(taken) < most:
            item = line.popleft()
            if item.over:
                continue
            behind = item.lane is not None and item.lane in busy
            busy.add(item.lane)
            if behind or now >= self._late(queue, item.call):
                stays.append(item)
                continue
            item.given, item.given_at = replace(item.delivery, leased_for=item.call.until - now), now
            item.call.running += 1
            self._out[item.given] = item
            taken.append(item.given)
        line.extendleft(reversed(stays))
        return taken

    async def ack(self, queue: Queue, batch: Sequence[Delivery]) -> Sequence[Settled]:  # noqa: ARG002  the contract's
        """Have the platform remove it. LOST when its call is over."""
        answers: list[Settled] = []
        for delivery in batch:
            item = self._out.get(delivery)
            answers.append(Settled.LOST if item is None else Settled.OK)
            if item is not None:
                self._end(item, removed=True, ran=True)
        return answers

    async def release(self, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:
        """Have the platform keep it. In an ordered queue, what is behind it in this call comes back too."""
        alive = [release for release in batch if release.delivery in self._out]
        told: Mapping[Delivery, Settled] = {}
        if alive:
            answers = await self._platform.release(self._open, queue, alive)
            told = {release.delivery: answer for release, answer in zip(alive, answers, strict=True)}
        return [self._settled(release.delivery, told, removed=False) for release in batch]

    async def dead_letter(self, queue: Queue, dead: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:  # noqa: ARG002  built in
        """Have the platform move it, where it can."""
        alive = [burial for burial in batch if burial.delivery in self._out]
        answers = await self._platform.dead_letter(self._open, queue, alive) if alive else ()
        told = {burial.delivery: answer for burial, answer in zip(alive, answers, strict=True)}
        return [self._settled(burial.delivery, told, removed=True) for burial in batch]

    def _settled(self, delivery: Delivery, told: Mapping[Delivery, Settled], *, removed: bool) -> Settled:
        answer, item = told.get(delivery, Settled.LOST), self._out.get(delivery)
        # Of the delay part it is not asked again: the pump leaves what got no answer to its lease.
        if item is None or (answer is Settled.UNKNOWN and item.queue.part is Part.MAIN):
            return answer
        if not removed and item.lane is not None:
            for behind in self._waiting.get(item.queue, ()):
                if behind.lane == item.lane and behind.call is item.call:
                    self._end(behind, removed=False)
        self._end(item, removed=removed and answer is Settled.OK, ran=True)
        return answer

    async def extend(self, queue: Queue, batch: Sequence[Delivery], lease: float) -> Sequence[Settled]:  # noqa: ARG002  as above
        """The platform keeps the leases: there is nothing to ask for."""
        return [Settled.UNKNOWN] * len(batch)

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> Mapping[int, DriverError]:
        """Send through the provider's driver."""
        return await (await self._open()).send(queue, batch)

    async def stats(self, queue: Queue) -> Stats:
        """Count, through the provider's driver."""
        return await (await self._open()).stats(queue)

    def unwrap(self, kind: type[T]) -> T:
        """There is no native client of what is handed over."""
        raise TypeError(f"{self._url} is handed over to a function; there is no {kind.__name__} behind it")

    async def aclose(self) -> None:
        """Close the provider's driver, if it was opened."""
        if self._behind is not None:
            await self._behind.aclose()

    async def _open(self) -> Driver:
        async with self._opening:
            if self._behind is None:
                # An SDK takes part of a second to import, in which leases and deadlines go on.
                await asyncio.to_thread(load_adapter, self._url)
                self._behind = open_driver(self._url, self._app.clock)
            return self._behind


class Functions:
    """The tasks of an application, for a platform to call. Making one connects to nothing."""

    def __init__(self, app: CloudQ, platform: Platform, queues: Sequence[str] = (), concurrency: int | None = None) -> None:
        """`queues`: by default those with `[queues.<name>.serverless]`, and where none has it, every one of this provider.

        `concurrency` is how many run at once, by default as in a worker.

        ConfigError for a queue that lives elsewhere or that its provider cannot keep.
        """
        at = {name: app.url_of(name) for name in app.queue_names()}
        own = [name for name, url in at.items() if scheme_of(url) == platform.scheme]
        served = queues or [name for name in own if app.settings.queue(name).serverless is not None] or own
        if not served:
            raise ConfigError(
                f"no queue of this application lives with {platform.scheme}://, which calls this function: "
                f"{', '.join(f'{name} is at {url}' for name, url in at.items()) or 'it has none'}. Set CLOUDQ_URL."
            )
        for name in served:
            if name in at and scheme_of(at[name]) != platform.scheme:
                raise ConfigError(f"the queue {name!r} is at {at[name]}, and {platform.scheme}:// calls this function.")
        self._app = app
        self._platform = platform
        self._work = plan(app, served, concurrency)
        self._queues = {
            platform.name(*parts_of(at[name]), queue): queue
            for name in served
            for queue in app.addresses(name)
            if queue.part is not Part.DEAD
        }
        self._portal = Portal()
        self._handed: dict[str, Handed] = {}
        self._engine: Engine | None = None
        self._serving: asyncio.Task[None] | None = None
        self._starting: asyncio.Lock | None = None

    @property
    def queues(self) -> Mapping[str, Queue]:
        """What is served, by the name that the platform has for it; delay parts too."""
        return self._queues

    def place(self, queue: Queue) -> tuple[str, Mapping[str, str]]:
        """Return the place and the options of a queue's provider URL."""
        return parts_of(self._app.url_of(queue.logical))

    def queue(self, name: str) -> Queue:
        """Return the queue that the platform calls so. ConfigError for one that is not served here."""
        queue = self._queues.get(name)
        if queue is None:
            raise ConfigError(f"a message came from the queue {name!r}, which is not served here.{nearest(name, self._queues)}")
        return queue

    def hand_over(self, queue: Queue, deliveries: Sequence[Delivery], patience: float, spare: float = 1.0) -> list[bool]:
        """Have messages run, for `patience` seconds at the most. Returns, for each, whether the platform is to remove it.

        `spare` is how many seconds more there are, for giving back what was not started.
        """
        return self._portal.run(lambda: self._hand_over(queue, deliveries, patience, spare))

    async def ahand_over(self, queue: Queue, deliveries: Sequence[Delivery], patience: float, spare: float = 1.0) -> list[bool]:
        """As `hand_over`, without blocking the event loop."""
        return await self._portal.arun(lambda: self._hand_over(queue, deliveries, patience, spare))

    async def aclose(self) -> None:
        """Drain: what runs has its grace, what was not started is given back."""
        if self._serving is not None and not self._portal.forked():
            await self._portal.arun(self._drain)
        self._portal.close()

    async def _drain(self) -> None:
        if self._engine is not None and self._serving is not None:
            self._engine.drain()
            await asyncio.wait([self._serving])

    async def _hand_over(self, queue: Queue, deliveries: Sequence[Delivery], patience: float, spare: float) -> list[bool]:
        await self._started()
        return await self._handed[self._app.url_of(queue.logical)].hand_over(queue, deliveries, patience, spare)

    async def _started(self) -> None:
        """Start the engine, at the first call and after it broke."""
        if self._starting is None or self._starting_elsewhere():
            self._starting, self._serving, self._handed = asyncio.Lock(), None, {}
        async with self._starting:
            if self._serving is None or self._serving.done():
                ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._serving = asyncio.get_running_loop().create_task(self._serve(ready))
                await asyncio.wait([ready, self._serving], return_when=asyncio.FIRST_COMPLETED)
                if not ready.done():
                    self._serving.result()

    def _starting_elsewhere(self) -> bool:
        """Tell whether what was started belongs to the process that this one was forked from."""
        return self._serving is not None and self._serving.get_loop() is not asyncio.get_running_loop()

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        self._handed = {}
        try:
            async with engine_of(self._app, self._work, handed=self._hand) as self._engine:
                ready.set_result(None)
                try:
                    await self._engine.run()
                finally:
                    for handed in self._handed.values():
                        handed.break_off()
        except StuckWorker as error:
            # Threads cannot be stopped, and in this process they would hold every slot for good: the platform starts another.
            _log.critical("%s", error)
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            if not ready.done():
                raise
            _log.exception("the engine broke; it is started anew for the next call")

    def _hand(self, url: str) -> Driver:
        limits = self._platform.limits(facts_of(self._platform.scheme).limits)
        # Nothing lingers: a call that waits is paid for. What is over is known here, so that a late settlement is told.
        own = replace(limits, linger=0.0, tells_lost=True, counts_crashes=True, receive_wait=math.inf)
        self._handed[url] = Handed(url, self._app, self._platform, own, self._work.concurrency)
        return self._handed[url]
