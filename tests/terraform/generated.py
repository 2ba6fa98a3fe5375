"""What is written into terraform/ by a program: limits.tf, from the facts of the adapters, and the tables of the READMEs.

python tests/terraform/generated.py           writes
python tests/terraform/generated.py --check   exits with 1 when what stands there is another
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import hcl2

from cloudq import CloudQ
from cloudq.facts import Facts, facts_of
from cloudq.infra import describe, described, written
from cloudq.outcome import UNRUN_FORGIVEN

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "terraform" / "modules"
CLOUDS = {"aws": "sqs", "gcp": "pubsub", "azure": "servicebus"}
#: What the modules' own tests are given: one queue of each kind.
TESTED: dict[str, dict[str, Any]] = {
    "mail": {"priorities": ["high", "normal"], "lease": "2m", "max_attempts": 8},
    "audit": {"ordered": True},
    "thumbs": {"lease": "2m", "serverless": {"timeout": "20s"}},
}
BEGIN, END = "<!-- generated: inputs and outputs -->", "<!-- /generated -->"


def limits(facts: Facts) -> str:
    """Return limits.tf of a module."""
    made = facts.infrastructure
    assert made is not None
    functions = made.functions
    values: dict[str, Any] = {
        "provider": facts.scheme,
        "name": facts.name,
        "message_bytes": int(facts.limits.message_bytes),
        "lease_seconds": facts.limits.lease,
        "max_deliveries": facts.threshold,
        "unrun": UNRUN_FORGIVEN,
        "retention_seconds": made.retention,
        "dead_retention_seconds": made.dead_retention,
        "dead_ages": made.dead_ages,
        "dedup": facts.limits.dedup,
        "dedup_seconds": facts.limits.dedup_window,
        "ages": made.ages,
    }
    own = {
        "leases": functions.leases,
        "timeout_seconds": functions.timeout,
        "batch": functions.batch,
        "ordered_batch": functions.ordered_batch,
        "window_seconds": functions.window,
        "ordered_window_seconds": functions.ordered_window,
        "concurrency": functions.concurrency,
        "ordered": functions.ordered,
    }
    body = _aligned(values, 4) + "\n    functions = {\n" + _aligned(own, 6) + "    }\n"
    return (
        "# Written by `make terraform-docs` from the facts of the adapter, by which Python refuses too.\n\n"
        f"locals {{\n  limits = {{\n{body}  }}\n}}\n"
    )


def _aligned(values: dict[str, Any], indent: int) -> str:
    widest = max(map(len, values))
    return "".join(f"{' ' * indent}{name:<{widest}} = {_hcl(value)}\n" for name, value in values.items())


def _hcl(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(_hcl(each) for each in value)}]"
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


def table(module: Path) -> str:
    """Return the inputs and outputs of a module."""
    inputs, outputs = [], []
    for file in sorted(module.glob("*.tf")):
        parsed = hcl2.loads(file.read_text())
        inputs += [(name, block) for each in parsed.get("variable", ()) for name, block in each.items()]
        outputs += [(name, block) for each in parsed.get("output", ()) for name, block in each.items()]
    lines = [BEGIN, "", "| Input | Default | Meaning |", "|---|---|---|"]
    for name, block in sorted(inputs, key=lambda pair: pair[0].strip('"')):
        default = "required" if "default" not in block else f"`{_default(block['default'])}`"
        lines.append(f"| `{_bare(name)}` | {default} | {_bare(block['description'])} |")
    lines += ["", "| Output | Meaning |", "|---|---|"]
    lines += [
        f"| `{_bare(name)}` | {_bare(block['description'])} |" for name, block in sorted(outputs, key=lambda pair: pair[0])
    ]
    return "\n".join([*lines, "", END])


def _bare(text: Any) -> str:
    return str(text).strip('"').replace('\\"', '"').replace("|", "\\|")


def _default(value: Any) -> str:
    if isinstance(value, dict):
        return "{}"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), _bare(value))


def generated() -> dict[Path, str]:
    """Return every generated file with what belongs into it."""
    files: dict[Path, str] = {}
    for cloud, scheme in CLOUDS.items():
        app = CloudQ(namespace="shop", queues=TESTED)
        files[MODULES / cloud / "limits.tf"] = limits(facts_of(scheme))
        files[MODULES / cloud / "tests" / "cloudq.json"] = written(describe(app, *described(app, scheme)))
        readme = MODULES / cloud / "README.md"
        if readme.exists():
            files[readme] = re.sub(
                f"{BEGIN}.*?{END}", lambda _, cloud=cloud: table(MODULES / cloud), readme.read_text(), flags=re.DOTALL
            )
    return files


def main() -> int:
    """Write, or tell what differs."""
    differing = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in differing:
            print(f"{path.relative_to(ROOT)} is not what it is generated from: make terraform-docs")
        return 1 if differing else 0
    for path in differing:
        path.write_text(generated()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
