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
from cloudq.durations import seconds, spoken
from cloudq.errors import ConfigError
from cloudq.facts import ASPECTS, Aspect, Facts, Functions, How, Infrastructure, Rule, facts_of
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
        lines += _of_queue(app, name, facts)
        for task in own:
            lines += _of_task(app.address(name, Part.MAIN), app.settings.queue(name), task, facts)
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


def _of_queue(app: CloudQ, name: str, facts: Facts) -> Iterator[Line]:
    queue = app.address(name, Part.MAIN)
    settings = app.settings.queue(name)
    refused = dict(impossible(queue, facts.limits))
    not_made = list(_not_made(name, settings, facts))
    cases: list[tuple[Aspect, str]] = [("lease", "start"), ("lease", "renewal"), ("attempts", "count")]
    if queue.ordered:
        cases.extend([("delay", "ordered"), ("order", "key")])
    elif settings.serverless is not None:
        cases.extend([("delay", "within"), ("delay", "function")])
    else:
        cases.extend([("delay", "within"), ("delay", "beyond")])
    cases.extend([("dead-letter", "explicit"), ("dead-letter", "net"), ("expiry", "task"), ("expiry", "retention")])
    if queue.dedup:
        cases.append(("dedup", "ordered" if queue.ordered else "plain"))
    if len(settings.priorities) > 1:
        cases.append(("priority", "levels"))
    if not queue.ordered:
        cases.append(("fairness", "tenant"))
    cases.extend([("alarm", "oldest"), ("alarm", "dead")])
    if settings.serverless is not None:
        cases.append(("serverless", "function"))
    possible = facts.cases()
    for aspect, case in (case for case in cases if case in possible):
        line = _line(facts.rule(aspect, case), queue, facts, settings)
        if aspect in refused:
            line = replace(line, how=How.REFUSED, note=refused[aspect], finding=True)
        yield line
    for aspect, case, note in not_made:
        line = _line(facts.rule(aspect, case), queue, facts, settings)
        yield replace(line, how=How.REFUSED, value="-", note=note, finding=True)


def _not_made(name: str, settings: config.QueueSettings, facts: Facts) -> Iterator[tuple[Aspect, str, str]]:
    """Yield what is asked of the provider's infrastructure and cannot be made, each with a sentence that says what to do."""
    made, who, of = facts.infrastructure, facts.name, f"queues.{name}"
    if made is None:
        return
    net = facts.net(settings.attempts, served=settings.serverless is not None)
    if net is not None and net < settings.attempts + UNRUN_FORGIVEN:
        note = (
            f"{of}.max_attempts = {settings.attempts}: {who} moves a message to its dead part after {net} deliveries at the "
            f"latest, and {UNRUN_FORGIVEN} that were never run must fit too. Choose {net - UNRUN_FORGIVEN} or fewer."
        )
        yield "dead-letter", "net", note
    for note in _not_kept(of, settings, made, who):
        yield "expiry", "retention", note
    oldest = seconds(settings.alarm.oldest, "oldest")
    if oldest > seconds(settings.retention, "retention"):
        note = (
            f"{of}.alarm.oldest = {spoken(oldest)}: nothing gets so old in a queue that keeps it for "
            f"{spoken(seconds(settings.retention, 'retention'))} (retention). Choose a shorter time, or 0."
        )
        yield "alarm", "oldest", note
    if oldest and made.ages is not None and oldest not in made.ages:
        ages = ", ".join(spoken(age) for age in made.ages)
        yield "alarm", "oldest", f"{of}.alarm.oldest = {spoken(oldest)}: {who} watches over {ages}. Choose one of them, or 0."
    if settings.serverless is not None:
        for note in _not_served(of, settings, settings.serverless, made.functions, who):
            yield "serverless", "function", note


