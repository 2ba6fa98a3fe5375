"""The benchmarks run to their end. What they measure is read by people, and judged by no test: machines are noisy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.processes


def test_the_local_benchmark_measures_every_figure():
    done = subprocess.run(
        [sys.executable, "benchmarks/local/throughput.py", "--quick"],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for figure in ("enqueue, bulk", "drain, 10 at once", "latency p50", "idle worker, % of a core", "a sync takes", "goals"):
        assert figure in done.stdout, done.stdout


def test_the_functions_benchmark_measures_every_handler():
    done = subprocess.run(
        [sys.executable, "benchmarks/functions/run.py", "--rounds", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for contestant in ("boto3", "powertools", "cloudq"):
        assert contestant in done.stdout, done.stdout
