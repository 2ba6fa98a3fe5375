"""`cloudq enqueue`."""

from __future__ import annotations

import json
from typing import Any

import click

from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.config import PRIORITIES
from cloudq.errors import ConfigError, nearest


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("app", type=APP)
@click.argument("task")
@click.argument("arguments", nargs=-1)
@click.option("--delay", help="Not before this long from now, e.g. 90s or 2h.")
@click.option("--priority", type=click.Choice(PRIORITIES))
@click.option("--expires", help="Not after this long from now.")
@click.option("--ordering-key", help="Run after the tasks of the same key that were enqueued before.")
@click.option("--tenant", help="Whose task it is: a tenant with a backlog does not hold up the others.")
@click.option("--task-id", help="Repeat an enqueue whose outcome was unknown with the id it had.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def enqueue(app: CloudQ, task: str, arguments: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Enqueue TASK with ARGUMENTS.

    A value is JSON, or else plain text; name=value is a keyword. A text that looks like a number is quoted twice: '"42"'.

    \b
    cloudq enqueue shop.tasks:app shop.tasks.render 42 fmt=html --delay 5m
    """
    for text in arguments:
        if text.startswith("--"):
            known = ["--" + name.replace("_", "-") for name in options]
            raise ConfigError(f"there is no option {text}.{nearest(text, known)}")
    declared = app.declared.named(task)
    if app.url_of(declared.queue).startswith("memory:"):
        raise ConfigError(
            "memory:// ends with this command, and the task with it. Name a queue that stays: CLOUDQ_URL=sqlite:///..."
        )
    args = [_value(text) for text in arguments if not _is_keyword(text)]
    kwargs = {name: _value(text) for name, _, text in (item.partition("=") for item in arguments if _is_keyword(item))}
    receipt = declared.options(**options).enqueue(*args, **kwargs)
    if as_json:
        click.echo(json.dumps({"task_id": receipt.task_id, "queue": receipt.queue, "due": receipt.due}))
    else:
        click.echo(f"{receipt.task_id} on {receipt.queue}")
    app.close()


def _is_keyword(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isidentifier()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
