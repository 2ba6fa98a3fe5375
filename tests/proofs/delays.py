"""Delays beyond what the provider delays itself: on Amazon SQS, the emulator, on a clock that is moved to each due time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from cloudq import CloudQ
from cloudq.driver import Part, Provisioner
from cloudq.testing import ManualClock
from cloudq.worker.process import Plan, engine_of
from cloudq_sqs import driver as sqs_driver
from cloudq_sqs.emulator import Server
from proofs.part import Part as ProofPart
from proofs.part import Piece, Result

#: What is followed one by one, in seconds.
DELAYS = {"10 s": 10.0, "20 min": 1200.0, "13 h": 46_800.0, "20 d": 1_728_000.0}
EACH = 10
#: Seconds are whole at the provider, so each hop may round up by one: the one into the delay part, and the one out of it.
ERROR = 2.0
#: Of those that are parked, so many become due at the same moment.
_WAVES = 10
_STEPS = 3_000


def delays(parked: int, most_parked: int) -> Result:
    return asyncio.run(_delays(parked, most_parked))


async def _delays(parked: int, most_parked: int) -> Result:
    result = Result({"parked": parked, "most_hidden_at_once": 0})
    clock = ManualClock()
    server = Server(clock=clock).start()
    server.service.most_in_flight = most_parked + most_parked // 5  # as the service: 120,000 for 100,000
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    limits = replace(sqs_driver.LIMITS, parked=most_parked)
    with mock.patch.dict(os.environ, keys), mock.patch.object(sqs_driver, "LIMITS", limits):
        try:
            await _follow(result, clock, server, parked)
        finally:
            server.stop()
    return result


async def _follow(result: Result, clock: ManualClock, server: Server, parked: int) -> None:
    app = CloudQ(f"sqs://us-east-1?endpoint={server.endpoint}&account=000000000000", namespace="delays", clock=clock)
    late: dict[str, float] = {}
    twice: list[str] = []

    @app.task
    def note(key: str, due: float) -> None:
        if key in late:
            twice.append(key)
        late[key] = clock.time() - due

    async with app.driver(app.url_of("default")) as driver:
        assert isinstance(driver, Provisioner)
        await driver.create(app.addresses("default"))
    began = clock.time()
    singles = [
        note.options(delay=seconds).message(f"{name} {number}", began + seconds)
        for name, seconds in DELAYS.items()
        for number in range(EACH)
    ]
    crowd = [
        note.options(delay=3600.0 + 180.0 * (number % _WAVES)).message(
            f"parked {number}", began + 3600.0 + 180.0 * (number % _WAVES)
        )
        for number in range(parked)
    ]
    await app.aenqueue_many([*singles, *crowd])
    hidden = server.service.queues[app.address("default", Part.DELAY).physical]
    steps = 0
    async with engine_of(app, Plan(queues=["default"])) as pumping:  # not run: it would wait for what is not there
        while len(late) < len(singles) + len(crowd) and steps < _STEPS:
            steps += 1
            while await pumping.pump_once():
                pass
            result.figures["most_hidden_at_once"] = max(result.figures["most_hidden_at_once"], hidden.in_flight)
            async with engine_of(app, Plan(queues=["default"], concurrency=50, burst=True, pump=False)) as engine:
                await engine.run()
            due = [time for queue in server.service.queues.values() if (time := queue.next_due()) is not None]
            if not due:
                break
            clock.advance(max(0.0, min(due) - clock.time()))
            server.look()
    app.close()
    expected = {f"{name} {number}" for name in DELAYS for number in range(EACH)} | {
        f"parked {number}" for number in range(parked)
    }
    worst = {name: max((late[key] for key in late if key.startswith(name)), default=-1.0) for name in (*DELAYS, "parked")}
    early = min(late.values(), default=0.0)
    left = {queue.name: len(queue.messages) for queue in server.service.queues.values() if queue.messages}
    result.figures |= {f"worst_seconds_late_{name.replace(' ', '_')}": round(value, 3) for name, value in worst.items()}
    result.figures |= {"run": len(late), "run_twice": len(twice), "requests": server.requests.billed}
    result.hold(set(late) == expected, f"{len(expected - set(late))} never ran")
    result.hold(not twice, f"{len(twice)} ran twice, the first: {twice[:3]}")
    result.hold(early >= 0.0, f"one ran {-early:g} s early")
    result.hold(max(worst.values()) <= ERROR, f"late by {worst}")
    result.hold(not left, f"left in the queues: {left}")


def _pieces(full: bool, _url: str) -> Sequence[Piece]:
    parked, most = (150_000, 100_000) if full else (1_500, 1_000)

    def run(_directory: Path) -> Result:
        return delays(parked, most)

    return [Piece("delays", run)]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    broken = [] if figures["parked"] >= 150_000 else ["too few were parked"]
    return [*broken, *([] if figures["most_hidden_at_once"] <= 120_000 else ["more were hidden than the provider hides"])]


DELAYED = ProofPart(
    "delays",
    "on Amazon SQS, against the emulator: tasks delayed by 10 s, 20 min, 13 h and 20 days beside 150,000 that are parked run "
    f"once, never early and at most {ERROR:g} s late; no more are hidden than the provider hides",
    _pieces,
    _check,
)
