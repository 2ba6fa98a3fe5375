"""Terraform as the tests run it: in a copy of terraform/, its providers a stand-in or those of a mirror, never a registry's."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STANDIN = ROOT / ".standin"
CLOUDS = {"aws": "sqs", "gcp": "pubsub", "azure": "servicebus"}
#: The version that a stand-in says to be: that of the provider whose schema it has.
VERSIONS = {"aws": "5.100.0", "google": "6.50.0", "azurerm": "4.55.0"}
PROVIDERS = {"aws": "aws", "gcp": "google", "azure": "azurerm"}
PLATFORM = "linux_amd64"


def missing() -> str | None:
    """Say what is missing to run Terraform on the stand-in."""
    if shutil.which("terraform") is None:
        return "there is no terraform on the path"
    return None if (STANDIN / "ready").exists() else "the stand-in is not set up: make standin"


def real_mirror() -> Path | None:
    """Return the mirror with the real AWS provider: TF_PLUGIN_MIRROR, or a folder named tf-plugins where one is usual."""
    places = [os.environ.get("TF_PLUGIN_MIRROR"), "/opt/tf-plugins", str(Path.home() / "tf-plugins")]
    for place in places:
        if place and list(Path(place).glob("registry.terraform.io/hashicorp/aws/*/*/terraform-provider-aws*")):
            return Path(place)
    return None


def make_mirror(directory: Path) -> Path:
    """Lay out the stand-ins as a filesystem mirror."""
    for provider, version in VERSIONS.items():
        place = directory / "registry.terraform.io/hashicorp" / provider / version / PLATFORM
        place.mkdir(parents=True)
        program = place / f"terraform-provider-{provider}_v{version}"
        program.write_text(
            f"#!{STANDIN}/bin/python\nimport sys\nsys.path.insert(0, {str(ROOT / 'tests/terraform/standin')!r})\n"
            f"import provider\nprovider.main({provider!r})\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return directory


#: What an example's user would have to say.
EXAMPLES: dict[str, dict[str, Any]] = {
    "aws-minimal": {},
    "aws-complete": {"thumbnails": {"target": "arn:aws:lambda:eu-west-1:123456789012:function:thumbs", "identity": "thumbs"}},
    "gcp-minimal": {"project_number": "123"},
    "gcp-complete": {
        "project_number": "123",
        "key": "projects/shop-production/locations/europe-west1/keyRings/shop/cryptoKeys/queues",
        "thumbnails": {"name": "thumbs", "region": "europe-west1", "url": "https://thumbs.run.app"},
    },
    "azure-minimal": {},
    "azure-complete": {
        "key": {"id": "https://shop.vault.azure.net/keys/queues", "identity": "/identities/key"},
        "subnet": "/subnets/queues",
        "thumbnails": {"target": "/sites/thumbs", "identity": "00000000-0000-0000-0000-000000000001"},
    },
}
MODULES = {
    "aws": {},
    "gcp": {"project": "shop-production", "project_number": "123"},
    "azure": {"resource_group_name": "shop", "location": "westeurope", "namespace": "shop-production"},
}


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str

    def ok(self) -> str:
        """Return the output, or fail with it."""
        assert self.code == 0, self.out
        return self.out


@dataclass
class Terraform:
    """A directory in which terraform is run."""

    directory: Path
    mirror: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, timeout: float = 110) -> Result:
        """Run one command."""
        settings = self.directory / ".terraformrc"
        settings.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{self.mirror}"\n  }}\n}}\n')
        done = subprocess.run(
            ["terraform", *arguments],
            check=False,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            # The stand-in keeps a key under the home directory.
            env={
                **os.environ,
                "HOME": str(self.directory),
                "TF_CLI_CONFIG_FILE": str(settings),
                "TF_IN_AUTOMATION": "1",
                "CHECKPOINT_DISABLE": "1",
                "NO_PROXY": "127.0.0.1",
                **self.environ,
            },
        )
        return Result(done.returncode, done.stdout + done.stderr)

    def init(self) -> None:
        """Find the providers."""
        self.run("init", "-input=false", "-no-color").ok()

    def plan(self, *arguments: str) -> dict[str, Any]:
        """Return the plan as Terraform shows it."""
        self.run("plan", "-input=false", "-no-color", "-out=plan.bin", *arguments).ok()
        return json.loads(self.run("show", "-json", "plan.bin").ok())

    def apply(self, *arguments: str, timeout: float = 110) -> str:
        """Make it so."""
        return self.run("apply", "-input=false", "-no-color", "-auto-approve", *arguments, timeout=timeout).ok()

    def changed(self) -> bool:
        """Plan again: is there anything to change?"""
        found = self.run("plan", "-input=false", "-no-color", "-detailed-exitcode")
        assert found.code in (0, 2), found.out
        return found.code == 2

    def output(self, name: str) -> Any:
        """Return an output."""
        return json.loads(self.run("output", "-json", name).ok())


def copy(place: str, to: Path) -> Path:
    """Copy terraform/ and return `place` in the copy: what a test does leaves nothing behind."""
    shutil.copytree(
        ROOT / "terraform", to / "terraform", ignore=shutil.ignore_patterns(".terraform", "*.tfstate*", ".terraform.lock.hcl")
    )
    return to / "terraform" / place


def planned(plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the planned values by address, without the module's own name."""
    found: dict[str, dict[str, Any]] = {}

    def walk(module: Mapping[str, Any]) -> None:
        for resource in module.get("resources", ()):
            if resource["mode"] == "managed":
                found[resource["address"].removeprefix("module.cloudq.")] = resource["values"]
        for child in module.get("child_modules", ()):
            walk(child)

    walk(plan["planned_values"]["root_module"])
    return found
