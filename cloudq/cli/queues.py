"""`cloudq queues`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.cli.output import table
from cloudq.delay import used
from cloudq.driver import Provisioner
from cloudq.errors import ConfigError
from cloudq.opening import refuse_impossible


class _ListsByDefault(click.Group):
    """`cloudq queues APP` lists: what is asked for most should be shortest."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["ls", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListsByDefault)
def queues() -> None:
    """Show the queues of an application: `cloudq queues APP`. Or make them: `cloudq queues create APP`."""


@queues.command(name="ls")
@click.argument("app", type=APP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; null is what the provider does not tell.")
def ls(app: CloudQ, *, as_json: bool) -> None:
    """Show every physical queue with its depths. `unknown` is what the provider does not tell."""
    if not app.queue_names():
        raise ConfigError("the application declares no task and its settings name no queue: there is nothing to show.")
    rows = asyncio.run(_rows(app))
    columns = ["queue", "part", "priority", "ready", "in_flight", "unsettled", "delayed", "oldest_age", "name"]
    table(rows, columns, as_json=as_json)


@queues.command()
@click.argument("app", type=APP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the names of those that were made.")
def create(app: CloudQ, *, as_json: bool) -> None:
    """Make the queues that do not exist: for development and tests. In production, Terraform makes them."""
    made = asyncio.run(_create(app))
    if as_json:
        click.echo(json.dumps(made))
        return
    for name in made:
        click.echo(f"created {name}")
    if not made:
        click.echo("nothing to create")


async def _rows(app: CloudQ) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in app.queue_names():
        async with app.driver(app.url_of(name)) as driver:
            for queue in used(app.addresses(name), driver.limits):
                stats = await driver.stats(queue)
                rows.append(
                    {
                        "queue": name,
                        "part": queue.part.value,
                        "priority": queue.priority,
                        "ready": stats.ready,
                        "in_flight": stats.in_flight,
                        "unsettled": stats.both,
                        "delayed": stats.delayed,
                        "oldest_age": stats.oldest_age if stats.ready != 0 else 0.0,
                        "name": queue.physical,
                    }
                )
    return rows


async def _create(app: CloudQ) -> list[str]:
    made: list[str] = []
    for name in app.queue_names():
        async with app.driver(app.url_of(name)) as driver:
            if not isinstance(driver, Provisioner):
                raise ConfigError(f"{driver.limits.provider} queues are not made from here; use the Terraform modules.")
            queues = app.addresses(name)
            for queue in queues:
                refuse_impossible(queue, driver.limits)
            made += [queue.physical for queue in await driver.create(queues)]
    return made
