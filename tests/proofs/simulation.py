"""Seeds of the simulation: the shipped engine in virtual time, on a provider that goes wrong."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

from proofs.part import Part, Piece, Result
from support.oracle import Verdict
from support.simulation import TASKS, WORKERS, shrink, simulate

SAMPLE = 2_000
FULL = 100_000
_A_PIECE = 1_000


def _one(seed: int) -> tuple[int, Verdict, str, str]:
    logging.disable(logging.CRITICAL)  # every seed fails hundreds of tasks, and each would be logged
    result = simulate(seed)
    small = shrink(result) if result.bad else result
    return seed, result.verdict, result.trace, f"{result}; shrunk: {small}, {small.scenario}" if result.bad else ""


def _seeds(first: int, last: int) -> Result:
    result = Result({"seeds": last - first + 1, "tasks_a_seed": f"{TASKS}, on {WORKERS} workers"})
    total, digest, fewest = Verdict(drained=True), hashlib.sha256(), 10**9
    # Spawned: a fork would copy whatever threads the caller has.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for seed, verdict, trace, bad in pool.imap(_one, range(first, last + 1), chunksize=25):
            total.add(verdict)
            digest.update(trace.encode())
            fewest = min(fewest, verdict.faults.total())
            result.hold(not bad, bad)
            result.hold(verdict.faults.total() >= 5, f"seed {seed} met only {verdict.faults.total()} faults")
    result.judge(total, f"seeds {first} to {last}")
    result.hold(fewest >= 5, "too few faults")
    if first == 1:
        result.figures["traces_of_the_first_seeds"] = digest.hexdigest()[:16]
    return result


def _pieces(full: bool, _url: str) -> Sequence[Piece]:
    seeds = FULL if full else SAMPLE

    def piece(first: int) -> Piece:
        last = min(first + (_A_PIECE if full else seeds) - 1, seeds)
        return Piece(f"seeds-{first}-{last}", lambda _directory: _seeds(first, last))

    return [piece(first) for first in range(1, seeds + 1, _A_PIECE if full else seeds)]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    return [] if figures["seeds"] >= FULL else [f"only {figures['seeds']} seeds"]


SIMULATION = Part(
    "simulation",
    f"{FULL:,} seeds of the shipped engine in virtual time, with crashes, drains, blackouts, lost answers, partial failures, "
    f"duplicates, disorder and lost leases: no class of the oracle is found",
    _pieces,
    _check,
    code=(
        "cloudq",
        "adapters/cloudq_local",
        *(f"tests/support/{name}.py" for name in ("simulation", "faults", "oracle", "ledger", "virtual")),
        "tests/proofs/simulation.py",
    ),
)
