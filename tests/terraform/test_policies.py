"""checkov, over the plan of every example: what it finds is mended, or stands here with its reason.

The plan is that of a second run, when nothing is unknown any more. What is applied before it is remembered by the stand-in.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from conftest import missing
from support.terraform import EXAMPLES, STANDIN

#: The minimal examples say so in their comments too, for whoever runs checkov over the directory.
SKIPPED = {
    "gcp-minimal": {"CKV_GCP_83": "Google's own keys encrypt; gcp-complete shows a key of your own"},
    "azure-minimal": {
        "CKV_AZURE_199": "a second layer of encryption needs Premium; azure-complete has it",
        "CKV_AZURE_201": "a key of your own needs Premium; azure-complete has one",
        "CKV_AZURE_204": "a private endpoint needs Premium; azure-complete has one",
    },
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_nothing_is_found(terraform, example, report):
    checkov = STANDIN / "bin" / "checkov"
    if not checkov.exists():
        missing("checkov", "not set up: make standin")
    made = terraform(f"examples/{example}", **EXAMPLES[example])
    made.apply()
    made.plan()
    (made.directory / "plan.json").write_text(made.run("show", "-json", "plan.bin").ok())
    skipped = SKIPPED.get(example, {})
    words = [
        str(checkov),
        "--file",
        "plan.json",
        "--framework",
        "terraform_plan",
        "--skip-download",
        "--quiet",
        "--output",
        "json",
    ]
    if skipped:
        words += ["--skip-check", ",".join(skipped)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=made.directory, timeout=110)
    said = json.loads(done.stdout)
    failed = [(each["check_id"], each["resource"]) for each in said["results"]["failed_checks"]]
    report(
        f"checkov on {example}: {said['summary']['passed']} passed, {len(failed)} failed, {len(skipped)} skipped with a reason"
    )
    assert failed == []
    assert said["summary"]["passed"] >= 1
