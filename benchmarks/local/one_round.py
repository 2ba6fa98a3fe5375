"""One contestant of throughput.py, measured once, in a process of its own: enqueuing here, running in a worker process.

BENCH_FOLDER=/some/empty/folder python one_round.py cloudq TASKS MESSAGES IDLE_SECONDS    # prints the figures as JSON
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import inside

HERE = Path(__file__).parent
CALLERS = 50
PATIENCE = 120.0  # seconds until a worker that says nothing is given up

Hear = Callable[[], dict[str, float]]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the worker is ended too
    contestant = importlib.import_module(f"with_{sys.argv[1]}")
    tasks, messages, idle = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    with inside.listen() as listener:
        listener.settimeout(1.0)
        figures = starting_and_waiting(contestant, listener, messages, idle)
        figures |= enqueuing(contestant, tasks)
        figures |= draining(contestant, listener, tasks)
    print(json.dumps(figures))


def starting_and_waiting(contestant: ModuleType, listener: socket.socket, messages: int, idle: float) -> dict[str, float]:
    contestant.enqueue("stamp")
    began = time.time()
    with worker(listener, contestant.SERVES, ends=not contestant.WAITS, BENCH_IDLE=idle) as hear:
        figures = {"start": hear()["started"] - began}
        if contestant.WAITS:
            figures |= latency(contestant, hear, messages)
            contestant.enqueue("rest")
            figures |= hear()
    return figures


def latency(contestant: ModuleType, hear: Hear, messages: int) -> dict[str, float]:
    """From the begin of the enqueue to the start of the task; single messages, at random moments."""
    draw = random.Random(1)
    took = []
    for _ in range(messages):
        time.sleep(draw.uniform(0.005, 0.05))
        began = time.time()
        contestant.enqueue("stamp")
        took.append((hear()["started"] - began) * 1000)
    took.sort()
    return {"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}


def enqueuing(contestant: ModuleType, tasks: int) -> dict[str, float]:
    """What is drained later: a fifth one by one, a fifth by callers side by side, the rest in bulk."""
    each = max(1, tasks // 5 // CALLERS)
    shared = CALLERS * each if contestant.WAITS else 0  # the bare loop has one connection and one caller
    single = tasks // 5

    def call(count: int) -> None:
        for _ in range(count):
            contestant.enqueue("noop")

    def call_side_by_side() -> None:
        for done in [callers.submit(call, each) for _ in range(CALLERS)]:
            done.result()

    figures = measured("single", single, lambda: call(single))
    if shared:
        with ThreadPoolExecutor(CALLERS) as callers:
            figures |= measured("callers", shared, call_side_by_side)
    bulk = tasks - single - shared
    return figures | measured("bulk", bulk, lambda: contestant.enqueue_many(bulk))


def measured(name: str, count: int, work: Callable[[], None]) -> dict[str, float]:
    began, cpu = time.perf_counter(), inside.cpu()
    work()
    took, used = time.perf_counter() - began, inside.cpu() - cpu
    return {name: count / took, f"{name}_cpu": 1000 * used / count}


def draining(contestant: ModuleType, listener: socket.socket, tasks: int) -> dict[str, float]:
    """From the first to the last run, told by the worker; then nothing may be left, for the removal is part of the work."""
    figures: dict[str, float] = {}
    for name, command in contestant.DRAINS.items():
        contestant.enqueue_many(tasks - contestant.left())
        with worker(listener, command, ends=contestant.ENDS, BENCH_EXPECTED=tasks) as hear:
            told = hear()
        assert contestant.left() == 0, "something was not removed"
        figures |= {name: tasks / told["seconds"], f"{name}_cpu": 1000 * told["cpu"] / tasks}
    return figures


@contextmanager
def worker(listener: socket.socket, command: list[str], *, ends: bool, **settings: float) -> Iterator[Hear]:
    """Run a worker for the length of a block, and hear what it tells. One that does not end by itself is asked to."""
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    log = inside.FOLDER / "worker.log"

    def hear() -> dict[str, float]:
        deadline, ended = time.monotonic() + PATIENCE, False
        while time.monotonic() < deadline and not ended:
            ended = process.poll() is not None  # what it told before is heard yet
            with suppress(TimeoutError):
                return json.loads(listener.recv(1000))
        raise SystemExit(f"{' '.join(command)} tells nothing: {log.read_text()}")

    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=HERE, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            yield hear
            if not ends:
                process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
        finally:
            process.kill()


if __name__ == "__main__":
    main()
