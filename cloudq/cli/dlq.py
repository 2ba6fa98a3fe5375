"""`cloudq dlq`: what was given up, and why; back to work with it, or away."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from cloudq import deadletters, redrive
from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.cli.output import printable, table
from cloudq.deadletters import Letter, Wanted
from cloudq.driver import Part
from cloudq.durations import seconds
from cloudq.errors import CloudQError, ConfigError, nearest
from cloudq.outcome import Kind

#: Letters of one queue that are looked at for a list: more than anybody reads, few enough for the memory.
_MOST = 100_000
#: What --limit is when it is not given.
_ALL = 1_000_000
_COLUMNS = ["queue", "kind", "task", "task_id", "attempts", "at", "reason"]
_KINDS = [kind.value for kind in Kind]
F = TypeVar("F", bound=Callable[..., Any])


def _filters(function: F) -> F:
    """Add the options that choose letters; a letter must fit all that are given."""
    for option in reversed(
        (
            click.option("--queue", "-q", "queue_names", multiple=True, help="Only this queue; may be given often."),
            click.option(
                "--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Only this kind; may be given often."
            ),
            click.option("--task", "tasks", multiple=True, help="Only this task; may be given often."),
            click.option("--id", "ids", multiple=True, help="Only this task id, or those that begin so; may be given often."),
            click.option("--reason", default="", help="Only where the reason contains this."),
            click.option("--older-than", help="Only what died longer ago than this, e.g. 2h."),
            click.option("--newer-than", help="Only what died within this, e.g. 30m."),
        )
    ):
        function = option(function)
    return function


@click.group()
def dlq() -> None:
    """Look at dead letters, send them back to work, or throw them away."""


@dlq.command(name="ls")
@click.argument("app", type=APP)
@_filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Show at most so many, per queue.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(app: CloudQ, limit: int, *, as_json: bool, **filters: Any) -> None:
    """List dead letters: what kind, which task, why."""
    queues, wanted = _wanted(app, **filters)
    found = asyncio.run(_look(app, queues, wanted, limit))
    if not found and not as_json:
        click.echo("no dead letters" if wanted == Wanted() else "no dead letter fits")
        return
    table([_row(letter) for letter in found], _COLUMNS, as_json=as_json)


@dlq.command()
@click.argument("app", type=APP)
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(app: CloudQ, task_id: str, *, as_json: bool) -> None:
    """Show one dead letter whole: the record, the traceback, the body. The beginning of its id is enough."""
    for letter in asyncio.run(_look(app, app.queue_names(), Wanted(), _MOST)):
        if letter.task_id.startswith(task_id) or letter.delivery.message_id == task_id:
            row = _row(letter)
            row["trace"] = letter.record.trace or "(none)"
            row["body"] = letter.delivery.body.decode(errors="backslashreplace")
            if as_json:
                click.echo(json.dumps(row, ensure_ascii=False))
                return
            for key, value in row.items():
                text = printable(str(value))
                click.echo(f"{key}:\n{text}" if key in ("trace", "body") else f"{key}: {text}")
            return
    raise CloudQError(f"no dead letter has the id {task_id!r}. `cloudq dlq ls` lists those that there are.")


@dlq.command(name="redrive")
@click.argument("app", type=APP)
@_filters
@click.option("--limit", default=_ALL, type=click.IntRange(1), help="At most so many, per queue. Default: all.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only list what would be sent back.")
@click.option(
    "--bulk", is_flag=True, help="Have the provider move all of a queue by itself, unread and unchanged, where it can."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def redrive_(app: CloudQ, limit: int, rate: float | None, *, dry_run: bool, bulk: bool, as_json: bool, **filters: Any) -> None:
    """Send dead letters back to their queues: with no attempts behind them, a new age, and no expiry.

    A letter is removed after its copy is confirmed. What dies while this runs is left where it is.
    """
    queues, wanted = _wanted(app, **filters)
    if bulk and (dry_run or wanted != Wanted() or limit != _ALL):
        raise click.UsageError("--bulk moves all of a queue: it goes with --queue and --rate alone")
    if dry_run:
        _would(app, queues, wanted, limit, "redriven", as_json=as_json)
        return
    if bulk:
        _carry_out(_move, "redriven", app, queues, wanted, limit, rate, as_json=as_json)
        return
    _carry_out(redrive.redrive, "redriven", app, queues, wanted, limit, rate, as_json=as_json)


@dlq.command()
@click.argument("app", type=APP)
@_filters
@click.option("--limit", default=_ALL, type=click.IntRange(1), help="At most so many, per queue. Default: all.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def purge(app: CloudQ, limit: int, rate: float | None, *, dry_run: bool, yes: bool, as_json: bool, **filters: Any) -> None:
    """Remove dead letters for good."""
    queues, wanted = _wanted(app, **filters)
    if dry_run:
        _would(app, queues, wanted, limit, "purged", as_json=as_json)
        return
    if not yes:
        which = "the dead letters that fit" if wanted != Wanted() else "ALL dead letters"
        click.confirm(f"Remove {which} of {', '.join(queues)} for good?", abort=True, err=True)
    _carry_out(redrive.purge, "purged", app, queues, wanted, limit, rate, as_json=as_json)


def _wanted(
    app: CloudQ,
    queue_names: tuple[str, ...],
    kinds: tuple[str, ...],
    tasks: tuple[str, ...],
    ids: tuple[str, ...],
    reason: str,
    older_than: str | None,
    newer_than: str | None,
) -> tuple[list[str], Wanted]:
    known = app.queue_names()
    if not known:
        raise ConfigError("the application declares no task and its settings name no queue: there are no dead letters to find.")
    for name in queue_names:
        if name not in known:
            raise ConfigError(f"no task is declared on the queue {name!r}.{nearest(name, known)}")
    now = app.clock.time()
    wanted = Wanted(
        kinds=kinds,
        tasks=tasks,
        ids=ids,
        reason=reason,
        before=now - seconds(older_than, "--older-than") if older_than else float("inf"),
        after=now - seconds(newer_than, "--newer-than") if newer_than else 0.0,
    )
    return list(queue_names) or known, wanted


async def _look(app: CloudQ, queues: list[str], wanted: Wanted, limit: int) -> list[Letter]:
    found: list[Letter] = []
    for name in queues:
        async with app.driver(app.url_of(name)) as driver:
            # All are looked at, because no provider can filter: `limit` bounds what is shown.
            letters = [
                deadletters.open_letter(each) for each in await deadletters.look(driver, app.address(name, Part.DEAD), _MOST)
            ]
        found += [letter for letter in letters if wanted.fits(letter)][:limit]
    return found


def _would(app: CloudQ, queues: list[str], wanted: Wanted, limit: int, done: str, *, as_json: bool) -> None:
    found = asyncio.run(_look(app, queues, wanted, limit))
    table([_row(letter) for letter in found], _COLUMNS, as_json=as_json)
    if not as_json:
        click.echo(f"{len(found)} would be {done}")


async def _move(
    app: CloudQ, queue: str, wanted: Wanted, *, limit: int, rate: float | None, progress: redrive.Progress
) -> redrive.Tally:
    assert wanted == Wanted(), "asked above"
    assert limit == _ALL, "asked above"
    return await redrive.move(app, queue, rate=rate, progress=progress)


def _carry_out(
    work: redrive.Work,
    done: str,
    app: CloudQ,
    queues: list[str],
    wanted: Wanted,
    limit: int,
    rate: float | None,
    *,
    as_json: bool,
) -> None:
    rows: list[dict[str, Any]] = []
    for name in queues:
        with _progress(f"{name}: {done}") as show:
            tally = asyncio.run(work(app, name, wanted, limit=limit, rate=rate, progress=show))
        rows.append(
            {"queue": name, done: tally.done, "failed": tally.failed, "doubtful": tally.doubtful, "kept": tally.kept}
            | ({"error": tally.error} if tally.error else {})
        )
    if as_json:
        table(rows, [], as_json=True)
    else:
        for row in rows:
            more = [f"{row[key]} {key}" for key in ("failed", "doubtful", "kept") if row[key]]
            error = f" ({row['error']})" if "error" in row else ""
            click.echo(f"{row['queue']}: {row[done]} {done}" + "".join(f", {part}" for part in more) + error)
    if any(row["failed"] or row["doubtful"] for row in rows):
        sys.exit(1)


def _progress(what: str) -> AbstractContextManager[redrive.Progress]:
    if not sys.stderr.isatty():
        return nullcontext(lambda _: None)
    return _Status(what)


class _Status:
    """A line that counts, for a person who watches."""

    def __init__(self, what: str) -> None:
        from rich.console import Console

        self._what = what
        self._status = Console(stderr=True).status(f"{what} 0")

    def __enter__(self) -> redrive.Progress:
        self._status.start()
        return lambda tally: self._status.update(f"{self._what} {tally.done}")

    def __exit__(self, *exc: object) -> None:
        self._status.stop()


def _row(letter: Letter) -> dict[str, Any]:
    record = letter.record
    return {
        "queue": letter.delivery.queue.logical,
        "kind": record.kind,
        "task": letter.task,
        "task_id": letter.task_id,
        "attempts": record.attempts,
        "at": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="seconds") if record.at else "",
        "reason": record.reason,
    }
