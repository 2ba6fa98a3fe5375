"""What the Terraform tests share: a mirror of stand-ins, and directories in which terraform is run with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import missing
from support.terraform import Terraform, copy, make_mirror
from support.terraform import missing as what_is_missing


@pytest.fixture(scope="session")
def mirror(tmp_path_factory) -> Path:
    """The stand-ins, where terraform finds them."""
    reason = what_is_missing()
    if reason is not None:
        missing("terraform", reason, installable=False)
    return make_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture
def terraform(mirror, tmp_path):
    """A function that makes a directory ready: `terraform("modules/aws", cloudq=...)`."""

    def ready(place: str, *, environ: dict[str, str] | None = None, **variables: Any) -> Terraform:
        made = Terraform(copy(place, tmp_path / place.replace("/", "-")), mirror, environ or {})
        if variables:
            (made.directory / "given.auto.tfvars.json").write_text(json.dumps(variables))
        made.init()
        return made

    return ready
