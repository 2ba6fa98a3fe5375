"""`cloudq dlq`: what was given up, and why."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import click

from cloudq import deadletters
from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.cli.output import printable, table
from cloudq.driver import Delivery, Part
from cloudq.envelope import Envelope, decode
from cloudq.errors import CloudQError, ConfigError, nearest

_MOST = 1000


@click.group()
def dlq() -> None:
    """Look at dead letters."""


@dlq.command(name="ls")
@click.argument("app", type=APP)
@click.option("--queue", "-q", "queue_names", multiple=True, help="Only this queue; may be given often. Default: all.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, _MOST), help="At most, per queue.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(app: CloudQ, queue_names: tuple[str, ...], limit: int, *, as_json: bool) -> None:
    """List dead letters: what kind, which task, why."""
    for name in queue_names:
        if name not in app.queue_names():
            raise ConfigError(f"no task is declared on the queue {name!r}.{nearest(name, app.queue_names())}")
    found = asyncio.run(_look(app, queue_names, limit))
    if not found and not as_json:
        click.echo("no dead letters")
        return
    rows = [_row(delivery) for delivery in found]
    table(rows, ["queue", "kind", "task", "task_id", "attempts", "at", "reason"], as_json=as_json)


@dlq.command()
@click.argument("app", type=APP)
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(app: CloudQ, task_id: str, *, as_json: bool) -> None:
    """Show one dead letter whole: the record, the traceback, the body. The beginning of its id is enough."""
    for delivery in asyncio.run(_look(app, (), _MOST)):
        row = _row(delivery)
        if str(row["task_id"]).startswith(task_id) or delivery.message_id == task_id:
            row["trace"] = deadletters.read(delivery).trace or "(none)"
            row["body"] = delivery.body.decode(errors="backslashreplace")
            if as_json:
                click.echo(json.dumps(row, ensure_ascii=False))
                return
            for key, value in row.items():
                text = printable(str(value))
                click.echo(f"{key}:\n{text}" if key in ("trace", "body") else f"{key}: {text}")
            return
    raise CloudQError(f"no dead letter has the id {task_id!r}. `cloudq dlq ls` lists those that there are.")


async def _look(app: CloudQ, queue_names: tuple[str, ...], limit: int) -> list[Delivery]:
    found: list[Delivery] = []
    for name in queue_names or app.queue_names():
        async with app.driver(app.url_of(name)) as driver:
            found += await deadletters.look(driver, app.address(name, Part.DEAD), limit)
    return found


def _row(delivery: Delivery) -> dict[str, Any]:
    record = deadletters.read(delivery)
    envelope = decode(delivery.body)
    read = envelope if isinstance(envelope, Envelope) else None
    return {
        "queue": delivery.queue.logical,
        "kind": record.kind,
        "task": record.task or (read.type if read else ""),
        "task_id": record.task_id or (read.id if read else delivery.message_id),
        "attempts": record.attempts,
        "at": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="seconds") if record.at else "",
        "reason": record.reason,
    }
