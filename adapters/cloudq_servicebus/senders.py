"""The sender of one queue: one batch after the other, because the SDK's senders are not coroutine-safe."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import (
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
)

from cloudq.clock import Clock
from cloudq.driver import Outgoing, Queue
from cloudq.errors import DriverError, Refused, Unavailable
from cloudq_servicebus import messages
from cloudq_servicebus.errors import translate
from cloudq_servicebus.links import ANSWER, opened

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
        #: Nothing was sent on its link yet.
        self._fresh = False
        self._used = 0.0
        self._alone = asyncio.Lock()

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> dict[int, DriverError]:
        """Send all of it, and return by position what was not confirmed."""
        failures: dict[int, DriverError] = {}
        failed: set[str | None] = set()
        async with self._alone:
            try:
                packed = await self._packed(await self._opened(), queue, batch, failures)
            except Exception as error:
                await self._drop()
                return dict.fromkeys(range(len(batch)), translate(error, self._named, "Send"))
            for session, positions, together in packed:
                if session is not None and session in failed:
                    behind = Unavailable(f"{self._named}: behind a failure of its ordering key, and not sent")
                    failures |= dict.fromkeys(positions, behind)
                elif (unsent := await self._sent(together)) is not None:
                    failures |= dict.fromkeys(positions, unsent)
                    failed.add(session)
            self._used = self._clock.monotonic()
        return failures

    async def schedule(self, queue: Queue, outgoing: Outgoing) -> int:
        """Send one that can be cancelled, and return its sequence number."""
        time = self._clock.time()
        message = messages.to_message(replace(outgoing, delay=0.0), queue, time)
        at = datetime.fromtimestamp(time + outgoing.delay, UTC)
        async with self._alone:
            try:
                sender = await self._opened()
            except Exception as error:
                raise translate(error, self._named, "Send") from error
            try:
                (number,) = await sender.schedule_messages(message, at, timeout=ANSWER)
            except Exception as error:
                await self._drop()
                raise translate(error, self._named, "Send", sent=True) from error
            return number

    async def cancel(self, number: int) -> bool:
        """Take back what was scheduled. False when it is not (any more)."""
        async with self._alone:
            try:
                sender = await self._opened()
            except Exception as error:
                raise translate(error, self._named, "Send") from error
            try:
                await sender.cancel_scheduled_messages(number, timeout=ANSWER)
            except MessageNotFoundError:
                return False
            except Exception as error:
                await self._drop()
                raise translate(error, self._named, "Send", sent=True) from error
            return True

    async def _sent(self, together: ServiceBusMessageBatch) -> DriverError | None:
        try:
            sender = await self._opened()
        except Exception as error:
            return translate(error, self._named, "Send")
        fresh, self._fresh = self._fresh, False
        try:
            await sender.send_messages(together, timeout=ANSWER)
        except ServiceBusConnectionError as error:
            await self._drop()
            refused = await self._refusal() if fresh else None
            return refused or translate(error, self._named, "Send", sent=True)
        except Exception as error:
            await self._drop()
            return translate(error, self._named, "Send", sent=True)
        return None

    async def _refusal(self) -> DriverError | None:
        """Return why a link was refused, if it was: then nothing was sent.

        The SDK has sent on it by the time it reads of that, and says only that the link is gone. A request to the management of
        the queue, to cancel what cannot be there, is told the reason.
        """
        with contextlib.suppress(Exception):
            async with asyncio.timeout(ANSWER), self._make() as sender:
                try:
                    await sender.cancel_scheduled_messages(0, timeout=ANSWER)
                except (MessagingEntityNotFoundError, ServiceBusAuthorizationError) as error:
                    return translate(error, self._named, "Send")
        return None

    async def _packed(
        self, sender: ServiceBusSender, queue: Queue, batch: Sequence[Outgoing], failures: dict[int, DriverError]
    ) -> list[tuple[str | None, list[int], ServiceBusMessageBatch]]:
        """Return batches with the positions that they carry, in order; a message that fits into none is a failure.

        One batch is for one session: where an entity is partitioned, the service takes no other (docs, troubleshooting).
        """
        time = self._clock.time()
        packed: list[tuple[str | None, list[int], ServiceBusMessageBatch]] = []
        latest: dict[str | None, int] = {}
        for position, outgoing in enumerate(batch):
            try:
                message = messages.to_message(outgoing, queue, time)
            except Exception as error:  # what cannot be encoded does not take its neighbours with it
                failures[position] = Refused(f"{self._named}: the message cannot be sent: {error}")
                continue
            group = message.session_id if queue.ordered else None
            if group in latest and self._added(packed[latest[group]][2], message):
                packed[latest[group]][1].append(position)
                continue
            fresh = await sender.create_message_batch()
            if not self._added(fresh, message):
                failures[position] = Refused(
                    f"{self._named}: a message of {len(outgoing.body):,} bytes and its properties do not fit into the "
                    f"{fresh.max_size_in_bytes:,} that are taken."
                )
                continue
            latest[group] = len(packed)
            packed.append((group, [position], fresh))
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
            await opened(sender)
            self._sender, self._fresh = sender, True
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
