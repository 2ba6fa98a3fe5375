"""Bare boto3: receive ten, run them, delete ten. No retries, no leases, no dead letters: the ceiling of this SDK."""

import multiprocessing
import os
import socket
import sys
import threading
import time

import boto3
from botocore.config import Config

bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
URL = f"{os.environ['BENCH_ENDPOINT']}/000000000000/bench-default"


def client(connections: int = 10):
    return boto3.client("sqs", config=Config(max_pool_connections=connections), endpoint_url=os.environ["BENCH_ENDPOINT"])


def nothing() -> None: ...


def wait() -> None:
    time.sleep(0.05)


def compute() -> None:
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass


def stamp() -> None:
    bell.sendto(str(time.time()).encode(), ("127.0.0.1", int(os.environ["BENCH_BELL"])))


TASKS = {"nothing": nothing, "wait": wait, "await": wait, "compute": compute, "stamp": stamp}


def create() -> None:
    client().create_queue(QueueName="bench-default")


_producer = None


def enqueue(kind: str) -> None:
    global _producer
    _producer = _producer or client()
    _producer.send_message(QueueUrl=URL, MessageBody=kind)


def enqueue_many(kind: str, count: int) -> None:
    sqs = client()
    for start in range(0, count, 10):
        entries = [{"Id": str(n), "MessageBody": kind} for n in range(min(10, count - start))]
        sqs.send_message_batch(QueueUrl=URL, Entries=entries)


def worker(kind: str, concurrency: int, processes: int) -> list[str]:
    return ["with_boto3.py", str(concurrency), str(processes)]


def work(sqs) -> None:
    while True:
        found = sqs.receive_message(QueueUrl=URL, MaxNumberOfMessages=10, WaitTimeSeconds=20).get("Messages", [])
        for message in found:
            TASKS[message["Body"]]()
        if found:
            done = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(found)]
            sqs.delete_message_batch(QueueUrl=URL, Entries=done)


def process(threads: int) -> None:
    sqs = client(threads)
    running = [threading.Thread(target=work, args=(sqs,), daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


if __name__ == "__main__":
    others = [
        multiprocessing.Process(target=process, args=(int(sys.argv[1]),), daemon=True) for _ in range(int(sys.argv[2]) - 1)
    ]
    for other in others:
        other.start()
    process(int(sys.argv[1]))
