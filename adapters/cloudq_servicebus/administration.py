"""Queues as this project makes them, and their counts, by the SDK's administration client. Production has Terraform.

The client is the blocking one, on a thread: the asynchronous one cannot be told to leave out TLS, which emulators do not have.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# azure-core names transports that are not typed themselves.
import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus.management import QueueProperties, ServiceBusAdministrationClient

from cloudq.driver import Queue
from cloudq_servicebus.errors import translate
from cloudq_servicebus.options import Options, development
from cloudq_servicebus.settings import settings

if TYPE_CHECKING:
    from azure.identity import DefaultAzureCredential

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one queue."""

    active: int
    scheduled: int
    dead: int


class _PlainTransport(RequestsTransport):  # type: ignore[misc]  # is untyped
    """For emulators: the SDK asks for https wherever it is (SDK `management/_management_client.py`)."""

    def send(self, request: Any, **options: Any) -> Any:
        """Send without TLS."""
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **options)


class Administration:
    """Opens nothing until it is asked."""

    def __init__(self, options: Options) -> None:
        """Of the namespace that these name."""
        self._options = options
        self._credential: DefaultAzureCredential | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cloudq-servicebus administration")

    @cached_property
    def _client(self) -> ServiceBusAdministrationClient:
        options = self._options
        if options.admin:
            return ServiceBusAdministrationClient.from_connection_string(
                development(options.admin), transport=_PlainTransport(), retry_total=0
            )
        if options.connection_string:
            return ServiceBusAdministrationClient.from_connection_string(options.connection_string)
        from azure.identity import DefaultAzureCredential

        self._credential = DefaultAzureCredential()
        return ServiceBusAdministrationClient(options.namespace, self._credential)

    async def create(self, name: str, queue: Queue) -> bool:
        """Make the queue; False when it is there."""

        def make() -> bool:
            try:
                self._client.create_queue(name, **settings(queue))
            except ResourceExistsError:
                return False
            return True

        return await self._do(name, make)

    async def read(self, name: str) -> QueueProperties | None:
        """Return how the queue is made; None when there is none."""

        def get() -> QueueProperties | None:
            try:
                return self._client.get_queue(name)
            except ResourceNotFoundError:
                return None

        return await self._do(name, get)

    async def counts(self, name: str) -> Counts:
        """Count what is in a queue."""

        def count() -> Counts:
            found = self._client.get_queue_runtime_properties(name)
            return Counts(
                found.active_message_count or 0, found.scheduled_message_count or 0, found.dead_letter_message_count or 0
            )

        return await self._do(name, count)

    async def aclose(self) -> None:
        """Close."""
        if "_client" in self.__dict__:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._client.close)
        if self._credential is not None:
            self._credential.close()
        self._thread.shutdown(wait=False)

    async def _do(self, name: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Exception as error:
            raise translate(error, name, "Manage") from error
