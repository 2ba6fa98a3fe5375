"""The bare SDK, asynchronous: receive a hundred, run them, complete them side by side. No retries, no renewals."""

import asyncio
import os

from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.management import ServiceBusAdministrationClient

QUEUE = "bench"


def told(port: str) -> str:
    return f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=local;SharedAccessKey=local;UseDevelopmentEmulator=true;"


class Plain(RequestsTransport):
    def send(self, request, **options):
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **options)


def client() -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(told(os.environ["BENCH_PORT"]))


def create() -> None:
    admin = ServiceBusAdministrationClient.from_connection_string(told(os.environ["BENCH_ADMIN"]), transport=Plain())
    with admin:
        admin.create_queue(QUEUE)


def enqueue_many(count: int) -> None:
    async def send() -> None:
        async with client() as bus, bus.get_queue_sender(QUEUE) as sender:
            for start in range(0, count, 100):
                batch = [ServiceBusMessage(b'{"task":"nothing"}') for _ in range(min(100, count - start))]
                await sender.send_messages(batch)

    asyncio.run(send())


def nothing(body: object) -> None: ...


async def work() -> None:
    async with client() as bus, bus.get_queue_receiver(QUEUE) as receiver:
        while True:
            found = await receiver.receive_messages(100, max_wait_time=20)
            for message in found:
                nothing(message.body)
            await asyncio.gather(*(receiver.complete_message(message) for message in found))


WORKER = ["with_bare.py"]

if __name__ == "__main__":
    asyncio.run(work())
