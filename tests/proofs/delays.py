"""Delays beyond what the provider delays itself, on a clock that is moved to each due time.

On the emulator of the URL's provider, and on Amazon SQS's where it has none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from cloudq import CloudQ
from cloudq.driver import Part, Provisioner
from cloudq.testing import ManualClock
from cloudq.worker.process import Plan, engine_of
from cloudq_pubsub.emulator import service as pubsub_service
from cloudq_sqs import driver as sqs_driver
from proofs.part import Part as ProofPart
from proofs.part import Piece, Result
from support.wired import PubSubWire, SQSWire, Wire, wire, wired

#: What is followed one by one, in seconds.
DELAYS = {"5 s": 5.0, "10 s": 10.0, "11 min": 660.0, "20 min": 1200.0, "13 h": 46_800.0, "26 h": 93_600.0, "20 d": 1_728_000.0}
EACH = 10
#: Seconds are whole at the provider, so each hop may round up by one: the one into the delay part, and the one out of it.
ERROR = 2.0
#: Of those that are parked, so many become due at the same moment.
_WAVES = 10
_STEPS = 3_000


def delays(name: str, parked: int, most_parked: int, longest: float = float("inf")) -> Result:
    return asyncio.run(_delays(name, parked, most_parked, longest))


async def _delays(name: str, parked: int, most_parked: int, longest: float) -> Result:
    result = Result({"parked": parked, "most_hidden_at_once": 0})
    clock = ManualClock()
    with wire(name, clock) as served, contextlib.ExitStack() as stack:
        if isinstance(served, SQSWire):
            # Scaled with the sample: the service hides 120,000, of which the core takes 100,000.
            served.server.service.most_in_flight = most_parked + most_parked // 5
            stack.enter_context(mock.patch.object(sqs_driver, "LIMITS", replace(sqs_driver.LIMITS, parked=most_parked)))
        elif isinstance(served, PubSubWire):
            # Each hop ends with a look that finds nothing, which waits in real time: the server ends it soon.
            stack.enter_context(mock.patch.object(pubsub_service, "PULL_WAIT", 0.05))
        await _follow(result, clock, served, parked, {key: delay for key, delay in DELAYS.items() if delay <= longest})
        if isinstance(served, SQSWire):
            hidden, hides = result.figures["most_hidden_at_once"], served.server.service.most_in_flight
            result.hold(hidden <= hides, f"{hidden} were hidden, and the provider hides {hides}")
    return result


async def _follow(result: Result, clock: ManualClock, served: Wire, parked: int, followed: Mapping[str, float]) -> None:
    app = CloudQ(served.url(served.server.port), namespace="delays", clock=clock)
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
        for name, seconds in followed.items()
        for number in range(EACH)
    ]
    crowd = [
        note.options(delay=3600.0 + 180.0 * (number % _WAVES)).message(
            f"parked {number}", began + 3600.0 + 180.0 * (number % _WAVES)
        )
        for number in range(parked)
    ]
    await app.aenqueue_many([*singles, *crowd])
    parking = app.address("default", Part.DELAY).physical
    steps = 0
    async with engine_of(app, Plan(queues=["default"])) as pumping:  # not run: it would wait for what is not there
        while len(late) < len(singles) + len(crowd) and steps < _STEPS:
            steps += 1
            while served.ready(parking):
                await pumping.pump_once()
            result.figures["most_hidden_at_once"] = max(result.figures["most_hidden_at_once"], served.hidden(parking))
            if served.ready(app.address("default", Part.MAIN).physical):
                async with engine_of(app, Plan(queues=["default"], concurrency=50, burst=True, pump=False)) as engine:
                    await engine.run()
            due = served.next_due()
            if due is None:
                break
            clock.advance(max(0.0, due - clock.time()))
            served.server.look()
    app.close()
    expected = {f"{name} {number}" for name in followed for number in range(EACH)} | {
        f"parked {number}" for number in range(parked)
    }
    worst = {name: max((late[key] for key in late if key.startswith(name)), default=-1.0) for name in (*followed, "parked")}
    early = min(late.values(), default=0.0)
    left = served.left()
    result.figures |= {f"worst_seconds_late_{name.replace(' ', '_')}": round(value, 3) for name, value in worst.items()}
    result.figures |= {"run": len(late), "run_twice": len(twice), "requests": served.requests()}
    result.hold(set(late) == expected, f"{len(expected - set(late))} never ran")
    result.hold(not twice, f"{len(twice)} ran twice, the first: {twice[:3]}")
    result.hold(early >= 0.0, f"one ran {-early:g} s early")
    result.hold(max(worst.values()) <= ERROR, f"late by {worst}")
    result.hold(not left, f"left in the queues: {left}")


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    parked, most = (150_000, 100_000) if full else (1_500, 1_000)

    def run(_directory: Path) -> Result:
        return delays(wired(url), parked, most)

    return [Piece("delays", run)]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    return [] if figures["parked"] >= 150_000 else ["too few were parked"]


DELAYED = ProofPart(
    "delays",
    "against an emulator, Amazon SQS's or that of the URL: tasks delayed by 5 s to 20 days beside 150,000 that "
    f"are parked run once, never early and at most {ERROR:g} s late; no more are hidden than the provider hides",
    _pieces,
    _check,
)
