"""The modules and examples as Terraform sees them: layout, validity, their own tests, a plan; and what a program writes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloudq.cli import main
from conftest import missing
from support.terraform import EXAMPLES, MODULES, ROOT

TERRAFORM = ROOT / "terraform"


def test_what_is_generated_is_up_to_date():
    """limits.tf, the modules' test data and the tables of their READMEs."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/terraform/generated.py"), "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["description.tf", "variables.tf"])
def test_all_modules_take_the_same(file):
    assert len({(TERRAFORM / "modules" / cloud / file).read_text() for cloud in MODULES}) == 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_exported_is_up_to_date(example, monkeypatch):
    monkeypatch.chdir(TERRAFORM / "examples" / example)
    done = CliRunner().invoke(main, ["infra", "export", "--check"])
    assert done.exit_code == 0, done.output


def test_layout():
    if shutil.which("terraform") is None:
        missing("terraform", "there is no terraform on the path", installable=False)
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", str(TERRAFORM)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("place", [*(f"modules/{cloud}" for cloud in MODULES), *(f"examples/{name}" for name in EXAMPLES)])
def test_is_valid(terraform, place):
    terraform(place).run("validate", "-no-color").ok()


@pytest.mark.parametrize("cloud", MODULES)
def test_the_modules_own_tests(terraform, cloud, report):
    said = terraform(f"modules/{cloud}").run("test", "-no-color").ok()
    report(f"terraform test of {cloud}: {said.strip().splitlines()[-1]}")
    assert re.search(r"Success! \d\d+ passed, 0 failed", said)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_planned(terraform, example):
    plan = terraform(f"examples/{example}", **EXAMPLES[example]).plan()
    assert all(change["change"]["actions"] in (["create"], ["read"]) for change in plan["resource_changes"])


def test_no_lock_file_is_committed():
    """One that was written with a stand-in has its checksum: whoever took it would be refused the real provider."""
    tracked = subprocess.run(["git", "ls-files", "terraform"], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert not [name for name in tracked.splitlines() if Path(name).name in (".terraform.lock.hcl", "terraform.tfstate")]
