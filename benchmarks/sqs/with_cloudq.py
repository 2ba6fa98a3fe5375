"""cloudq on SQS, with its defaults."""

import os
import socket
import time

from cloudq import CloudQ

app = CloudQ(f"sqs://us-east-1?endpoint={os.environ['BENCH_ENDPOINT']}&account=000000000000", namespace="bench")
bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@app.task
def nothing() -> None: ...


@app.task
def wait() -> None:
    time.sleep(0.05)


@app.task
async def await_() -> None:
    import asyncio

    await asyncio.sleep(0.05)


@app.task
def compute() -> None:
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass


@app.task
def stamp() -> None:
    bell.sendto(str(time.time()).encode(), ("127.0.0.1", int(os.environ["BENCH_BELL"])))


TASKS = {"nothing": nothing, "wait": wait, "await": await_, "compute": compute, "stamp": stamp}


def create() -> None:
    import asyncio

    async def make() -> None:
        async with app.driver(app.url_of("default")) as driver:
            await driver.create(app.addresses("default"))

    asyncio.run(make())


def enqueue(kind: str) -> None:
    TASKS[kind].enqueue()


def enqueue_many(kind: str, count: int) -> None:
    app.enqueue_many(TASKS[kind].message() for _ in range(count))


def worker(kind: str, concurrency: int, processes: int) -> list[str]:
    return ["-m", "cloudq", "worker", "with_cloudq:app", "--concurrency", str(concurrency), "--processes", str(processes),
            "--log-level", "ERROR"]  # fmt: skip
