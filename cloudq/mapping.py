"""How an application's promises are kept by a provider: native, composed by the core, or refused. Pure functions of facts.

`assess` looks at one application and one provider; `cloudq check` prints what it returns for several, `cloudq explain` for one,
and a worker does not start where it finds a setting that cannot be kept. `reference` writes docs/mapping.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloudq import config, naming
from cloudq.app import CloudQ
from cloudq.driver import Part, Queue
from cloudq.durations import spoken
from cloudq.errors import ConfigError
from cloudq.facts import ASPECTS, Aspect, Facts, How, Rule, facts_of
from cloudq.opening import facts_at, impossible
from cloudq.outcome import UNRUN_FORGIVEN
from cloudq.retry import Backoff
from cloudq.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promise: whose it is, and how it is kept.

    `finding` tells that a declared setting cannot be kept: `note` then says which, with the numbers, and what to do. Otherwise
    `note` is what a composed promise costs. `task` is empty for what belongs to the queue.
    """

    queue: str
    task: str
    aspect: Aspect
    when: str
    how: How
    field: str
    value: str
    note: str = ""
    source: str = ""
    finding: bool = False


def assess(app: CloudQ, facts: Facts, queues: Sequence[str] = ()) -> list[Line]:
    """Return how each promise of the application would be kept, queue by queue, each queue's tasks after it."""
    lines: list[Line] = []
    tasks = sorted(app.declared.as_mapping().values(), key=lambda task: task.name)
    for name in queues or app.queue_names():
        own = [task for task in tasks if task.queue == name]
        lines += _of_queue(app, name, own, facts)
        for task in own:
            lines += _of_task(app.address(name, Part.MAIN), task, facts)
    return lines


def refuse_findings(app: CloudQ, queues: Sequence[str]) -> None:
    """Raise ConfigError when a queue or one of its tasks asks for what its provider cannot keep."""
    for queue in queues:
        facts = facts_at(app.url_of(queue))
        findings = [line.note for line in assess(app, facts, [queue]) if line.finding] if facts is not None else []
        if findings:
            raise ConfigError(" ".join(dict.fromkeys(findings)))


def longest_delay(retry: Backoff) -> float:
    """Return the longest delay between two attempts, in seconds; 0 where there is no second."""
    return retry.delay(retry.max_attempts - 1, 1.0) if retry.max_attempts > 1 else 0.0


def hops(delay: float, facts: Facts) -> int:
    """Return how often the provider hides a message again until a delay is over, beyond what it delays natively."""
    rest = delay - facts.limits.send_delay
    return 0 if rest <= 0 else math.ceil(rest / facts.limits.release_delay)


def _of_queue(app: CloudQ, name: str, tasks: Sequence[Task[Any, Any]], facts: Facts) -> Iterator[Line]:
    queue = app.address(name, Part.MAIN)
    attempts = app.settings.queue(name).max_attempts or max((task.policy.retry.max_attempts for task in tasks), default=15)
    refused = dict(impossible(queue, facts.limits))
    cases: list[tuple[Aspect, str]] = [("lease", "start"), ("lease", "renewal"), ("attempts", "count")]
    if queue.ordered:
        cases.extend([("delay", "ordered"), ("order", "key")])
    else:
        cases.extend([("delay", "within"), ("delay", "beyond")])
    cases.extend([("dead-letter", "explicit"), ("dead-letter", "net"), ("expiry", "task"), ("expiry", "retention")])
    if queue.dedup:
        cases.append(("dedup", "ordered" if queue.ordered else "plain"))
    if len(app.settings.queue(name).priorities) > 1:
        cases.append(("priority", "levels"))
    if not queue.ordered:
        cases.append(("fairness", "tenant"))
    possible = facts.cases()
    for aspect, case in (case for case in cases if case in possible):
        line = _line(facts.rule(aspect, case), queue, facts, attempts)
        if aspect in refused:
            line = replace(line, how=How.REFUSED, note=refused[aspect], finding=True)
        yield line


def _of_task(queue: Queue, task: Task[Any, Any], facts: Facts) -> Iterator[Line]:
    retry = task.policy.retry
    yield _retry(queue, task, facts)
    net = facts.net(retry.max_attempts)
    if net is not None and net < retry.max_attempts + UNRUN_FORGIVEN:
        yield _refusal(
            facts.rule("dead-letter", "net"),
            task,
            f"the task {task.name} has max_attempts={retry.max_attempts}: {facts.name} moves a message to its dead part after "
            f"{net} deliveries at the latest, and {UNRUN_FORGIVEN} that were never run must fit too. Choose "
            f"{net - UNRUN_FORGIVEN} or fewer.",
        )
    if facts.copies is not None and not queue.ordered and longest_delay(retry) > facts.limits.release_delay:
        window, needed = queue.dedup or facts.copies, queue.lease + (task.timeout or 0.0) + longest_delay(retry)
        if window < needed:
            yield _refusal(
                facts.rule("retry", "beyond"),
                task,
                f"the task {task.name} is tried again by copies, and after a kill the same copy may be made again up to "
                f"{spoken(needed)} later: lease, timeout and longest backoff. {facts.name} drops the second one for "
                f"{spoken(window)}. Set queues.{queue.logical}.dedup to at least {spoken(needed)}, or a shorter cap.",
            )
    wait = min(longest_delay(retry), facts.limits.release_delay)
    if (task.timeout or math.inf) + wait > facts.hidden:
        timeout = "None" if task.timeout is None else spoken(task.timeout)
        yield _refusal(
            facts.rule("lease", "renewal"),
            task,
            f"the task {task.name} has timeout={timeout}: {facts.name} hides a message for {spoken(facts.hidden)} in all from "
            f"its receive, and a retry waits up to {spoken(wait)} of them. Choose at most {spoken(facts.hidden - wait)}.",
        )


