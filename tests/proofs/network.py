"""A provider behind a network that goes wrong: on Amazon SQS, against the emulator, whatever URL is given."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from cloudq import EnqueueError, EnqueueUnknown
from cloudq_sqs.emulator import Fault, Plan, Server
from proofs.part import Part, Piece, Result
from support.processes import until
from support.proxy import FaultProxy
from support.storm import Storm

SEED = 20261121
LEASE = 6.0
#: Requests for a task: sent, received and deleted in tenths.
IDEAL = 0.3
_CALLERS = 50


def behind_a_proxy(directory: Path, tasks: int, blackout: float) -> Result:
    """5 % of the pieces lose their answer, 5 % are reset, and three times everything goes dark."""
    draw = random.Random(SEED)
    with _served() as server, FaultProxy(_port(server), draw) as proxy:
        return _work(
            directory,
            server,
            proxy.port,
            tasks,
            lambda: _dark(proxy, blackout),
            lambda on: _shaky(proxy, on=on),
            lambda: proxy.faults.hits,
        )


def throttled(directory: Path, tasks: int) -> Result:
    """30 % of the calls are answered with throttling, 503 or 500."""
    errors = [
        Fault(code="RequestThrottled", share=0.1),
        Fault(code="ServiceUnavailable", status=503, share=0.1),
        Fault(code="InternalError", status=500, share=0.1),
    ]

    def shaky(*, on: bool) -> None:
        server.plan = Plan(errors if on else [], SEED)

    with _served() as server:
        return _work(directory, server, _port(server), tasks, lambda: 0, lambda on: shaky(on=on), lambda: server.plan.happened)


@contextmanager
def _served() -> Iterator[Server]:
    """A server, and credentials for this process and those it starts: the emulator looks at none, the SDK wants some."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    server = Server().start()
    try:
        with mock.patch.dict(os.environ, keys):
            yield server
    finally:
        server.stop()


def _port(server: Server) -> int:
    return int(server.endpoint.rpartition(":")[2])


def _shaky(proxy: FaultProxy, *, on: bool) -> None:
    proxy.faults.lost_response = proxy.faults.reset = 0.05 if on else 0.0


def _dark(proxy: FaultProxy, seconds: float) -> int:
    proxy.faults.blackout = True
    time.sleep(seconds)  # the length of the blackout
    proxy.faults.blackout = False
    return 1


def _work(
    directory: Path,
    server: Server,
    port: int,
    tasks: int,
    disturb: Callable[[], int],
    shaky: Callable[[bool], None],
    hits: Callable[[], Mapping[str, int]],
) -> Result:
    result = Result({"tasks": tasks, "seed": str(SEED), "unknown_enqueues": 0, "blackouts": 0})
    storm = Storm(directory, f"sqs://us-east-1?endpoint=http://127.0.0.1:{port}&account=000000000000", LEASE)
    before = server.requests.billed
    shaky(True)
    messages = [storm.tasks.work.message(0.0) for _ in range(tasks)]
    unknown = [0]
    lock = threading.Lock()

    def send(message: Any) -> None:
        storm.ledger.write("attempt", message.task_id, at=storm.now())
        while True:
            try:
                storm.app.enqueue(message)
            except EnqueueUnknown:
                with lock:
                    unknown[0] += 1
                storm.ledger.write("copy", message.task_id, at=storm.now())
                storm.ledger.write("cause", message.task_id, at=storm.now(), what="sent again after no answer")
            except EnqueueError:
                pass  # surely not sent
            else:
                storm.ledger.write("acked", message.task_id, at=storm.now())
                return

    with storm.worker("--concurrency", 10) as worker:
        with ThreadPoolExecutor(_CALLERS) as callers:
            sending = [callers.submit(send, message) for message in messages]
            for third in (1, 2, 3):
                enough = tasks * third // 4
                until(lambda enough=enough: storm.look() or len(storm.over) >= enough, "the work stands still", patience=120)
                result.figures["blackouts"] += disturb()
            for each in sending:
                each.result()
        until(lambda: storm.look() or len(storm.over) >= tasks, "not all was run", patience=120)
        struck = dict(hits())
        shaky(False)
        storm.until_drained()
        worker.send_signal(signal.SIGTERM)
        result.hold(worker.wait(60) == 0, f"the worker ended with {worker.returncode}")
    for what, count in struck.items():
        for _ in range(count):
            storm.ledger.write("fault", at=storm.now(), what=what)
    requests = server.requests.billed - before
    result.figures |= {"requests": requests, "worst_ratio_to_ideal": round(requests / (tasks * IDEAL), 2)}
    result.figures["unknown_enqueues"] = unknown[0]
    result.judge(storm.verdict())
    return result


def _pieces(full: bool, _url: str) -> Sequence[Piece]:
    tasks, blackout = (10_000, 5.0) if full else (1_000, 2.0)
    return [
        Piece("behind-a-proxy", lambda directory: behind_a_proxy(directory, tasks, blackout)),
        Piece("throttled", lambda directory: throttled(directory, tasks)),
    ]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    broken = [] if figures["tasks"] >= 20_000 and figures["blackouts"] >= 3 else ["too few tasks or blackouts"]
    if figures["worst_ratio_to_ideal"] > 2.5:
        broken.append(f"requests were {figures['worst_ratio_to_ideal']} times the ideal")
    return broken


NETWORK = Part(
    "network",
    "on Amazon SQS, against the emulator, 10,000 single enqueues each: 5 % of the answers lost, 5 % of the requests reset and "
    "three blackouts of 5 s; 30 % of the calls throttled or failing: nothing is lost, every second run is explained, and "
    "requests are at most 2.5 times the ideal",
    _pieces,
    _check,
)
