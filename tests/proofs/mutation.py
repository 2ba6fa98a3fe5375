"""Small changes to the code that decides and settles, one at a time, each of which should turn the suite red.

The mutants are made and run by cosmic-ray. Left out are operators whose every mutant here is an error of types (bits of floats)
or no change at all (annotations, which are never evaluated; decorators, which freeze values that nobody changes).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proofs.part import ROOT, Part, Piece, Result
from proofs.survivors import REASONS

MODULES = ("cloudq/outcome.py", "cloudq/worker/settling.py", "cloudq/worker/leases.py")
KILLED = 0.9
_TESTS = (
    "tests/simulation/test_moments.py tests/unit/test_outcome.py tests/simulation/test_engine.py "
    "tests/simulation/test_seeds.py --seeds 4 -k 'not hash and not shrunk and not same_trace and not through_the_pump'"
)
_LEFT_OUT = (
    "core/RemoveDecorator",
    "core/ReplaceBinaryOperator_BitOr_.*",
    "core/ReplaceBinaryOperator_.*_(BitAnd|BitOr|BitXor|LShift|RShift|Pow|Mod|FloorDiv)",
    "core/ReplaceComparisonOperator_Is_(Eq|NotEq|Lt|LtE|Gt|GtE)",
    "core/ReplaceComparisonOperator_.*_(Is|IsNot)(?<!Is_IsNot)(?<!IsNot_Is)",
)
_CONFIG = """
[cosmic-ray]
module-path = {module}
timeout = 30.0
excluded-modules = []
test-command = {command}

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = {left_out}
"""


def mutate(directory: Path, module: str) -> Result:
    """Mutate one module in a copy of the tree."""
    tree = directory / "tree"
    for part in ("cloudq", "adapters", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {_TESTS}"
    (tree / "mutation.toml").write_text(
        _CONFIG.format(module=json.dumps(module), command=json.dumps(command), left_out=json.dumps(_LEFT_OUT))
    )
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree / 'adapters'}"}

    def run(tool: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name(tool)), *arguments],
            cwd=tree, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run("cosmic-ray", "init", "mutation.toml", "session.sqlite")
    run("cr-filter-operators", "session.sqlite", "mutation.toml")
    run("cosmic-ray", "baseline", "mutation.toml")
    run("cosmic-ray", "exec", "mutation.toml", "session.sqlite")
    return _result(run("cosmic-ray", "dump", "session.sqlite"), (tree / module).read_text().splitlines())


def _result(dump: str, source: Sequence[str]) -> Result:
    result = Result({"mutants": 0, "killed": 0, "survivors": {}})
    for line in dump.splitlines():
        item, outcome = json.loads(line)
        assert outcome is not None, "a mutant was not run"
        if outcome["worker_outcome"] == "skipped":
            continue  # left out
        assert outcome["worker_outcome"] == "normal", outcome
        (mutation,) = item["mutations"]
        code = source[mutation["start_pos"][0] - 1].strip()
        if code.startswith("@"):
            continue
        result.figures["mutants"] += 1
        if outcome["test_outcome"] == "survived":
            operator = mutation["operator_name"].removeprefix("core/")
            name = f"{Path(mutation['module_path']).name}: {code} [{operator} {mutation['occurrence']}]"
            result.figures["survivors"][name] = REASONS.get(name, "")
        else:
            result.figures["killed"] += 1
    return result


def _pieces(_full: bool, _url: str) -> Sequence[Piece]:
    assert shutil.which("cosmic-ray", path=str(Path(sys.executable).parent)), "cosmic-ray is needed: make prove installs it"
    return [Piece(Path(module).stem, lambda directory, module=module: mutate(directory, module)) for module in MODULES]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    rate = figures["killed"] / figures["mutants"]
    broken = [f"no reason for: {name}" for name, reason in figures["survivors"].items() if not reason]
    return broken if rate >= KILLED else [*broken, f"only {rate:.1%} were killed"]


MUTATION = Part(
    "mutation",
    f"of the mutants of {', '.join(MODULES)} at least {KILLED:.0%} are killed, and the survivors have a reason",
    _pieces,
    _check,
    sampled=False,  # tests/simulation/test_mutants.py has a few mutants of its own
    code=(
        "cloudq",
        "adapters/cloudq_local",
        "tests/support",
        "tests/simulation",
        "tests/unit/test_outcome.py",
        "tests/proofs/mutation.py",
        "tests/proofs/survivors.py",
    ),
)
