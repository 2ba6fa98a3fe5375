"""Celery on SQS: acks late, also when a child is lost, retrying every second."""

import os

from celery import Celery
from task import run

HOST = os.environ["BENCH_ENDPOINT"].removeprefix("http://")
app = Celery("bench", broker=f"sqs://test:test@{HOST}//")
app.conf.update(
    broker_transport_options={"region": "us-east-1", "is_secure": False, "visibility_timeout": 30, "wait_time_seconds": 20},
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    task_default_queue="bench",
)


@app.task(autoretry_for=(Exception,), max_retries=11, default_retry_delay=1)
def work(number: int, fails: int) -> None:
    run(number, fails)


QUEUE = "bench"


def create() -> None: ...


def enqueue(pairs: list[tuple[int, int]]) -> None:
    for number, fails in pairs:
        work.apply_async((number, fails))


COMMAND = ["-m", "celery", "-A", "with_celery", "worker", "--loglevel", "CRITICAL", "--without-gossip", "--without-mingle",
           "--without-heartbeat", "--pool", "threads", "-c", "8"]  # fmt: skip
