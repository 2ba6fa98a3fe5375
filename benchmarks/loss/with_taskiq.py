"""taskiq-aio-sqs: ten messages a receive, acknowledged after the run, retried by its own middleware."""

import asyncio
import os

import boto3
from task import run
from taskiq import SimpleRetryMiddleware
from taskiq_aio_sqs import SQSBroker

broker = SQSBroker(
    sqs_queue_name="bench",
    endpoint_url=os.environ["BENCH_ENDPOINT"],
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",  # noqa: S106  of the emulator
    max_number_of_messages=10,
    wait_time_seconds=20,
).with_middlewares(SimpleRetryMiddleware(default_retry_count=12))


@broker.task(retry_on_error=True, max_retries=12)
def work(number: int, fails: int) -> None:
    run(number, fails)


QUEUE = "bench"


def create() -> None:
    boto3.client("sqs", endpoint_url=os.environ["BENCH_ENDPOINT"]).create_queue(QueueName="bench")


def enqueue(pairs: list[tuple[int, int]]) -> None:
    async def send() -> None:
        await broker.startup()
        for start in range(0, len(pairs), 50):
            await asyncio.gather(*(work.kiq(number, fails) for number, fails in pairs[start : start + 50]))

    asyncio.run(send())


COMMAND = ["-m", "taskiq", "worker", "with_taskiq:broker", "--workers", "1", "--max-async-tasks", "8",
           "--log-level", "CRITICAL", "--ack-type", "when_executed"]  # fmt: skip
