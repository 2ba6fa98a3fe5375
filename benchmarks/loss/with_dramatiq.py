"""dramatiq-sqs, retrying every second."""

import os

import dramatiq
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, TimeLimit
from dramatiq_sqs import SQSBroker
from task import run

broker = SQSBroker(
    namespace="bench",
    middleware=[AgeLimit(), TimeLimit(), Callbacks(), Pipelines(), Retries(min_backoff=1000, max_backoff=1000, max_retries=11)],
    endpoint_url=os.environ["BENCH_ENDPOINT"],
)
dramatiq.set_broker(broker)


@dramatiq.actor
def work(number: int, fails: int) -> None:
    run(number, fails)


QUEUE = "bench_default"


def create() -> None: ...


def enqueue(pairs: list[tuple[int, int]]) -> None:
    for number, fails in pairs:
        work.send(number, fails)


COMMAND = ["-m", "dramatiq", "with_dramatiq", "--processes", "1", "--threads", "8"]
