"""cloudq on SQS, retrying every second."""

import asyncio
import os

from task import run

from cloudq import Backoff, CloudQ

app = CloudQ(
    f"sqs://us-east-1?endpoint={os.environ['BENCH_ENDPOINT']}&account=000000000000",
    namespace="bench",
    queues={"default": {"lease": "30s"}},
)


@app.task(retry=Backoff(max_attempts=12, first="1s", factor=1))
def work(number: int, fails: int) -> None:
    run(number, fails)


QUEUE = "bench-default"


def create() -> None:
    async def make() -> None:
        async with app.driver(app.url_of("default")) as driver:
            await driver.create(app.addresses("default"))

    asyncio.run(make())


def enqueue(pairs: list[tuple[int, int]]) -> None:
    app.enqueue_many(work.message(number, fails) for number, fails in pairs)


COMMAND = ["-m", "cloudq", "worker", "with_cloudq:app", "--concurrency", "8", "--log-level", "error"]
