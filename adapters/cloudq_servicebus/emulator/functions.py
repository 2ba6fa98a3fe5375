"""A stand-in for the Azure Functions host, for function apps on queues of the emulator: what its docs say of the trigger.

It loads nothing by itself: the app is a `FunctionApp` of the library azure-functions, whose functions and bindings it reads.
For each message, received under a lock by the vendor's SDK, it makes what the library hands to a function, calls it, and
completes what returned and abandons what raised (Azure Functions docs, Service Bus trigger).

Not imitated: the language worker and its protocol, scaling, `maxConcurrentCalls`, the renewal of locks, batches and sessions.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# azure-functions has Any for most of what it is made of.
import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Self

from azure.functions import FunctionApp, ServiceBusMessage, meta, servicebus
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError

from cloudq_servicebus.options import development

_Function = Callable[[ServiceBusMessage], Awaitable[None]]


class Host:
    """Calls the functions of an app, one round after the other."""

    def __init__(self, app: FunctionApp, port: int) -> None:
        """`port` is the emulator's."""
        made: list[Any] = app.get_functions()
        #: By queue, its function.
        self.functions: dict[str, _Function] = {
            json.loads(each.get_function_json())["bindings"][0]["queueName"]: each.get_user_function() for each in made
        }
        self._client = ServiceBusClient.from_connection_string(development(f"127.0.0.1:{port}"))
        self._stack = AsyncExitStack()
        self._receivers: dict[str, ServiceBusReceiver] = {}
        #: How many calls there were, and how many of them raised.
        self.calls: int = 0
        self.errors: list[Exception] = []
        #: How many messages were gone when they were to be completed: the function had dead-lettered them.
        self.gone: int = 0

    @property
    def failed(self) -> int:
        """How many calls raised."""
        return len(self.errors)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._client)
        for queue in self.functions:
            receiver = self._client.get_queue_receiver(queue)
            self._receivers[queue] = await self._stack.enter_async_context(receiver)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def round(self, most: int = 100, wait: float = 1.0) -> int:
        """Call each function for what is in its queue. Returns how many calls it was."""
        before = self.calls
        for queue, receiver in self._receivers.items():
            found = await receiver.receive_messages(max_message_count=most, max_wait_time=wait)
            errors = await asyncio.gather(*(self._call(queue, message) for message in found))
            for message, error in zip(found, errors, strict=True):
                try:
                    await (receiver.complete_message if error is None else receiver.abandon_message)(message)
                except (MessageLockLostError, MessageAlreadySettled):
                    self.gone += 1
        return self.calls - before

    async def _call(self, queue: str, message: ServiceBusReceivedMessage) -> Exception | None:
        self.calls += 1
        try:
            await self.functions[queue](decoded(message))
        except Exception as error:
            self.errors.append(error)
            return error
        return None


def decoded(message: ServiceBusReceivedMessage) -> ServiceBusMessage:
    """Return what the library hands to a function: made of the body and the trigger's metadata, as the host sends them."""
    properties = {_text(key): _text(value) for key, value in (message.application_properties or {}).items()}
    metadata: dict[str, Any] = {
        "MessageId": message.message_id,
        "LockToken": str(message.lock_token),
        "DeliveryCount": (message.delivery_count or 0) + 1,  # .NET counts from 1
        "UserProperties": properties,
        "ApplicationProperties": properties,
        "SequenceNumber": message.sequence_number,
    }
    told: Any = {name: meta.Datum(json.dumps(value), "json") for name, value in metadata.items()}
    body = meta.Datum(b"".join(message.body), "bytes")
    read: Any = servicebus.ServiceBusMessageInConverter.decode(body, trigger_metadata=told)
    made: ServiceBusMessage = read
    return made


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