def _not_kept(of: str, settings: config.QueueSettings, made: Infrastructure, who: str) -> Iterator[str]:
    keeps: list[tuple[str, config.Written | None, tuple[float, float] | None]] = [
        ("retention", settings.retention, made.retention),
        ("dead_retention", settings.dead_retention, made.dead_retention),
    ]
    for key, value, allowed in keeps:
        if value is None:
            continue
        asked = seconds(value, key)
        if allowed is None:
            note = f"{of}.{key} = {spoken(asked)}: {who} keeps what is dead until somebody removes it. Leave the setting out."
            yield note
        elif not allowed[0] <= asked <= allowed[1]:
            between = f"{who} keeps a message for {spoken(allowed[0])} to {spoken(allowed[1])}"
            yield f"{of}.{key} = {spoken(asked)}: {between}. Choose a time between."
    longest = made.dead_retention[1] if made.dead_retention is not None else 0.0
    waits, dead = seconds(settings.retention, "retention"), seconds(settings.dead_retention or longest, "dead_retention")
    if made.dead_ages and waits == dead:
        note = (
            f"{of}.retention = {spoken(waits)}, dead_retention = {spoken(dead)}: what {who} moves to the dead part by itself "
            f"keeps its age, and would be gone at once. Choose a retention below the other."
        )
        yield note


def _not_served(
    of: str, settings: config.QueueSettings, asked: config.ServerlessSettings, functions: Functions, who: str
) -> Iterator[str]:
    if settings.ordered and not functions.ordered:
        yield (
            f"{of}.serverless with ordered = true: a function of {who} can neither delay nor dead-letter a message of an "
            f"ordered queue. Let workers run it: remove [{of}.serverless]."
        )
    # In whole seconds, as they are exported.
    lease, timeout, window = (math.ceil(seconds(value, of)) for value in (settings.lease, asked.timeout, asked.window))
    at, kind = f"{of}.serverless", "an ordered queue" if settings.ordered else "a queue"
    if not functions.timeout[0] <= timeout <= functions.timeout[1]:
        most = f"a function of {who} runs for {spoken(functions.timeout[0])} to {spoken(functions.timeout[1])}"
        yield f"{at}.timeout = {spoken(timeout)}: {most}. Choose a time between, or let workers run these tasks."
    elif lease < functions.leases * timeout:
        times = f"{functions.leases} times " if functions.leases > 1 else ""
        yield (
            f"{of}.lease = {spoken(lease)}: with a function, {who} wants at least {times}its timeout of {spoken(timeout)}, or "
            f"a message that is still run is given out again. Set lease = {spoken(functions.leases * timeout)!r} or more, or a "
            f"shorter serverless.timeout."
        )
    lowest, highest = functions.ordered_batch if settings.ordered else functions.batch
    if asked.batch is not None and not lowest <= asked.batch <= highest:
        takes = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
        yield f"{at}.batch = {asked.batch}: {who} hands over {takes} of {kind} at once. Choose that, or leave it out."
    shortest, longest = functions.ordered_window if settings.ordered else functions.window
    if not shortest <= window <= longest:
        gathers = f"gathers for {spoken(shortest)} to {spoken(longest)}" if longest else "does not wait for a batch"
        yield f"{at}.window = {spoken(window)}: {who} {gathers} of {kind}. Choose a time between, or leave it out."
    if (asked.batch or 0) > 10 and window < 1 and highest > 10:
        yield (
            f"{at}.batch = {asked.batch}, window = {spoken(window)}: {who} gathers more than 10 messages over a second at the "
            f"least. Set serverless.window = '1s' or more, or a batch of 10."
        )
    if asked.concurrency is None:
        return
    if functions.concurrency is None:
        yield (
            f"{at}.concurrency = {asked.concurrency}: {who} does not bound the calls at once. Leave it out, and bound the "
            f"instances of the function itself."
        )
    elif not functions.concurrency[0] <= asked.concurrency <= functions.concurrency[1]:
        fewest, most_calls = functions.concurrency
        yield (
            f"{at}.concurrency = {asked.concurrency}: {who} bounds the calls at once to {fewest} to {most_calls}. Choose a "
            f"number between, or leave it out."
        )


