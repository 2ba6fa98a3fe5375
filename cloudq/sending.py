"""From a message to a provider's confirmation: producers, retries by copy, dead-lettering and the pump send through here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.batching import Batcher, Spawn
from cloudq.clock import Clock
from cloudq.driver import Driver, Outgoing, Queue
from cloudq.errors import DriverError, OutcomeUnknown, Throttled, Unavailable

#: A caller of `enqueue` waits at most this long, in seconds: longer holds up the request that enqueues, shorter gives up on
#: a provider that only throttles for a moment.
DEADLINE = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


@dataclass(slots=True, eq=False)
class _Item:
    message: Outgoing
    deadline: float
    done: asyncio.Future[None]
    #: The driver was asked to send it: from here on, no answer means that it may have arrived.
    handed_over: bool = False


def _overdue(queue: Queue, item: _Item, deadline: float) -> DriverError:
    if item.handed_over:
        return OutcomeUnknown(f"{queue.physical}: no confirmation within {deadline:g} s")
    return Unavailable(f"{queue.physical}: not sent within {deadline:g} s, behind sends without an answer")


def message_size(message: Outgoing) -> int:
    """Return the bytes that count against a provider's limit: the body and the attributes, names and values."""
    return len(message.body) + sum(len(k.encode()) + len(v.encode()) for k, v in message.attributes.items())


class Sender:
    """Sends through one driver, in batches gathered across callers, one batcher for each physical queue."""

    def __init__(self, driver: Driver, clock: Clock, spawn: Spawn, draw: random.Random) -> None:
        """`spawn` owns the tasks; `draw` spreads the pauses between attempts."""
        self._driver = driver
        self._clock = clock
        self._spawn = spawn
        self._draw = draw
        self._batchers: dict[Queue, Batcher[_Item]] = {}

    async def send(self, queue: Queue, message: Outgoing, deadline: float = DEADLINE) -> None:
        """Return when the provider has confirmed.

        Raises a DriverError when it did not: OutcomeUnknown when the message may have arrived, any other when it surely has
        not. Throttling and unreachability are tried again until `deadline` seconds have passed.
        """
        item = self._add(queue, message, deadline)
        try:
            async with asyncio.timeout(deadline):
                await item.done
        except TimeoutError as error:
            raise _overdue(queue, item, deadline) from error

    async def send_many(self, messages: Sequence[tuple[Queue, Outgoing]], deadline: float = DEADLINE) -> dict[int, DriverError]:
        """Return, by position, what was not confirmed, as `send` would raise it. One timer and one waiter for all of them."""
        items = [self._add(queue, message, deadline) for queue, message in messages]
        try:
            await asyncio.wait([item.done for item in items], timeout=deadline)
        finally:
            late = [position for position, item in enumerate(items) if item.done.cancel()]
        failures: dict[int, DriverError] = {
            position: _overdue(messages[position][0], items[position], deadline) for position in late
        }
        for position, item in enumerate(items):
            if position not in failures and (error := item.done.exception()) is not None:
                assert isinstance(error, DriverError), "_until_settled sets no other"
                failures[position] = error
        return failures

    def _add(self, queue: Queue, message: Outgoing, deadline: float) -> _Item:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = _Item(message, self._clock.monotonic() + deadline, done)
        self._batcher(queue).add(item)
        return item

    def _batcher(self, queue: Queue) -> Batcher[_Item]:
        batcher = self._batchers.get(queue)
        if batcher is None:
            limits = self._driver.limits

            async def handle(batch: list[_Item]) -> None:
                await self._deliver(queue, batch)

            batcher = self._batchers[queue] = Batcher(
                handle,
                self._spawn,
                max_count=limits.send_count,
                max_bytes=limits.send_bytes,
                size=lambda item: message_size(item.message),
                # Two calls under way at once could overtake each other.
                max_calls=1 if queue.ordered else 8,
            )
        return batcher

    async def _deliver(self, queue: Queue, batch: list[_Item]) -> None:
        """Settle every item's future, whatever happens: a caller whose future stays open would wait for ever."""
        try:
            await self._until_settled(queue, batch)
        finally:
            for item in batch:
                if not item.done.done():
                    item.done.set_exception(OutcomeUnknown(f"{queue.physical}: sending was broken off"))

    async def _until_settled(self, queue: Queue, batch: list[_Item]) -> None:
        pause = _FIRST_PAUSE
        # A caller whose deadline has passed was told, and its message must not be sent after that.
        while batch := [item for item in batch if not item.done.done()]:
            failures = await self._attempt(queue, batch)
            again: list[_Item] = []
            now = self._clock.monotonic()
            for position, item in enumerate(batch):
                error = failures.get(position)
                if item.done.done():  # its caller went away
                    continue
                if error is None:
                    item.done.set_result(None)
                elif isinstance(error, (Throttled, Unavailable)) and now + pause < item.deadline:
                    item.handed_over = False
                    again.append(item)
                else:
                    item.done.set_exception(error)
            batch = again
            if batch:
                await asyncio.sleep(pause * self._draw.uniform(0.5, 1.0))
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _attempt(self, queue: Queue, batch: list[_Item]) -> dict[int, DriverError]:
        patience = max(item.deadline for item in batch) - self._clock.monotonic()
        for item in batch:
            item.handed_over = True
        try:
            async with asyncio.timeout(max(patience, 0.1)):
                return dict(await self._driver.send(queue, [item.message for item in batch]))
        except TimeoutError as error:
            unknown = OutcomeUnknown(f"{queue.physical}: no confirmation in time")
            unknown.__cause__ = error
            return dict.fromkeys(range(len(batch)), unknown)
        except DriverError as error:
            return dict.fromkeys(range(len(batch)), error)
        except Exception as error:
            unknown = OutcomeUnknown(f"{queue.physical}: the driver failed: {error!r}")
            unknown.__cause__ = error
            return dict.fromkeys(range(len(batch)), unknown)
