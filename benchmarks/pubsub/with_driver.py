"""cloudq's driver alone, without the worker above it: what a message costs to receive and to acknowledge."""

import asyncio
import os

from with_unary import SUBSCRIPTION, create, enqueue_many  # noqa: F401  the same messages

from cloudq.clock import SystemClock
from cloudq.driver import Part, Queue
from cloudq_pubsub.driver import PubSubDriver
from cloudq_pubsub.options import Options

QUEUE = Queue("bench", SUBSCRIPTION.rpartition("/")[2], Part.MAIN, lease=60.0)


async def work() -> None:
    driver = PubSubDriver(
        Options(project="bench-project", endpoint=os.environ["PUBSUB_EMULATOR_HOST"], plain=True), SystemClock()
    )
    while True:
        found = await driver.receive(QUEUE, 100, 20.0)
        if found:
            await driver.ack(QUEUE, found)


if __name__ == "__main__":
    asyncio.run(work())
