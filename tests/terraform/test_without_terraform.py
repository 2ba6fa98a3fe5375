"""Held against the providers' schemas where there is no terraform: every argument and block that is written exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hcl2
import pytest

from support.terraform import ROOT

SCHEMAS = ROOT / "tests/terraform/standin/schemas"
#: Arguments that every resource takes, and the block that writes another one several times.
META = {"for_each", "count", "depends_on", "provider", "lifecycle", "dynamic", "__comments__", "__inline_comments__"}
FILES = sorted((ROOT / "terraform").rglob("*.tf"))


def schemas() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in SCHEMAS.glob("*.json"):
        for provider in json.loads(file.read_text())["provider_schemas"].values():
            found |= provider["resource_schemas"] | {
                f"data.{name}": each for name, each in provider["data_source_schemas"].items()
            }
    return found


def unknown(block: dict[str, Any], schema: dict[str, Any], where: str) -> list[str]:
    """Return what is written and is not in the schema, or is the provider's own to say."""
    attributes, blocks = schema.get("attributes", {}), schema.get("block_types", {})
    wrong = [
        f"{where}.{name}"
        for name in block
        if name not in META and not name.startswith("__") and name not in blocks and not _settable(attributes.get(name))
    ]
    for name, inner in block.items():
        if name in blocks:
            for each in inner if isinstance(inner, list) else [inner]:
                wrong += unknown(each, blocks[name]["block"], f"{where}.{name}")
    for each in block.get("dynamic", ()):
        for name, written in each.items():
            bare = name.strip('"')
            if bare not in blocks:
                wrong.append(f"{where}.{bare}")
                continue
            for content in written["content"]:
                wrong += unknown(content, blocks[bare]["block"], f"{where}.{bare}")
    missing = [name for name, attribute in attributes.items() if attribute.get("required") and name not in block]
    return wrong + [f"{where}.{name} is missing" for name in missing]


def _settable(attribute: dict[str, Any] | None) -> bool:
    return attribute is not None and bool(attribute.get("optional") or attribute.get("required"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT / "terraform")) for file in FILES])
def test_every_argument_is_one(file: Path):
    known, checked = schemas(), 0
    parsed = hcl2.loads(file.read_text())
    for kind, prefix in (("resource", ""), ("data", "data.")):
        for each in parsed.get(kind, ()):
            for type_, named in each.items():
                bare = prefix + type_.strip('"')
                if bare == "terraform_data":
                    continue
                for name, block in named.items():
                    assert unknown(block, known[bare]["block"], f"{bare}.{name}") == []
                    checked += 1
    assert checked or not {"resource", "data"} & set(parsed) or "terraform_data" in file.read_text()


def test_a_misspelt_argument_would_be_seen():
    schema = schemas()["aws_sqs_queue"]["block"]
    assert unknown({"name": "a", "visibility_timeout": 60}, schema, "q") == ["q.visibility_timeout"]
    assert unknown({"arn": "a"}, schema, "q") == ["q.arn"]
    assert unknown({}, schemas()["google_pubsub_topic"]["block"], "t") == ["t.name is missing"]
