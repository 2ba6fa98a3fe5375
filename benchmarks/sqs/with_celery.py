"""Celery on SQS: acks late, and the pool its documentation advises for the kind of work."""

import os
import socket
import time

from celery import Celery

bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
HOST = os.environ["BENCH_ENDPOINT"].removeprefix("http://")
app = Celery("bench", broker=f"sqs://test:test@{HOST}//")
app.conf.update(
    broker_transport_options={"region": "us-east-1", "is_secure": False, "visibility_timeout": 60, "wait_time_seconds": 20},
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
    task_default_queue="bench",
)


@app.task
def nothing() -> None: ...


@app.task
def wait() -> None:
    time.sleep(0.05)


@app.task
def compute() -> None:
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass


@app.task
def stamp() -> None:
    bell.sendto(str(time.time()).encode(), ("127.0.0.1", int(os.environ["BENCH_BELL"])))


TASKS = {"nothing": nothing, "wait": wait, "await": wait, "compute": compute, "stamp": stamp}


def create() -> None: ...


def enqueue(kind: str) -> None:
    TASKS[kind].apply_async()


def enqueue_many(kind: str, count: int) -> None:
    for _ in range(count):
        TASKS[kind].apply_async()


def worker(kind: str, concurrency: int, processes: int) -> list[str]:
    pool = ["--pool", "threads", "-c", str(concurrency)] if kind != "compute" else ["--pool", "prefork", "-c", str(processes)]
    return ["-m", "celery", "-A", "with_celery", "worker", "--loglevel", "ERROR", "--without-gossip", "--without-mingle",
            "--without-heartbeat", *pool]  # fmt: skip
