"""What the embedded providers can do, as data."""

from __future__ import annotations

from dataclasses import replace

from cloudq.driver import Limits
from cloudq.facts import Cost, Facts, How, Rule

_STORE = "cloudq_local/store.py"

#: The body limit is a choice, not SQLite's: an application that runs here also fits the provider with the most common limit,
#: 1 MiB. The counts bound the time for which one transaction holds the write lock.
LIMITS = Limits(
    provider="SQLite",
    message_bytes=1024 * 1024,
    attribute_bytes=64 * 1024,
    send_count=500,
    send_bytes=8 * 1024 * 1024,
    receive_count=100,
    settle_count=500,
    receive_wait=20.0,
    send_delay=float("inf"),
    release_delay=float("inf"),
    parked=float("inf"),
    retention=float("inf"),
    lease=(0.1, 12 * 3600.0),
    linger=0.0,
    native_dead_letter=True,
    native_order=True,
    fair=False,
    ordered_delay=True,
    ordered_release_delay=float("inf"),
    dedup="all",
    dedup_window=(1.0, 365 * 86400.0),
    counts_crashes=True,
    release_uncounted=True,
    tells_lost=True,
    cancels=True,
)

_OURS = f"choice: {_STORE}, which bounds the time that one transaction holds the write lock"


def _native(aspect: str, case: str, when: str, field: str, value: str) -> Rule:
    return Rule(aspect=aspect, case=case, when=when, how=How.NATIVE, field=field, value=value, source=_STORE)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  only the literals below


SQLITE = Facts(
    scheme="sqlite",
    name="SQLite",
    limits=LIMITS,
    sources={
        "message_bytes": "choice: 1 MiB, so that what runs here fits Amazon SQS too",
        "attribute_bytes": "choice: room for a whole dead-letter record",
        "send_count": _OURS,
        "send_bytes": _OURS,
        "receive_count": _OURS,
        "settle_count": _OURS,
        "receive_wait": "choice: as the managed providers",
        **dict.fromkeys(("send_delay", "release_delay", "ordered_delay", "ordered_release_delay"), f"{_STORE}: a due time"),
        **dict.fromkeys(("parked", "retention"), f"{_STORE}: no limit"),
        "fair": f"{_STORE}: in the order of due times, whoever sent",
        "lease": "choice: from what a test wants to 12 h",
        "linger": "a transaction costs no request",
        **dict.fromkeys(
            (
                "native_dead_letter",
                "native_order",
                "dedup",
                "dedup_window",
                "counts_crashes",
                "release_uncounted",
                "tells_lost",
                "cancels",
            ),
            f"{_STORE}: rows and columns for it, in one transaction",
        ),
        "resolution": "the clock",
        "hidden": f"{_STORE}: a due time",
        "threshold": "none: the core alone gives up",
        "tells": f"{_STORE}: counted",
        "peeks": f"{_STORE}: a SELECT",
    },
    rules=(
        _native("retry", "within", "any delay", "messages.visible_at", "now + the delay"),
        _native("retry", "ordered", "with an ordering key", "messages.visible_at", "now + the delay; the key waits behind it"),
        _native("delay", "within", "any delay", "messages.visible_at", "now + the delay"),
        _native("delay", "ordered", "with an ordering key", "messages.visible_at", "now + the delay; the key waits behind it"),
        _native("dead-letter", "explicit", "given up by cloudq, with a record", "one transaction", "record in an attribute"),
        _native("dead-letter", "net", "the net far behind it", "-", "none: nobody else moves a message"),
        _native("lease", "start", "at the receive", "messages.visible_at", "now + {lease} s"),
        _native("lease", "renewal", "at half of it, while the task runs", "messages.visible_at", "now + {lease} s"),
        _native(
            "attempts", "count", "always", "messages.deliveries, messages.crashes", "exact; one given back unrun is not counted"
        ),
        _native("order", "key", "ordered = true", "messages.grp", "the ordering key"),
        _native("dedup", "plain", "ordered = false", "table seen", "the task id; window {dedup}"),
        _native("dedup", "ordered", "ordered = true", "table seen", "the task id; window {dedup}"),
        Rule(
            aspect="expiry",
            case="task",
            when="expires=",
            how=How.COMPOSED,
            field="envelope, checked at the receive",
            value="not run; dead-lettered or dropped",
            source=_STORE,
            cost="the expired message costs its receive and its settlement",
        ),
        _native("expiry", "retention", "of the queue", "-", "none: a message stays until it is settled"),
        Rule(
            aspect="priority",
            case="levels",
            when="priorities = [...]",
            how=How.COMPOSED,
            field="one queue for each priority",
            value="polled in turn, 14 : 5 : 1",
            source=_STORE,
            cost="an idle poll more for each level",
        ),
        Rule(
            aspect="fairness",
            case="tenant",
            when="tenant=",
            how=How.REFUSED,
            field="-",
            value="Unsupported at the enqueue",
            source=_STORE,
        ),
        Rule(
            aspect="alarm",
            case="oldest",
            when="[queues.<name>.alarm] oldest",
            how=How.COMPOSED,
            field="-",
            value="`cloudq queues` tells the age",
            source="no infrastructure to make",
            cost="somebody has to look",
        ),
        Rule(
            aspect="alarm",
            case="dead",
            when="[queues.<name>.alarm] dead",
            how=How.COMPOSED,
            field="-",
            value="`cloudq dlq ls` lists them",
            source="no infrastructure to make",
            cost="somebody has to look",
        ),
        Rule(
            aspect="serverless",
            case="function",
            when="[queues.<name>.serverless]",
            how=How.COMPOSED,
            field="-",
            value="a worker runs the tasks",
            source="no infrastructure to make",
            cost="a worker has to run",
        ),
    ),
    cost=Cost(unit="requests", single=0.0, batched=0.0, price=0.0, source="a file: nothing is billed"),
    resolution=0.0,
    hidden=float("inf"),
    threshold=None,
    tells=frozenset({"ready", "in_flight", "delayed", "oldest_age"}),
    peeks=True,
)

MEMORY = replace(SQLITE, scheme="memory", name="memory", limits=replace(LIMITS, provider="memory"))
