"""`cloudq doctor`: are the queues that there are the ones that are declared?"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import Any

import click

from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.cli.output import table
from cloudq.delay import used
from cloudq.driver import Check, Declared, Inspects
from cloudq.errors import CloudQError, ConfigError
from cloudq.infra import tag
from cloudq.mapping import assess
from cloudq.opening import facts_at

#: Exit codes: something differs; something could not be told.
_DRIFT, _UNTOLD = 3, 1


@click.command()
@click.argument("app", type=APP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every check, those that are well too.")
def doctor(app: CloudQ, *, as_json: bool) -> None:
    """Compare the queues that there are with those that are declared. Nothing is changed.

    Tells each difference, what it leads to, and the command that mends it. Exit code 3 when something differs, 1 when something
    could not be told, 0 when all is well.
    """
    if not app.queue_names():
        raise ConfigError("the application declares no task and its settings name no queue: there is nothing to compare.")
    checks = [check for name in app.queue_names() for check in _declared_well(app, name)]
    checks += asyncio.run(_inspect(app))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        _print(checks)
    if any(check.ok is False for check in checks):
        sys.exit(_DRIFT)
    if any(check.ok is None for check in checks):
        sys.exit(_UNTOLD)


def _declared_well(app: CloudQ, name: str) -> list[Check]:
    """Return what is declared and cannot be kept: no queue could be as it says."""
    facts = facts_at(app.url_of(name))
    if facts is None:
        return []
    return [
        Check(
            queue=name, setting=line.aspect, declared="see below", live="impossible", ok=False, why=line.note, mend="change it"
        )
        for line in assess(app, facts, [name])
        if line.finding
    ]


async def _inspect(app: CloudQ) -> list[Check]:
    found: list[Check] = []
    for name in app.queue_names():
        facts = facts_at(app.url_of(name))
        wanted = tag(app, facts, name) if facts is not None and facts.infrastructure is not None else ""
        served = app.settings.queue(name).serverless is not None
        try:
            async with app.driver(app.url_of(name)) as driver:
                if isinstance(driver, Inspects):
                    queues = used(app.addresses(name), driver.limits)
                    found += await driver.inspect([Declared(queue, wanted, served) for queue in queues])
        except ConfigError:
            raise
        except CloudQError as error:
            found.append(Check.untold(name, "all settings", "readable", str(error)))
    return found


def _print(checks: list[Check]) -> None:
    wrong = [check for check in checks if check.ok is not True]
    rows: list[dict[str, Any]] = [
        {
            "queue": check.queue,
            "setting": check.setting,
            "declared": check.declared,
            "is": "could not be told" if check.live is None else check.live,
        }
        for check in wrong
    ]
    if rows:
        table(rows, ["queue", "setting", "declared", "is"], as_json=False)
    for check in wrong:
        click.echo(f"\n{check.queue}, {check.setting}: {check.why}" + (f"\n  {check.mend}" if check.mend else ""))
    differing, untold = (sum(check.ok is state for check in wrong) for state in (False, None))
    if not checks:
        click.echo("nothing to compare: these queues are made by whoever uses them, as they are declared")
    else:
        click.echo(f"\n{len(checks)} checks: {len(checks) - len(wrong)} well, {differing} differ, {untold} could not be told")
