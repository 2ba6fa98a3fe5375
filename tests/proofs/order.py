"""Ordering keys, through failures, kills of those who hold them, and restarts of all workers."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proofs.part import Part, Piece, Result, url_in
from support.processes import until
from support.storm import Storm

SEED = 20261122
LEASE = 6.0


def order(directory: Path, url: str, keys: int, each: int, kills: int) -> Result:
    """Every fiftieth task fails once; half way, the workers are ended and begun anew."""
    draw, result = random.Random(SEED), Result({"keys": keys, "each": each, "kills_of_holders": 0, "seed": SEED})
    storm = Storm(directory, url_in(directory, url), LEASE, ordered=True)
    step = storm.tasks.step
    steps = [(f"key-{key}", number) for number in range(each) for key in range(keys)]
    storm.enqueue(step.options(ordering_key=key).message(key, number, fails=int(draw.random() < 0.02)) for key, number in steps)
    for half in (1, 2):
        with storm.worker("--processes", 2, "--concurrency", 8) as supervisor:
            tries = 0
            while result.figures["kills_of_holders"] < kills * half // 2 and tries < 10 * kills:
                tries += 1
                pid = draw.choice(until(storm.holders, "no process holds started work", patience=60))
                result.figures["kills_of_holders"] += storm.kill(pid)
                enough = storm.begun + keys * each // (4 * kills)
                until(lambda enough=enough: storm.look() or storm.begun > enough or storm.drained(), "the work stands still")
            if half == 2:
                storm.until_drained(1200)
            supervisor.send_signal(signal.SIGTERM)
            result.hold(supervisor.wait(60) == 0, "the supervisor did not end well")
    result.judge(storm.verdict())
    result.hold(result.figures["kills_of_holders"] >= kills, "too few processes held started work when they were killed")
    return result


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    keys, each, kills = (100, 100, 6) if full else (10, 20, 2)
    return [Piece("order", lambda directory: order(directory, url, keys, each, kills))]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    return [] if figures["keys"] * figures["each"] >= 10_000 else ["too few tasks"]


ORDER = Part(
    "order",
    "100 ordering keys of 100 tasks each on 2 worker processes, one task in fifty failing once, 6 processes killed while they "
    "hold started work, and all restarted half way: within a key, nothing begins before what stands before it is over",
    _pieces,
    _check,
)
