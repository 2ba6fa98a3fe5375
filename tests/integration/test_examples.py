"""Every example, started as its README says; and each goes red when the body of its task is broken."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import missing
from support.processes import environment
from support.sqs import emulated

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Of each example with a README: the file of its task, a line of its body, and how that is broken.
BROKEN = {
    "aws_lambda": ("resize.py", '(OUT / f"{name}.txt").write_text(f"{name} {width}\\n")', "pass"),
    "azure_functions": ("archive.py", 'f"document {document}\\n"', '"document\\n"'),
    "container": ("tasks.py", "beside.rename(target)", "beside.unlink()"),
    "csv_import": ("csv_import.py", "(int(number), name, int(amount))", "(int(number), name, 0)"),
    "django_producer": ("shop/tasks.py", "order.invoiced = True", "order.invoiced = False"),
    "fastapi_producer": ("signup.py", "Welcome, {name}!", "Welcome!"),
    "google_push": ("notify.py", 'f"hello {user}\\n"', '"hello\\n"'),
    "reports": ("reports.py", "total = sum(amount for _, amount in amounts)", "total = 0"),
    "thumbnails": ("thumbnails.py", "picture.thumbnail((size, size))", "picture.thumbnail((8, 8))"),
}
NEEDS = {"azure_functions": ("proton",), "fastapi_producer": ("fastapi",), "django_producer": ("django_tasks",)}


def commands(name):
    """The block of the README, without what installs something: that is done."""
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.DOTALL)
    return "".join(f"{line}\n" for line in block.splitlines() if not line.startswith("pip install"))


def start(name, where, **variables):
    """Run the block in a copy, as a user would in a shell. Whatever it started and left is ended with it."""
    script = f"set -e -o pipefail\n{commands(name)}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=where, env={**environment(), **variables, "PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=100)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


@pytest.fixture
def copied(request, tmp_path):
    name = request.param
    for package in NEEDS.get(name, ()):
        if find_spec(package) is None:
            missing(package, "the example is built with it")
    return name, Path(shutil.copytree(EXAMPLES / name, tmp_path / name))


def test_every_example_is_here():
    there = {path.parent.name for path in EXAMPLES.glob("*/README.md")}
    assert there == set(BROKEN)
    assert {path.name for path in EXAMPLES.iterdir()} - there == {"hello"}  # which is the README's own program: test_readme.py
    for name in there:
        text = (EXAMPLES / name / "README.md").read_text()
        assert re.search(r"CLOUDQ_URL=(sqs|pubsub|servicebus)://", text), f"{name} does not say how it moves"


@pytest.mark.parametrize("copied", BROKEN, indirect=True)
def test_it_runs_as_its_readme_says(copied):
    name, where = copied
    code, said = start(name, where)
    assert code == 0, said


@pytest.mark.parametrize("copied", BROKEN, indirect=True)
def test_it_fails_when_its_task_is_broken(copied):
    name, where = copied
    file, line, broken = BROKEN[name]
    text = (where / file).read_text()
    assert text.count(line) == 1
    (where / file).write_text(text.replace(line, broken))
    if (where / "try_push.py").exists() or (where / "try_lambda.py").exists() or (where / "try_functions.py").exists():
        # It waits for what will not come: here, not for long.
        for path in where.glob("try_*.py"):
            path.write_text(path.read_text().replace("+ 60", "+ 5").replace("timeout(60)", "timeout(10)"))
    code, said = start(name, where)
    assert code != 0, said


@pytest.mark.parametrize("copied", ["reports", "csv_import"], indirect=True)
def test_it_moves_by_one_line(copied):
    name, where = copied
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with emulated() as sqs:
        code, said = start(name, where, CLOUDQ_URL=f"sqs://us-east-1?endpoint={sqs.endpoint}", **keys)
        assert code == 0, said
        assert sqs.server.requests.by_action["DeleteMessageBatch"] > 0
