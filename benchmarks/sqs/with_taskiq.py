"""taskiq-aio-sqs, tuned: ten messages a receive."""

import asyncio
import os
import socket
import time

from taskiq_aio_sqs import SQSBroker

bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
broker = SQSBroker(
    sqs_queue_name="bench",
    endpoint_url=os.environ["BENCH_ENDPOINT"],
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",  # noqa: S106  of the emulator
    max_number_of_messages=10,
    wait_time_seconds=20,
)


@broker.task
async def nothing() -> None: ...


@broker.task
async def wait() -> None:
    await asyncio.sleep(0.05)


@broker.task
def compute() -> None:
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass


@broker.task
async def stamp() -> None:
    bell.sendto(str(time.time()).encode(), ("127.0.0.1", int(os.environ["BENCH_BELL"])))


TASKS = {"nothing": nothing, "wait": wait, "await": wait, "compute": compute, "stamp": stamp}
_loop = asyncio.new_event_loop()
_started = False


def create() -> None:
    import boto3

    boto3.client("sqs", endpoint_url=os.environ["BENCH_ENDPOINT"]).create_queue(QueueName="bench")


def _start() -> None:
    global _started
    if not _started:
        _loop.run_until_complete(broker.startup())
        _started = True


def enqueue(kind: str) -> None:
    _start()
    _loop.run_until_complete(TASKS[kind].kiq())


def enqueue_many(kind: str, count: int) -> None:
    _start()

    async def send() -> None:
        for start in range(0, count, 50):
            await asyncio.gather(*(TASKS[kind].kiq() for _ in range(min(50, count - start))))

    _loop.run_until_complete(send())


def worker(kind: str, concurrency: int, processes: int) -> list[str]:
    return ["-m", "taskiq", "worker", "with_taskiq:broker", "--workers", str(processes), "--max-async-tasks", str(concurrency),
            "--log-level", "ERROR"]  # fmt: skip
