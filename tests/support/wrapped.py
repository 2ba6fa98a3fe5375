"""A real driver in a thin wrapper: with named points before and after each call, or with less that it can do natively."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cloudq.driver import Delivery

#: A provider that counts deliveries and not crashes, and can hold and move nothing by itself.
COMPOSING: dict[str, Any] = {
    "native_dead_letter": False,
    "counts_crashes": False,
    "release_uncounted": False,
    "send_delay": 0.0,
    "release_delay": 0.1,
    "ordered_release_delay": 0.1,
    "ordered_delay": False,
}

#: One that can do all but move to its dead part: that is composed, and what cannot be moved waits for seconds.
COPYING: dict[str, Any] = {"native_dead_letter": False, "counts_crashes": False}


class Wrapped:
    def __init__(
        self,
        driver,
        less: dict[str, Any] | None = None,
        passing: Callable[[str], None] = lambda _point: None,
        received: Callable[[Delivery], None] = lambda _delivery: None,
    ) -> None:
        """`less` changes the limits of the driver. `passing` is told of every point: "<call> <part> before" and "... after"."""
        self._driver = driver
        self._limits = replace(driver.limits, **(less or {}))
        self._passing = passing
        self._received = received

    @property
    def limits(self):
        return self._limits

    async def _call(self, name, queue, *args):
        point = f"{name} {queue.part.value}"
        self._passing(f"{point} before")
        answer = await getattr(self._driver, name)(queue, *args)
        if answer or name == "send":  # an empty receive is no step
            self._passing(f"{point} after")
        return answer

    async def send(self, queue, batch):
        return await self._call("send", queue, batch)

    async def receive(self, queue, max_messages, wait):
        deliveries = await self._call("receive", queue, max_messages, wait)
        for delivery in deliveries:
            self._received(delivery)
        return deliveries if self.limits.counts_crashes else [replace(delivery, crashes=None) for delivery in deliveries]

    async def ack(self, queue, batch):
        return await self._call("ack", queue, batch)

    async def release(self, queue, batch):
        if not self.limits.release_uncounted:
            batch = [replace(item, counted=True) for item in batch]
        return await self._call("release", queue, batch)

    async def extend(self, queue, batch, lease):
        return await self._call("extend", queue, batch, lease)

    async def dead_letter(self, queue, dead, batch):
        return await self._call("dead_letter", queue, dead, batch)

    async def stats(self, queue):
        return await self._driver.stats(queue)

    def unwrap(self, kind):
        return self._driver.unwrap(kind)

    async def aclose(self):
        await self._driver.aclose()