def _retry(queue: Queue, task: Task[Any, Any], facts: Facts) -> Line:
    retry, limits = task.policy.retry, facts.limits
    first, longest = retry.delay(1, 0.0), longest_delay(retry)
    if queue.ordered:
        line = _line(facts.rule("retry", "ordered"), queue, facts, retry.max_attempts, task)
        if longest > limits.ordered_release_delay:
            cut = f"a backoff beyond {spoken(limits.ordered_release_delay)} is cut to it: a copy would go to the end of its key"
            line = replace(line, how=How.COMPOSED, note="; ".join(filter(None, (line.note, cut))))
        return line
    within = facts.rule("retry", "within")
    if longest <= limits.release_delay:
        return _line(within, queue, facts, retry.max_attempts, task)
    beyond = facts.rule("retry", "beyond")
    line = _line(beyond, queue, facts, retry.max_attempts, task)
    if first > limits.release_delay:
        return line
    return replace(line, when=f"{within.when} {within.how.value} ({within.field}), {beyond.when} {beyond.how.value}")


def _line(rule: Rule, queue: Queue, facts: Facts, attempts: int, task: Task[Any, Any] | None = None) -> Line:
    return Line(
        queue=queue.logical,
        task="" if task is None else task.name,
        aspect=rule.aspect,
        when=rule.when,
        how=rule.how,
        field=rule.field,
        value=_value(rule, queue, facts, attempts),
        note=rule.cost,
        source=rule.source,
    )


def _refusal(rule: Rule, task: Task[Any, Any], note: str) -> Line:
    return Line(
        queue=task.queue,
        task=task.name,
        aspect=rule.aspect,
        when=rule.when,
        how=How.REFUSED,
        field=rule.field,
        value="-",
        note=note,
        source=rule.source,
        finding=True,
    )


def _value(rule: Rule, queue: Queue, facts: Facts, attempts: int) -> str:
    return rule.value.format(lease=f"{queue.lease:g}", threshold=facts.net(attempts), dedup=spoken(queue.dedup))


# docs/mapping.md ----------------------------------------------------------------------------------------------------------

_HEAD = """# The mapping

How each promise is kept on each provider: by which native field, with which exact value, or composed of what, at what cost.
Values are those of a queue with the default settings (lease 60 s, 15 attempts). Written by `cloudq explain --markdown` from the
facts of the adapters; `cloudq explain APP` says the same of your own queues. What is said of the managed providers comes from
the sources named, and is not measured against a live account.
"""


def reference(schemes: Sequence[str]) -> str:
    """Return docs/mapping.md for these providers."""
    providers = [facts_of(scheme) for scheme in schemes]
    queue = naming.address("cloudq", "default", config.QueueSettings(), Part.MAIN)
    attempts = Backoff().max_attempts
    out = [_HEAD]
    for aspect in ASPECTS:
        out += [f"## {aspect[0].upper()}{aspect[1:]}", "", "| Provider | When | How | Native field | Value | Cost | Source |"]
        out.append("|---|---|---|---|---|---|---|")
        for facts in providers:
            for rule in (rule for rule in facts.rules if rule.aspect == aspect):
                value = _value(rule, queue, facts, attempts)
                cells = (facts.name, rule.when, rule.how.value, _code(rule.field), value, rule.cost or "-", rule.source)
                out.append(f"| {' | '.join(cells)} |")
        out.append("")
    out += [
        "## Limits",
        "",
        f"| Limit | {' | '.join(facts.name for facts in providers)} |",
        "|---" * (len(providers) + 1) + "|",
    ]
    out += [f"| `{name}` | {' | '.join(_figure(facts, name) for facts in providers)} |" for name in providers[0].sources]
    out += ["", "### Sources", ""]
    for facts in providers:
        out += [f"{facts.name}:", ""]
        out += [f"- `{name}`: {source}." for name, source in facts.sources.items()]
        out.append("")
    out += ["## Cost of a task", "", "| Provider | Unit | One by one | In full batches | USD per million | Source |"]
    out.append("|---|---|---|---|---|---|")
    for facts in providers:
        cost = facts.cost
        out.append(f"| {facts.name} | {cost.unit} | {cost.single:g} | {cost.batched:g} | {cost.price:g} | {cost.source} |")
    return "\n".join(out) + "\n"


def _code(field: str) -> str:
    return field if field == "-" else f"`{field}`"


def _figure(facts: Facts, name: str) -> str:
    value = getattr(facts.limits, name, None)
    if value is None:
        value = getattr(facts, name)
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return "any" if math.isinf(value) else f"{value:,.10g}"
        case frozenset():
            return ", ".join(sorted(value)) or "none"  # pyright: ignore[reportUnknownArgumentType]  tells is the only set
        case tuple():
            return " to ".join(f"{number:,g}" for number in value)  # pyright: ignore[reportUnknownVariableType]  two numbers
        case _:
            return "-" if value is None else str(value)
