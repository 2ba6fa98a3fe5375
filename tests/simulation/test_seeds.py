"""The shipped engine in virtual time, seed by seed. A failing seed is run again with: pytest tests/simulation -k 'seed[17]'"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cloudq.worker.held import Held
from support.simulation import PERSONALITIES, TASKS, Scenario, shrink, simulate

ROOT = Path(__file__).parents[2]


def test_seed(seed):
    result = simulate(seed)
    assert result.verdict.clean, str(result if not result.bad else shrink(result))
    assert result.verdict.tasks == TASKS
    # A run that met no faults shows nothing.
    assert result.verdict.faults["crash"] + result.verdict.faults["drain"] >= 1, str(result)
    assert result.verdict.faults.total() >= 5, str(result)


def test_a_seed_that_fails_is_shrunk_and_fails_again(monkeypatch):
    """Here a worker believes in leases that it has lost: what it acks late, somebody else may be running."""
    monkeypatch.setattr(Held, "lost", lambda _held: False)
    found = next(result for result in map(simulate, range(1, 50)) if result.bad)
    small = shrink(found)
    assert len(small.struck) <= len(found.struck) / 4
    again = simulate(small.scenario)
    assert again.bad
    assert again.trace == small.trace


def test_a_fault_left_out_changes_no_other_that_came_before_it():
    whole = simulate(Scenario(3))
    first_half = frozenset(sorted(whole.struck)[: len(whole.struck) // 2])
    assert simulate(Scenario(3, only=first_half)).struck == first_half


@pytest.mark.parametrize("personality", sorted(PERSONALITIES))
def test_every_personality_gives_the_same_trace_again(personality):
    assert simulate(7, personality).trace == simulate(7, personality).trace


def test_the_trace_does_not_depend_on_hash_values():
    script = (
        "import sys, json, logging; sys.path.insert(0, 'tests'); logging.disable(logging.CRITICAL)\n"
        "from support.simulation import simulate\n"
        "print(json.dumps([simulate(seed).trace for seed in (1, 2, 3, 4)]))"
    )
    traces = []
    for hash_seed in ("1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        traces.append(json.loads(done.stdout))
    assert traces[0] == traces[1]
