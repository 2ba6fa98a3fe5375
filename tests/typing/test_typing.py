"""The types that a user's editor sees: what is right is accepted, and every wrong line is refused, by both checkers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def mypy(path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-column-numbers", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {int(match[1]) for match in re.finditer(rf"{path.name}:(\d+):\d+: error", done.stdout)}, done.stdout


def pyright(path):
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = [each for each in json.loads(done.stdout)["generalDiagnostics"] if each["severity"] == "error"]
    return {each["range"]["start"]["line"] + 1 for each in found}, "\n".join(each["message"] for each in found)


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_what_is_right_is_accepted(checker):
    lines, text = checker(HERE / "right.py")
    assert not lines, text


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_every_wrong_line_is_refused(checker):
    path = HERE / "wrong.py"
    expected = {number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# wrong")}
    lines, text = checker(path)
    assert lines == expected, f"accepted: {sorted(expected - lines)}; refused as well: {sorted(lines - expected)}\n{text}"
