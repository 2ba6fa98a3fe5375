"""`cloudq check`: could this application move to another provider, and what would it be there."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.cli.output import table
from cloudq.facts import Facts, How, facts_of, providers
from cloudq.mapping import Line, assess
from cloudq.opening import facts_at

#: Exit code of a finding.
_FINDING = 3


@click.command()
@click.argument("app", type=APP)
@click.option("--target", help="Providers, separated by commas, or `all`. Default: those of the settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(app: CloudQ, target: str | None, *, as_json: bool) -> None:
    """Tell for each queue and task how a provider keeps its promises: native, composed (with its cost), or refused.

    Exit code 3 when a declared setting is refused. Nothing is connected to.
    """
    found = {facts.scheme: assess(app, facts, queues) for facts, queues in _targets(app, target)}
    if as_json:
        rows = [{"target": scheme, **asdict(line), "how": line.how.value} for scheme, lines in found.items() for line in lines]
        click.echo(json.dumps(rows, ensure_ascii=False))
    else:
        _print(found)
    if any(line.finding for lines in found.values() for line in lines):
        sys.exit(_FINDING)


def _targets(app: CloudQ, target: str | None) -> list[tuple[Facts, list[str]]]:
    if target is not None:
        schemes = providers() if target == "all" else [scheme.strip() for scheme in target.split(",")]
        return [(facts_of(scheme), []) for scheme in schemes]
    queues: dict[str, list[str]] = {}
    models: dict[str, Facts] = {}
    for name in app.queue_names():
        facts = facts_at(app.url_of(name)) or facts_of(app.url_of(name).partition("://")[0])
        models[facts.scheme] = facts
        queues.setdefault(facts.scheme, []).append(name)
    return [(models[scheme], names) for scheme, names in queues.items()]


def _print(found: dict[str, list[Line]]) -> None:
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for scheme, lines in found.items():
        for line in lines:
            row = rows.setdefault(
                (line.queue, line.task, line.aspect), {"queue": line.queue, "task": line.task or "-", "promise": line.aspect}
            )
            row[scheme] = _worse(row.get(scheme), line.how)
    for row in rows.values():
        row.update({scheme: "-" for scheme in found if scheme not in row})
    table(list(rows.values()), ["queue", "task", "promise", *found], as_json=False)
    for scheme, lines in found.items():
        # Findings first: they are what somebody has to do something about. Each sentence once, however many it holds for.
        told = dict.fromkeys(said for line in sorted(lines, key=lambda line: not line.finding) if (said := _said(line)))
        if told:
            click.echo(f"\n{scheme}\n" + "\n".join(told))


def _said(line: Line) -> str:
    if line.finding:
        return f"  refused: {line.note}"
    if line.how is How.REFUSED:
        return f"  refused where asked for: {line.aspect}, {line.when}"
    return f"  {line.how.value}: {line.aspect}, {line.when}: {line.note}" if line.note else ""


def _worse(shown: str | None, how: How) -> str:
    order = [how.value for how in How]
    return how.value if shown is None else max(shown, how.value, key=order.index)
