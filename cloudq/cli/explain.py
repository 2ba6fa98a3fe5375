"""`cloudq explain`: what an application's settings become on one provider, field by field, and what that costs."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.cli.output import table
from cloudq.driver import Part
from cloudq.durations import seconds, spoken
from cloudq.errors import ConfigError
from cloudq.facts import Facts, facts_of, providers
from cloudq.mapping import assess, hops, longest_delay, reference
from cloudq.opening import facts_at


@click.command()
@click.argument("app", type=APP, required=False)
@click.option("--target", help="The provider. Default: that of the settings.")
@click.option("--delay", "delays", multiple=True, help="Also say what a delay costs, e.g. 2h; may be given often.")
@click.option("--markdown", is_flag=True, help="Without APP: print docs/mapping.md.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(app: CloudQ | None, target: str | None, delays: tuple[str, ...], *, markdown: bool, as_json: bool) -> None:
    """Show the native field and value of everything that APP declares, its physical queues, and the cost of a task."""
    if app is None:
        if not markdown:
            raise ConfigError(
                "name an application (cloudq explain APP), or ask for the whole mapping: cloudq explain --markdown."
            )
        click.echo(reference(providers()), nl=False)
        return
    groups: dict[str, tuple[Facts, list[str]]] = {}
    for name in app.queue_names():
        facts = facts_of(target) if target else facts_at(app.url_of(name)) or facts_of(app.url_of(name).partition("://")[0])
        groups.setdefault(facts.scheme, (facts, []))[1].append(name)
    if as_json:
        rows = [
            {"target": facts.scheme, **asdict(line), "how": line.how.value}
            for facts, queues in groups.values()
            for line in assess(app, facts, queues)
        ]
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for facts, queues in groups.values():
        click.echo(f"on {facts.name}")
        for name in queues:
            _explain_queue(app, facts, name)
        _explain_cost(facts, delays)


def _explain_queue(app: CloudQ, facts: Facts, name: str) -> None:
    delayed = facts.limits.send_delay < float("inf")
    physical = [queue.physical for queue in app.addresses(name) if delayed or queue.part is not Part.DELAY]
    click.echo(f"\nqueue {name}: {', '.join(physical)}")
    lines = assess(app, facts, [name])
    table(
        [
            {"task": line.task or "-", "promise": line.aspect, "when": line.when, "how": line.how.value, "field": line.field,
             "value": line.note if line.finding else line.value}
            for line in lines
        ],
        ["task", "promise", "when", "how", "field", "value"],
        as_json=False,
    )  # fmt: skip
    for task in app.declared.as_mapping().values():
        if task.queue == name and task.policy.retry.max_attempts > 1:
            retry = task.policy.retry
            span = sum(retry.delay(attempt, 0.5) for attempt in range(1, retry.max_attempts))
            click.echo(
                f"{task.name}: {retry.max_attempts} attempts, {spoken(round(retry.delay(1, 0.0), 1))} to "
                f"{spoken(round(longest_delay(retry), 1))} apart, {_about(span)} in all on average"
            )


def _about(duration: float) -> str:
    return f"{duration / 3600:.1f} h" if duration >= 7200 else spoken(round(duration))


def _explain_cost(facts: Facts, delays: tuple[str, ...]) -> None:
    cost = facts.cost
    if cost.price:
        click.echo(
            f"\n1,000 tasks: {cost.batched * 1000:g} {cost.unit} in full batches, {cost.single * 1000:g} one by one; "
            f"{cost.price:g} USD for a million ({cost.source})"
        )
    for text in delays:
        delay = seconds(text, "--delay")
        count = hops(delay, facts)
        how = "native" if count == 0 else f"{facts.rule('delay', 'beyond').how.value}: hidden {count} time(s), then forwarded"
        click.echo(f"a delay of {text}: {how}")
