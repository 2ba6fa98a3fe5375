"""SIGKILL, again and again, of processes that hold started work."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proofs.part import Part, Piece, Result, url_in
from support.processes import until
from support.storm import Storm

SEED = 20261121


def storm(directory: Path, url: str, tasks: int, processes: int, kills: int) -> Result:
    draw, result = random.Random(SEED), Result({"kills_of_holders": 0, "processes": processes, "seed": SEED})
    storm = Storm(directory, url_in(directory, url), lease=3.0)
    storm.enqueue(storm.tasks.work.message(draw.uniform(0.010, 0.025)) for _ in range(tasks))
    pause = tasks / (2 * kills)  # a kill takes its time too, and the work goes on meanwhile
    with storm.worker("--processes", processes, "--concurrency", 2) as supervisor:
        tries = 0
        while result.figures["kills_of_holders"] < kills and tries < 10 * kills:
            tries += 1
            pid = draw.choice(until(storm.holders, "no process holds started work"))
            result.figures["kills_of_holders"] += storm.kill(pid)
            enough = storm.begun + pause
            until(lambda enough=enough: storm.look() or storm.begun > enough or storm.drained(), "the work stands still")
        storm.until_drained()
        supervisor.send_signal(signal.SIGTERM)
        result.hold(supervisor.wait(30) == 0, "the supervisor did not end well")
    result.judge(storm.verdict())
    result.hold(result.figures["kills_of_holders"] >= kills, "too few processes held started work when they were killed")
    return result


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    tasks, processes, kills = (20_000, 8, 25) if full else (3_000, 4, 8)
    return [Piece("storm", lambda directory: storm(directory, url, tasks, processes, kills))]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    return [] if figures["verdict"] is not None and figures["verdict"]["tasks"] >= 20_000 else ["too few tasks"]


STORM = Part(
    "storm",
    "20,000 unique tasks of 10 to 25 ms on 8 worker processes, at least 25 of which are killed while they hold started work",
    _pieces,
    _check,
)
