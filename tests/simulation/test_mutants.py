"""Deliberate bugs in the shipped code, each of which must turn the suite red. A check that cannot fail shows nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import missing

ROOT = Path(__file__).parents[2]

MUTANTS = {
    "early ack": (
        "cloudq/worker/engine.py",
        "        self._runner.submit(held)\n",
        (
            "        self._spawn(_ignore(held.station.driver.ack(held.station.queue, [held.delivery])))\n"
            "        self._runner.submit(held)\n"
        ),
        "\n\nasync def _ignore(call):\n    try:\n        await call\n    except DriverError:\n        pass\n",
        ["tests/simulation/test_seeds.py", "--seeds", "5"],
    ),
    "no renewal": (
        "cloudq/worker/leases.py",
        "                self._spawn(self._renew(station, self._begun(batch)))\n",
        "                pass\n",
        "",
        ["tests/conformance", "-k", "Memory-a_long_task_keeps_its_lease"],
    ),
    "ack before the copy is confirmed": (
        "cloudq/worker/settling.py",
        "        confirmed = await self._confirmed(held, target, message)\n",
        (
            "        await self._station.driver.ack(self._station.queue, [held.delivery])\n"
            "        confirmed = await self._confirmed(held, target, message)\n"
        ),
        "",
        ["tests/simulation", "--seeds", "12", "-k", "seed or unavailable"],
    ),
    "stale settle believed": (
        "cloudq/worker/settling.py",
        "            if not held.lost():\n",
        "            if True:\n",
        "",
        ["tests/simulation/test_engine.py", "-k", "late or after_the_lease"],
    ),
    "receive abandoned at shutdown": (
        "adapters/cloudq_local/sqlite.py",
        "            self._in_background(self._undo(queue, claim))\n",
        "",
        "",
        ["tests/conformance", "-k", "SQLite-a_cancelled_receive_strands_nothing"],
    ),
    "no answer taken for yes": (
        "cloudq/worker/settling.py",
        "            if answer is Settled.OK and (",
        "            if answer is not Settled.LOST and (",
        "",
        ["tests/simulation/test_moments.py"],
    ),
    "what cannot be read is dropped": (
        "cloudq/outcome.py",
        "        case Unreadable():\n            return Bury(Kind.UNREADABLE, reading.reason)\n",
        "        case Unreadable():\n            return Ack()\n",
        "",
        ["tests/unit/test_hostile.py"],
    ),
    "a crash that was no run": (
        "adapters/cloudq_local/memory.py",
        " and (message.crashes == 0 or message.extended)",
        "",
        "",
        ["tests/conformance", "-k", "Memory-crashes_are_counted"],
    ),
    "not synced": (
        "adapters/cloudq_local/store.py",
        '"PRAGMA synchronous = FULL"',
        '"PRAGMA synchronous = NORMAL"',
        "",
        ["tests/proofs", "-k", "sample_holds and power"],
    ),
    "reports what it does not know": (
        "cloudq/worker/engine.py",
        "        if not held.lost():\n            self._report_outcome(",
        "        if True:\n            self._report_outcome(",
        "",
        ["tests/simulation/test_seeds.py", "--seeds", "30"],
    ),
}


def _suite(root, arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{root}:{root / 'adapters'}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_a_deliberate_bug_turns_the_suite_red(name, tmp_path):
    if name == "not synced" and shutil.which("strace") is None:
        missing("strace", "it records the system calls of the driver: apt install strace")
    path, before, after, more, arguments = MUTANTS[name]
    for part in ("cloudq", "adapters", "tests", "docs", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / part)
    mutated = tmp_path / path
    text = mutated.read_text()
    assert text.count(before) == 1, f"the code of the mutant {name!r} has changed; write it anew"
    mutated.write_text(text.replace(before, after) + more)
    done = _suite(tmp_path, arguments)
    assert done.returncode == 1, f"{name}: the suite stayed green\n{done.stdout[-3000:]}{done.stderr[-2000:]}"
    assert "failed" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1], f"{name}: broken, not red\n{done.stdout[-3000:]}"
