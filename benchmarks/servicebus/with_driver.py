"""cloudq's driver alone, without the worker above it: what a message costs to receive and to complete."""

import asyncio
import os

from with_bare import QUEUE as NAME
from with_bare import create, enqueue_many  # noqa: F401  the same messages

from cloudq.clock import SystemClock
from cloudq.driver import Part, Queue
from cloudq_servicebus.driver import ServiceBusDriver
from cloudq_servicebus.options import read

QUEUE = Queue("bench", NAME, Part.MAIN, lease=60.0)


async def work() -> None:
    place = {"endpoint": f"127.0.0.1:{os.environ['BENCH_PORT']}", "admin": f"127.0.0.1:{os.environ['BENCH_ADMIN']}"}
    driver = ServiceBusDriver(read("", place), SystemClock())
    while True:
        found = await driver.receive(QUEUE, 100, 20.0)
        if found:
            await driver.ack(QUEUE, found)


WORKER = ["with_driver.py"]

if __name__ == "__main__":
    asyncio.run(work())
