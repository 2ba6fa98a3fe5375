"""A provider behind a network that goes wrong: the emulator of the URL's provider, and Amazon SQS's where it has none."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cloudq import EnqueueError, EnqueueUnknown
from proofs.part import Part, Piece, Result
from support.processes import until
from support.proxy import FaultProxy
from support.storm import Storm
from support.wired import Wire, wire, wired

SEED = 20261121
LEASE = 6.0
_CALLERS = 50
#: A connection that broke is back, and work goes on, within so many seconds.
STALL = 30.0


def behind_a_proxy(directory: Path, name: str, tasks: int, blackout: float) -> Result:
    """5 % of the pieces lose their answer, 5 % are reset, and three times everything goes dark."""
    draw = random.Random(SEED)
    with wire(name) as served, FaultProxy(served.server.port, draw) as proxy:
        return _work(
            directory,
            served,
            proxy.port,
            tasks,
            lambda: _dark(proxy, blackout),
            lambda on: _shaky(proxy, served.shaky, on=on),
            lambda: proxy.faults.hits,
        )


def failing(directory: Path, name: str, tasks: int) -> Result:
    """30 % of the calls are answered with throttling, unavailability or an error of the server."""
    with wire(name) as served:
        return _work(
            directory,
            served,
            served.server.port,
            tasks,
            lambda: 0,
            lambda on: served.plan(SEED, on=on),
            served.struck,
        )


def losing_connections(directory: Path, name: str, times: int) -> Result:
    """Every connection is reset, again and again: each time, work goes on within `STALL`."""
    result = Result({"losses": 0, "worst_seconds_until_work_went_on": 0.0})
    with wire(name) as served, FaultProxy(served.server.port, random.Random(SEED)) as proxy:
        storm = Storm(directory, served.url(proxy.port), LEASE)
        with storm.worker("--concurrency", 2) as worker:
            _send(storm, storm.tasks.work.message(0.0))  # from here on there are connections
            for _ in range(times):
                message = storm.tasks.work.message(0.0)
                result.figures["losses"] += proxy.cut() > 0
                storm.ledger.write("fault", at=storm.now(), what="all connections reset")
                began = storm.now()
                _send(storm, message)
                until(
                    lambda wanted=message.task_id: storm.look() or wanted in storm.over, "the work stands still", patience=STALL
                )
                result.figures["worst_seconds_until_work_went_on"] = max(
                    result.figures["worst_seconds_until_work_went_on"], round(storm.now() - began, 2)
                )
            storm.until_drained()
            worker.send_signal(signal.SIGTERM)
            result.hold(worker.wait(60) == 0, f"the worker ended with {worker.returncode}")
        result.judge(storm.verdict())
    return result


def _goes_on(storm: Storm, enough: int) -> None:
    """Wait until so many are over: however long it takes, as long as it goes on."""
    while (done := len(storm.over)) < enough:
        until(lambda done=done: storm.look() or len(storm.over) > done, f"the work stands still at {done}", patience=2 * STALL)


def _shaky(proxy: FaultProxy, share: float, *, on: bool) -> None:
    proxy.faults.lost_response = proxy.faults.reset = share if on else 0.0


def _dark(proxy: FaultProxy, seconds: float) -> int:
    proxy.faults.blackout = True
    time.sleep(seconds)  # the length of the blackout
    proxy.faults.blackout = False
    return 1


def _send(storm: Storm, message: Any) -> int:
    """Enqueue until it is confirmed. Returns how often the outcome was unknown."""
    unknown = 0
    storm.ledger.write("attempt", message.task_id, at=storm.now())
    while True:
        try:
            storm.app.enqueue(message)
        except EnqueueUnknown:
            unknown += 1
            storm.ledger.write("copy", message.task_id, at=storm.now())
            storm.ledger.write("cause", message.task_id, at=storm.now(), what="sent again after no answer")
        except EnqueueError:
            pass  # surely not sent
        else:
            storm.ledger.write("acked", message.task_id, at=storm.now())
            return unknown


def _work(
    directory: Path,
    served: Wire,
    port: int,
    tasks: int,
    disturb: Callable[[], int],
    shaky: Callable[[bool], None],
    hits: Callable[[], Mapping[str, int]],
) -> Result:
    result = Result({"tasks": tasks, "seed": str(SEED), "unknown_enqueues": 0, "blackouts": 0})
    storm = Storm(directory, served.url(port), LEASE)
    before = served.requests()
    shaky(True)
    messages = [storm.tasks.work.message(0.0) for _ in range(tasks)]
    with storm.worker("--concurrency", 10) as worker:
        with ThreadPoolExecutor(_CALLERS) as callers:
            sending = [callers.submit(_send, storm, message) for message in messages]
            for third in (1, 2, 3):
                enough = tasks * third // 4
                _goes_on(storm, enough)
                result.figures["blackouts"] += disturb()
            unknown = sum(each.result() for each in sending)
        _goes_on(storm, tasks)
        struck = dict(hits())
        shaky(False)
        storm.until_drained()
        worker.send_signal(signal.SIGTERM)
        result.hold(worker.wait(60) == 0, f"the worker ended with {worker.returncode}")
    for what, count in struck.items():
        for _ in range(count):
            storm.ledger.write("fault", at=storm.now(), what=what)
    requests = served.requests() - before
    result.figures |= {"requests": requests, "worst_ratio_to_ideal": round(requests / (tasks * served.ideal), 2)}
    result.figures["unknown_enqueues"] = unknown
    result.judge(storm.verdict())
    return result


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    tasks, blackout, losses = (10_000, 5.0, 200) if full else (1_000, 2.0, 10)
    name = wired(url)
    return [
        Piece("behind-a-proxy", lambda directory: behind_a_proxy(directory, name, tasks, blackout)),
        Piece("failing", lambda directory: failing(directory, name, tasks)),
        Piece("losing-connections", lambda directory: losing_connections(directory, name, losses)),
    ]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    broken = [] if figures["tasks"] >= 20_000 and figures["blackouts"] >= 3 else ["too few tasks or blackouts"]
    if figures["losses"] < 200:
        broken.append(f"connections were lost only {figures['losses']} times")
    if figures["worst_ratio_to_ideal"] > 2.5:
        broken.append(f"requests were {figures['worst_ratio_to_ideal']} times the ideal")
    return broken


NETWORK = Part(
    "network",
    "against an emulator, Amazon SQS's or that of the URL, 10,000 single enqueues each: 5 % of the answers lost, 5 % of the "
    "requests reset and three blackouts of 5 s; 30 % of the calls throttled or failing; and all connections lost 200 times in "
    f"a row, with work going on within {STALL:g} s: nothing is lost, every second run is explained, and requests are at most "
    "2.5 times the ideal",
    _pieces,
    _check,
)
