"""The shipped engine in virtual time, seed by seed. A failing seed is run again with: pytest tests/simulation -k 'seed[17]'"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.simulation import PERSONALITIES, TASKS, simulate

ROOT = Path(__file__).parents[2]


def test_seed(seed):
    result = simulate(seed)
    assert result.verdict.clean(), str(result)
    assert result.limbo == 0, str(result)
    assert result.verdict.tasks == TASKS
    # A run that met no faults shows nothing.
    assert result.faults["crash"] + result.faults["drain"] >= 1, str(result)
    assert sum(result.faults.values()) >= 5, str(result)


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
