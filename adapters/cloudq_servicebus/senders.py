"""The sender of one queue: one batch after the other, because the SDK's senders are not coroutine-safe."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from cloudq.clock import Clock
from cloudq.driver import Outgoing, Queue
from cloudq.errors import DriverError, Refused, Unavailable
from cloudq_servicebus import messages
from cloudq_servicebus.errors import translate
from cloudq_servicebus.links import ANSWER

#: docs, AMQP errors: a link that sends nothing for ten minutes is detached. A new one is opened sooner, so that no message is
#: handed to a link of which nobody knows whether it is still there.
_STALE = 240.0


class Sender:
    """Opened by the first batch, and anew after a failure."""

    def __init__(self, make: Callable[[], ServiceBusSender], named: str, clock: Clock) -> None:
        """`named` is the queue in words."""
        self._make = make
        self._named = named
        self._clock = clock
        self._sender: ServiceBusSender | None = None
        self._used = 0.0
        self._alone = asyncio.Lock()

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> dict[int, DriverError]:
        """Send all of it, and return by position what was not confirmed."""
        async with self._alone:
            try:
                sender = await self._opened()
            except Exception as error:
                await self._drop()
                return dict.fromkeys(range(len(batch)), translate(error, self._named, "Send"))
            failures: dict[int, DriverError] = {}
            for positions, packed in await self._packed(sender, queue, batch, failures):
                if self._sender is None:  # it failed, and went with its connection
                    failures |= dict.fromkeys(positions, Unavailable(f"{self._named}: behind a failure, and not sent"))
                    continue
                try:
                    await sender.send_messages(packed, timeout=ANSWER)
                except Exception as error:
                    failures |= dict.fromkeys(positions, translate(error, self._named, "Send", sent=True))
                    await self._drop()
            self._used = self._clock.monotonic()
            return failures

    async def _packed(
        self, sender: ServiceBusSender, queue: Queue, batch: Sequence[Outgoing], failures: dict[int, DriverError]
    ) -> list[tuple[list[int], ServiceBusMessageBatch]]:
        """Return batches with the positions that they carry, in order; a message that fits into none is a failure.

        One batch is for one session: where an entity is partitioned, the service takes no other (docs, troubleshooting).
        """
        time = self._clock.time()
        packed: list[tuple[list[int], ServiceBusMessageBatch]] = []
        latest: dict[str | None, int] = {}
        for position, outgoing in enumerate(batch):
            message = messages.to_message(outgoing, queue, time)
            group = message.session_id if queue.ordered else None
            if group in latest and self._added(packed[latest[group]][1], message):
                packed[latest[group]][0].append(position)
                continue
            fresh = await sender.create_message_batch()
            if not self._added(fresh, message):
                failures[position] = Refused(
                    f"{self._named}: a message of {len(outgoing.body):,} bytes and its properties do not fit into the "
                    f"{fresh.max_size_in_bytes:,} that are taken."
                )
                continue
            latest[group] = len(packed)
            packed.append(([position], fresh))
        return packed

    @staticmethod
    def _added(batch: ServiceBusMessageBatch, message: ServiceBusMessage) -> bool:
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            return False
        return True

    async def _opened(self) -> ServiceBusSender:
        if self._sender is not None and self._clock.monotonic() - self._used > _STALE:
            await self._drop()
        if self._sender is None:
            sender = self._make()
            async with asyncio.timeout(ANSWER):
                await sender.__aenter__()
            self._sender = sender
        self._used = self._clock.monotonic()
        return self._sender

    async def _drop(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ANSWER / 2):
                    await sender.close()

    async def close(self) -> None:
        """Disconnect."""
        async with self._alone:
            await self._drop()
