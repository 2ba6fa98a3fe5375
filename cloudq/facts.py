"""What is known of a provider before it is used: its limits, and how each promise of cloudq is kept there.

An adapter states them in its `facts.py` as pure data, without its SDK, and registers them under its scheme in the entry-point
group `cloudq.facts`. So `cloudq check` can answer for a provider that is not installed, and `memory://?as=<scheme>` can behave
like it. Every figure carries its source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points
from typing import Literal, get_args

from cloudq.driver import Limits
from cloudq.errors import ConfigError, nearest

#: Of a queue that a function serves, the net's least: a function that cannot be called has its messages delivered all the same.
_SERVED = 100


class How(Enum):
    """How a promise is kept."""

    #: By a feature of the provider.
    NATIVE = "native"
    #: By the core, from the provider's primitives: at a cost and with an error that are told.
    COMPOSED = "composed"
    #: Not at all: the setting is an error there.
    REFUSED = "refused"


Aspect = Literal[
    "retry",
    "delay",
    "dead-letter",
    "lease",
    "attempts",
    "order",
    "dedup",
    "expiry",
    "priority",
    "fairness",
    "alarm",
    "serverless",
]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one aspect is kept in one case.

    `case` is what the core asks by (see `CASES`), `when` the same in words. `field` is the native field or operation, `value`
    its exact value: a format string over the numbers of a queue (`{lease}`, `{threshold}`, `{dedup}`, in seconds or counts).
    Values of what is made with the queue know `{retention}`, `{dead_retention}` and `{oldest}` too.
    `cost` tells what a composed rule costs and how exact it is, and where a native one falls short.
    """

    aspect: Aspect
    case: str
    when: str
    how: How
    field: str
    value: str
    source: str
    cost: str = ""


#: The cases of each aspect. A provider has a rule for every one that can occur there.
CASES: Mapping[Aspect, tuple[str, ...]] = {
    "retry": ("within", "beyond", "ordered", "function"),
    "delay": ("within", "beyond", "ordered", "function"),
    "dead-letter": ("explicit", "net"),
    "lease": ("start", "renewal"),
    "attempts": ("count",),
    "order": ("key",),
    "dedup": ("plain", "ordered"),
    "expiry": ("task", "retention"),
    "priority": ("levels",),
    "fairness": ("tenant",),
    "alarm": ("oldest", "dead"),
    "serverless": ("function",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a task costs at the provider's meter.

    `unit` is what is billed; `single` and `batched` are how many units a small task takes from its
    enqueue to its ack, one by one and in full batches; `price` is in US dollars for a million units.
    """

    unit: str
    single: float
    batched: float
    price: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """What a function may ask that takes the place of workers. Ranges are the least and the most; times in seconds.

    `leases` is how many times its timeout the queue's lease must be. `batch` and `window` are those of a queue without order.
    `concurrency` is None where the provider does not bound the calls at once. `ordered` says that a function may serve an
    ordered queue, and `delays` that what is delayed reaches it: natively, or because it serves the delay part too.
    `longest_backoff` is the longest wait between two attempts, where that is not a task's to say.
    """

    leases: int
    timeout: tuple[float, float]
    batch: tuple[int, int]
    ordered_batch: tuple[int, int]
    usual_batch: int
    window: tuple[float, float]
    ordered_window: tuple[float, float]
    concurrency: tuple[int, int] | None
    ordered: bool
    delays: bool
    longest_backoff: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Infrastructure:
    """What whoever makes the queues must know of a provider: the Terraform module above all. Times in seconds.

    `cloud` is the name of the module. `retention` and `dead_retention` are the least and the most, of the queue and of its dead
    part, None where that keeps for ever. `dead_ages` says that what the provider moves there by itself keeps its age.
    `ordered_suffix` ends the name of an ordered queue; no name may begin with one of `reserved`, or be longer than
    `longest_name`. `ages` are the ages that an alarm can be set to, None for any. `sources` names where each comes from.
    """

    cloud: str
    retention: tuple[float, float]
    dead_retention: tuple[float, float] | None
    dead_ages: bool
    ordered_suffix: str
    longest_name: int
    reserved: tuple[str, ...]
    ages: tuple[float, ...] | None
    functions: Functions
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of one provider without asking it.

    `sources` names, for every field of `Limits` and of this class that is a figure, where it comes from; "choice:" marks
    what is ours to choose within the provider's limits, with the reason.
    """

    scheme: str
    name: str
    limits: Limits
    rules: tuple[Rule, ...]
    cost: Cost
    #: Delays and leases are whole multiples of this many seconds; 0 for any.
    resolution: float
    #: Longest time in seconds that a received message can stay hidden, renewals included.
    hidden: float
    #: Range of the provider's own threshold of deliveries before it moves a message to the dead part; None where it has none.
    threshold: tuple[int, int] | None
    #: Which counts of `Stats` the provider tells.
    tells: frozenset[str]
    #: Messages can be looked at without receiving them.
    peeks: bool
    sources: Mapping[str, str]
    #: For how long a copy for a later attempt that is made twice, because of a kill, is dropped the second time; in seconds,
    #: where the queue has no `dedup` of its own, which comes first. None where no copy waits in a queue that drops duplicates.
    copies: float | None = None
    #: None where there is none to make.
    infrastructure: Infrastructure | None = None

    def cases(self) -> list[tuple[Aspect, str]]:
        """Return the cases that can occur here: without a native delay none is within it, without a limit none beyond."""
        never: set[tuple[Aspect, str]] = set()
        if self.limits.send_delay == 0:
            never.add(("delay", "within"))
        if math.isinf(self.limits.send_delay):
            never.add(("delay", "beyond"))
        if math.isinf(self.limits.release_delay):
            never.add(("retry", "beyond"))
        if self.infrastructure is None:
            never.update([("retry", "function"), ("delay", "function")])
        return [(aspect, case) for aspect in ASPECTS for case in CASES[aspect] if (aspect, case) not in never]

    def rule(self, aspect: Aspect, case: str) -> Rule:
        """Return the rule of a case."""
        return next(rule for rule in self.rules if rule.aspect == aspect and rule.case == case)

    def net(self, max_attempts: int, *, served: bool = False) -> int | None:
        """Return the native dead-letter threshold for tasks of so many attempts, or None where there is none.

        It is a net far behind the core's own limit, which gives up only with an outcome in hand: deliveries that were never
        run count too.
        """
        if self.threshold is None:
            return None
        lowest, highest = self.threshold
        return min(highest, max(lowest, 3 * max_attempts, max_attempts + 20, _SERVED if served else 0))


def providers() -> list[str]:
    """Return the known schemes but `memory`, which is none itself and imitates the others."""
    return [scheme for scheme in known() if scheme != "memory"]


def known() -> list[str]:
    """Return the schemes whose facts are installed, sorted."""
    return sorted(entry.name for entry in entry_points(group="cloudq.facts"))


def facts_of(scheme: str) -> Facts:
    """Return the facts of a provider. ConfigError names the nearest that there is."""
    for entry in entry_points(group="cloudq.facts"):
        if entry.name == scheme:
            facts: Facts = entry.load()
            return facts
    raise ConfigError(f"there is no provider {scheme!r}.{nearest(scheme, known())}")
