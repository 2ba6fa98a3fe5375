"""`cloudq infra`: what Terraform is told of the queues, and container platforms of the workers."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, cast

import click

from cloudq import config
from cloudq.app import CloudQ
from cloudq.cli.loading import APP, load
from cloudq.errors import ConfigError, nearest
from cloudq.infra import EXPORTED, describe, described, written
from cloudq.manifests import manifests, platforms, workload
from cloudq.mapping import assess

#: Exit code of a finding.
_FINDING = 3
_MISSING = "nothing"


@click.group()
def infra() -> None:
    """Hand the queues of cloudq.toml to Terraform, and their workers to a container platform."""


@infra.command()
@click.argument("app", type=APP, required=False)
@click.option("--target", help="The provider to describe, or the name of its cloud. Default: that of the settings.")
@click.option("--output", "-o", default=EXPORTED, show_default=True, help="Where to; - for standard output.")
@click.option("--check", is_flag=True, help="Write nothing; exit code 3 when the file is not what would be written.")
def export(app: CloudQ | None, target: str | None, output: str, *, check: bool) -> None:
    """Write the queues of cloudq.toml, resolved, for the modules in terraform/.

    With APP, its tasks are checked too, and queues that only its tasks name are described. The file is to be committed. Exit
    code 3 when a setting is refused.
    """
    if check and output == "-":
        raise click.UsageError("--check compares with a file: name it with -o, or leave -o out")
    again = " ".join(["cloudq", *(word for word in sys.argv[1:] if word != "--check")])
    app = app or CloudQ()
    facts, names = described(app, target)
    if elsewhere := sorted({*app.queue_names()} - {*names}):
        click.echo(f"left out, because their own url names another provider: {', '.join(elsewhere)}", err=True)
    said = [name for name in config.from_environment(os.environ) if name != "CLOUDQ_URL"]
    if said:
        click.echo(f"taken from the environment, not from the file: {', '.join(said)}", err=True)
    refused = dict.fromkeys(line.note for line in assess(app, facts, names) if line.finding)
    if refused:
        for note in refused:
            click.echo(f"refused: {note}", err=True)
        sys.exit(_FINDING)
    document = describe(app, facts, names)
    if output == "-":
        click.echo(written(document), nl=False)
    elif check:
        _compare(Path(output), document, again)
    else:
        try:
            Path(output).write_text(written(document), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{output} cannot be written: {error.strerror}.") from error
        click.echo(f"wrote {output}: {len(names)} queue(s) for {facts.name}, {document['config_hash'][:12]}")


@infra.command("manifests")
@click.argument("app")
@click.option("--platform", required=True, help="kubernetes, or the container platform of the queues' cloud.")
@click.option("--image", required=True, help="The image of the worker, e.g. registry/shop:1.")
@click.option("--queue", "-q", "queues", multiple=True, help="Of workers on this queue; may be given often. Default: all.")
@click.option("--name", default="", help="Of what is made. Default: <namespace>-worker.")
@click.option("--output", "-o", default=".", show_default=True, help="The directory to write to; - for standard output.")
def write_manifests(app: str, platform: str, image: str, queues: tuple[str, ...], name: str, output: str) -> None:
    """Write manifests for workers in containers, which scale on the backlog of the queues, from cloudq.toml.

    They are JSON, which kubectl and its like read as well as YAML. What cannot be known is written $IN_CAPITALS.
    """
    application = load(app)
    if platform not in platforms():
        raise ConfigError(f"there are no manifests for {platform!r}.{nearest(platform, platforms())}")
    work = workload(application, image=image, command=["cloudq", "worker", app], queues=queues, name=name)
    left: set[str] = set()
    for file, document in manifests(work, platform).items():
        text = json.dumps(document, indent=2) + "\n"
        left.update(re.findall(r"\$[A-Z_]+", text))
        if output == "-":
            click.echo(text, nl=False)
            continue
        path = Path(output) / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
        click.echo(f"wrote {path}")
    if left:
        click.echo(f"left to fill in: {', '.join(sorted(left))} (docs/howto/containers.md)", err=True)


def _compare(path: Path, document: dict[str, Any], again: str) -> None:
    """Say in what the file differs; `again` is the command that writes it."""
    if not path.is_file():
        click.echo(f"{path} does not exist. Write it: {again}", err=True)
        sys.exit(_FINDING)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a file that `cloudq infra export` wrote: {error}.") from error
    same = there == {"cloudq": document}
    queues: tuple[dict[str, Any], dict[str, Any]] = (_queues(there), document["queues"])
    for name in sorted({*queues[0]} ^ {*queues[1]}):
        where, missing = ("the file", "the settings") if name in queues[0] else ("the settings", "the file")
        click.echo(f"{path}: the queue {name!r} is in {where} and not in {missing}; does only a task of APP name it?", err=True)
        for each in queues:
            each.pop(name, None)
    found, wanted = _flat(there), _flat({"cloudq": document})
    differing = [key for key in sorted({*found, *wanted}) if found.get(key, _MISSING) != wanted.get(key, _MISSING)]
    for key in [key for key in differing if not key.endswith("hash")] or differing:
        is_, says = found.get(key, _MISSING), wanted.get(key, _MISSING)
        click.echo(f"{path}: {key.removeprefix('cloudq.')} is {is_}, the settings say {says}", err=True)
    if not same:
        click.echo(f"{path} is not what the settings say. Write it anew: {again}", err=True)
        sys.exit(_FINDING)
    click.echo(f"{path} is what the settings say")


def _queues(there: object) -> dict[str, Any]:
    """Return the queues of a file, as far as it has any."""
    for key in ("cloudq", "queues"):
        there = cast("dict[str, Any]", there).get(key, {}) if isinstance(there, dict) else {}
    return cast("dict[str, Any]", there) if isinstance(there, dict) else {}


def _flat(value: object, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    flat: dict[str, Any] = {}
    for key, each in cast("dict[str, Any]", value).items():
        flat.update(_flat(each, f"{path}.{key}" if path else str(key)))
    return flat