def _of_task(queue: Queue, settings: config.QueueSettings, task: Task[Any, Any], facts: Facts) -> Iterator[Line]:
    retry, attempts = task.policy.retry, settings.attempts
    yield _retry(queue, settings, task, facts)
    yield from _not_waited(settings, task, facts)
    net = facts.net(attempts, served=settings.serverless is not None)
    if net is not None and net < retry.max_attempts + UNRUN_FORGIVEN:
        own = facts.net(retry.max_attempts) or 0
        remedy = f"Set queues.{queue.logical}.max_attempts = {retry.max_attempts}, so that the net is hung behind it."
        if own < retry.max_attempts + UNRUN_FORGIVEN:
            remedy = f"Choose {own - UNRUN_FORGIVEN} or fewer."
        yield _refusal(
            facts.rule("dead-letter", "net"),
            task,
            f"the task {task.name} has max_attempts={retry.max_attempts}: the queue is made to move a message to its dead part "
            f"after {net} deliveries, and {UNRUN_FORGIVEN} that were never run must fit too. {remedy}",
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


def _not_waited(settings: config.QueueSettings, task: Task[Any, Any], facts: Facts) -> Iterator[Line]:
    """Yield a refusal of a backoff that a task asks for itself and that the function's platform would cut at its first step."""
    if settings.serverless is None or facts.infrastructure is None or not task.says_retry:
        return
    longest, first = facts.infrastructure.functions.longest_backoff, task.policy.retry.delay(1, 0.0)
    if longest is not None and task.policy.retry.max_attempts > 1 and first > longest:
        yield _refusal(
            facts.rule("retry", "function"),
            task,
            f"the task {task.name} waits {spoken(first)} at the least before its second attempt: with a function, {facts.name} "
            f"waits {spoken(longest)} at the most. Choose a shorter first, or let workers run the queue {task.queue!r}.",
        )


def _retry(queue: Queue, settings: config.QueueSettings, task: Task[Any, Any], facts: Facts) -> Line:
    retry, limits = task.policy.retry, facts.limits
    first, longest = retry.delay(1, 0.0), longest_delay(retry)
    if settings.serverless is not None and facts.infrastructure is not None:
        return _line(facts.rule("retry", "function"), queue, facts, settings, task)
    if queue.ordered:
        line = _line(facts.rule("retry", "ordered"), queue, facts, settings, task)
        if longest > limits.ordered_release_delay:
            cut = f"a backoff beyond {spoken(limits.ordered_release_delay)} is cut to it: a copy would go to the end of its key"
            line = replace(line, how=How.COMPOSED, note="; ".join(filter(None, (line.note, cut))))
        return line
    within = facts.rule("retry", "within")
    if longest <= limits.release_delay:
        return _line(within, queue, facts, settings, task)
    beyond = facts.rule("retry", "beyond")
    line = _line(beyond, queue, facts, settings, task)
    if first > limits.release_delay:
        return line
    return replace(line, when=f"{within.when} {within.how.value} ({within.field}), {beyond.when} {beyond.how.value}")


def _line(rule: Rule, queue: Queue, facts: Facts, settings: config.QueueSettings, task: Task[Any, Any] | None = None) -> Line:
    return Line(
        queue=queue.logical,
        task="" if task is None else task.name,
        aspect=rule.aspect,
        when=rule.when,
        how=rule.how,
        field=rule.field,
        value=_value(rule, queue, facts, settings),
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


def _value(rule: Rule, queue: Queue, facts: Facts, settings: config.QueueSettings) -> str:
    made = facts.infrastructure
    dead = settings.dead_retention
    if dead is None and made is not None and made.dead_retention is not None:
        dead = made.dead_retention[1]
    return rule.value.format(
        lease=f"{queue.lease:g}",
        threshold=facts.net(settings.attempts, served=settings.serverless is not None),
        dedup=spoken(queue.dedup),
        retention=f"{queue.retention:.0f}",
        dead_retention="-" if dead is None else f"{seconds(dead, 'dead_retention'):.0f}",
        oldest=f"{seconds(settings.alarm.oldest, 'oldest'):g}",
    )


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
    settings = config.QueueSettings()
    out = [_HEAD]
    for aspect in ASPECTS:
        out += [f"## {aspect[0].upper()}{aspect[1:]}", "", "| Provider | When | How | Native field | Value | Cost | Source |"]
        out.append("|---|---|---|---|---|---|---|")
        for facts in providers:
            for rule in (rule for rule in facts.rules if rule.aspect == aspect):
                value = _value(rule, queue, facts, settings)
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
