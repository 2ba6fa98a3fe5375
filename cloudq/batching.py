"""Gather items into batches without making a lone one wait. Used for sends, acks, releases and extensions alike."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Batcher(Generic[T]):
    """Calls `handle` with batches of what was added, each item in exactly one.

    With `linger` 0 a lone item leaves at once; what arrives while a call is under way gathers behind it and leaves together
    when it ends. With a linger, the first item of a batch waits at most that long for company. A full batch never waits, as
    long as fewer than `max_calls` are under way.

    `handle` answers for its items in its own way and must not raise: it runs in a task made by `spawn`, whose owner ends the
    process for an exception there.
    """

    def __init__(
        self,
        handle: Callable[[list[T]], Awaitable[None]],
        spawn: Spawn,
        *,
        max_count: int,
        max_bytes: float = float("inf"),
        size: Callable[[T], int] = lambda _: 0,
        linger: float = 0.0,
        max_calls: int = 8,
        patience: float = 0.5,
    ) -> None:
        """Sizes in bytes, times in seconds. Behind a call that takes longer than `patience`, nobody waits for its end."""
        self._handle = handle
        self._spawn = spawn
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._size = size
        self._linger = linger
        self._max_calls = max_calls
        self._patience = patience
        self._waiting: deque[T] = deque()
        self._waiting_bytes = 0
        self._calls = 0
        self._timer: asyncio.Handle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, item: T) -> None:
        """Queue an item. Call from the loop."""
        self._waiting.append(item)
        self._waiting_bytes += self._size(item)
        self._idle.clear()
        self._consider()

    def hurry(self) -> None:
        """From now on nothing lingers: a shutdown is waiting."""
        self._linger = 0.0
        self._cancel_timer()
        self._consider()

    async def join(self) -> None:
        """Wait until everything added so far has been handled."""
        await self._idle.wait()

    def _consider(self, *, a_call_ended: bool = False) -> None:
        while self._full() and self._calls < self._max_calls:
            self._launch()
        if a_call_ended and self._linger == 0:
            self._cancel_timer()  # it stood for the patience with the call that has ended
        if not self._waiting or self._timer is not None or self._calls >= self._max_calls:
            return
        loop = asyncio.get_running_loop()
        if self._linger > 0:
            self._timer = loop.call_later(self._linger, self._time_is_up)
        elif a_call_ended or self._calls == 0:
            # One turn of the loop, so that callers who arrive together leave together.
            self._timer = loop.call_soon(self._time_is_up)
        else:
            self._timer = loop.call_later(self._patience, self._time_is_up)

    def _full(self) -> bool:
        return len(self._waiting) >= self._max_count or self._waiting_bytes >= self._max_bytes

    def _time_is_up(self) -> None:
        self._timer = None
        if self._waiting and self._calls < self._max_calls:
            self._launch()
        self._consider()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _launch(self) -> None:
        batch = [self._waiting.popleft()]
        total = self._size(batch[0])
        while self._waiting and len(batch) < self._max_count:
            size = self._size(self._waiting[0])
            if total + size > self._max_bytes:
                break
            total += size
            batch.append(self._waiting.popleft())
        self._waiting_bytes -= total
        self._calls += 1
        self._cancel_timer()  # it was set for the first of those that leave
        self._spawn(self._call(batch))

    async def _call(self, batch: list[T]) -> None:
        try:
            await self._handle(batch)
        finally:
            self._calls -= 1
            if self._waiting:
                self._consider(a_call_ended=True)
            elif self._calls == 0:
                self._idle.set()


def cut(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """Return the items in runs of at most `count`."""
    return [items[start : start + count] for start in range(0, len(items), count)]
