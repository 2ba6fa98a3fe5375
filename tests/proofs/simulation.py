"""Seeds of the simulation: the shipped engine in virtual time, on a provider that goes wrong."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

from proofs.part import Part, Piece, Result
from support.faults import KINDS
from support.oracle import Verdict
from support.simulation import TASKS, WORKERS, shrink, simulate

SAMPLE = 2_000
FULL = 100_000
_A_PIECE = 1_000


def _one(seed: int) -> tuple[int, Verdict, str]:
    logging.disable(logging.CRITICAL)  # every seed fails hundreds of tasks, and each would be logged
    result = simulate(seed)
    small = shrink(result) if result.bad else result
    return seed, result.verdict, f"{result}; shrunk: {small}, {small.scenario}" if result.bad else ""


def _seeds(first: int, last: int) -> Result:
    result = Result({"seeds": last - first + 1, "tasks_a_seed": f"{TASKS}, on {WORKERS} workers"})
    total = Verdict(drained=True)
    # Spawned: a fork would copy whatever threads the caller has.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for seed, verdict, bad in pool.imap(_one, range(first, last + 1), chunksize=25):
            total.add(verdict)
            result.hold(not bad, bad)
            result.hold(verdict.faults.total() >= 5, f"seed {seed} met only {verdict.faults.total()} faults")
    result.judge(total, f"seeds {first} to {last}")
    return result


def _pieces(full: bool, _url: str) -> Sequence[Piece]:
    seeds = FULL if full else SAMPLE

    def piece(first: int) -> Piece:
        last = min(first + (_A_PIECE if full else seeds) - 1, seeds)
        return Piece(f"seeds-{first}-{last}", lambda _directory: _seeds(first, last))

    return [piece(first) for first in range(1, seeds + 1, _A_PIECE if full else seeds)]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    broken = [] if figures["seeds"] >= FULL else [f"only {figures['seeds']} seeds"]
    return [*broken, *(f"no {kind} struck" for kind in KINDS if not figures["verdict"]["faults"].get(kind))]


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
