"""cloudq on Service Bus, with its defaults and 100 tasks at once."""

import asyncio
import os

from cloudq import CloudQ

app = CloudQ(f"servicebus://?endpoint=127.0.0.1:{os.environ['BENCH_PORT']}&admin=127.0.0.1:{os.environ['BENCH_ADMIN']}")


@app.task
def nothing() -> None: ...


def create() -> None:
    async def make() -> None:
        async with app.driver(app.url_of("default")) as driver:
            await driver.create(app.addresses("default"))

    asyncio.run(make())


def enqueue_many(count: int) -> None:
    app.enqueue_many(nothing.message() for _ in range(count))


WORKER = ["-m", "cloudq", "worker", "with_cloudq:app", "--concurrency", "100", "--log-level", "ERROR"]
