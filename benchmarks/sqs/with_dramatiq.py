"""dramatiq-sqs, as its documentation shows it."""

import os
import socket
import time

import dramatiq
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, TimeLimit
from dramatiq_sqs import SQSBroker

bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
broker = SQSBroker(
    namespace="bench",
    middleware=[
        AgeLimit(),
        TimeLimit(),
        Callbacks(),
        Pipelines(),
        Retries(min_backoff=1000, max_backoff=900000, max_retries=96),
    ],
    endpoint_url=os.environ["BENCH_ENDPOINT"],
)
dramatiq.set_broker(broker)


@dramatiq.actor
def nothing() -> None: ...


@dramatiq.actor
def wait() -> None:
    time.sleep(0.05)


@dramatiq.actor
def compute() -> None:
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass


@dramatiq.actor
def stamp() -> None:
    bell.sendto(str(time.time()).encode(), ("127.0.0.1", int(os.environ["BENCH_BELL"])))


TASKS = {"nothing": nothing, "wait": wait, "await": wait, "compute": compute, "stamp": stamp}


def create() -> None: ...


def enqueue(kind: str) -> None:
    TASKS[kind].send()


def enqueue_many(kind: str, count: int) -> None:
    for _ in range(count):
        TASKS[kind].send()


def worker(kind: str, concurrency: int, processes: int) -> list[str]:
    return ["-m", "dramatiq", "with_dramatiq", "--processes", str(processes), "--threads", str(concurrency)]
