"""Physical queue names, computed here and nowhere else: Terraform, the worker and the operator read the same ones.

<namespace>-mail          the queue `mail`, normal priority
<namespace>-mail-high     the same, priority high
<namespace>-mail-delay    waits for what is due further ahead than the provider delays
<namespace>-mail-dlq      what was given up, with the reason
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from cloudq.config import QueueSettings
from cloudq.driver import Part, Queue
from cloudq.durations import seconds
from cloudq.errors import ConfigError

#: The tightest provider takes names of 80 characters; a namespace and a queue of 32 leave room for every suffix.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_\-]{0,31}", re.ASCII)
_SUFFIX = {Part.DELAY: "-delay", Part.DEAD: "-dlq"}


def check_name(name: object, what: str) -> str:
    """Return the name, or raise ConfigError for one that some provider would refuse."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used on every provider: it takes a letter, then letters, digits, '-' or '_', "
            f"32 characters at most."
        )
    return name


def address(namespace: str, logical: str, settings: QueueSettings, part: Part, priority: str = "normal") -> Queue:
    """Return the address of one part of a logical queue."""
    return _address(namespace, logical, settings, part, priority)


@cache
def _address(namespace: str, logical: str, settings: QueueSettings, part: Part, priority: str) -> Queue:
    # Every enqueue asks, and the answer is the same while the settings are.
    suffix = _suffix(priority) if part is Part.MAIN else _SUFFIX[part]
    return Queue(
        logical=logical,
        physical=_physical(namespace, logical, suffix),
        part=part,
        priority=priority,
        # What is dead or waits elsewhere holds up nobody of its key: only the queue itself is in order.
        ordered=settings.ordered and part is Part.MAIN,
        of_ordered=settings.ordered,
        lease=seconds(settings.lease, f"queues.{logical}.lease"),
        dedup=seconds(settings.dedup, f"queues.{logical}.dedup") if part is Part.MAIN else 0.0,
        mains=tuple(_physical(namespace, logical, _suffix(each)) for each in settings.priorities) if part is Part.DEAD else (),
        retention=_retention(logical, settings, part),
        attempts=settings.attempts,
        served=settings.serverless is not None,
    )


def _retention(logical: str, settings: QueueSettings, part: Part) -> float | None:
    if part is Part.MAIN:
        return seconds(settings.retention, f"queues.{logical}.retention")
    if part is Part.DEAD and settings.dead_retention is not None:
        return seconds(settings.dead_retention, f"queues.{logical}.dead_retention")
    return None


def _suffix(priority: str) -> str:
    return "" if priority == "normal" else f"-{priority}"


def _physical(namespace: str, logical: str, suffix: str) -> str:
    return f"{namespace}-{logical}{suffix}"


def addresses(namespace: str, logical: str, settings: QueueSettings) -> list[Queue]:
    """Return every physical queue of a logical one: priorities first, most urgent first, then delay, then dead."""
    mains = [address(namespace, logical, settings, Part.MAIN, priority) for priority in settings.priorities]
    others = [address(namespace, logical, settings, part) for part in (Part.DELAY, Part.DEAD)]
    return [*mains, *others]


def check_distinct(queues: Iterable[Queue]) -> None:
    """Raise ConfigError when two logical queues would share a physical one (a queue `mail-dlq` beside `mail`)."""
    owner: dict[str, str] = {}
    for queue in queues:
        other = owner.setdefault(queue.physical, queue.logical)
        if other != queue.logical:
            raise ConfigError(
                f"the queues {other!r} and {queue.logical!r} would both use the physical queue {queue.physical!r}. "
                f"Rename one of them."
            )
