"""How a delay longer than the provider's own is kept: by hops through the delay part, planned here and walked by the pump.

A waiting task is always held by the provider, never by a worker: a message in the delay part is hidden by the provider until
its next hop, and whatever dies meanwhile, it comes back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.driver import Limits, Part, Queue
from cloudq.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Route:
    """Where a message is sent first, and with what delay in seconds."""

    part: Part
    delay: float


@dataclass(frozen=True, slots=True)
class Forward:
    """The message is close enough: send it to its queue with the rest of the delay, then ack it here."""

    delay: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Not yet: give it back to the delay part for this long."""

    delay: float


def used(queues: Sequence[Queue], limits: Limits) -> list[Queue]:
    """Return the parts that are used: where the provider delays for any time by itself, there is no delay part."""
    return [queue for queue in queues if queue.part is not Part.DELAY or limits.send_delay < float("inf")]


def route(delay: float, limits: Limits, ordering_key: str | None, *, ordered: bool) -> Route:
    """Plan the first step of a message that is due in `delay` seconds. Unsupported where the delay would break an order."""
    if delay <= 0:
        return Route(Part.MAIN, 0.0)
    if ordering_key is not None and not limits.ordered_delay:
        raise Unsupported(
            f"delay={delay:g}s together with ordering_key={ordering_key!r}: {limits.provider} cannot delay one message of "
            f"an ordered group. Enqueue it without the key, or without the delay."
        )
    # An ordered queue of such a provider delays no message at all, also one without a key, unless it schedules any of them.
    alone = limits.ordered_delay or not ordered or math.isinf(limits.send_delay)
    if delay <= limits.send_delay and alone:
        return Route(Part.MAIN, delay)
    return Route(Part.DELAY, min(limits.send_delay, delay))


def next_hop(due: float, now: float, limits: Limits, *, ordered: bool) -> Forward | Hold:
    """Plan the next step of a message met in the delay part; `due` and `now` in seconds since the epoch."""
    rest = due - now
    if rest <= (limits.send_delay if limits.ordered_delay or not ordered else 0.0):
        return Forward(max(0.0, rest))
    return Hold(min(limits.release_delay, rest))
