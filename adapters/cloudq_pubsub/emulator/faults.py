"""What the emulator gets wrong on purpose, and what it counts: for tests that show what a client makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from cloudq import emulation

#: docs, pricing: a publish, pull or push request counts 1,000 bytes at least.
SMALLEST = 1000


@dataclass
class Fault(emulation.Fault):
    """`kind` says what happens: "error" answers with the status `code` and does nothing, "lost" does the work and answers with
    the status all the same, "slow" answers `seconds` late.

    `ids`, of an Acknowledge or ModifyAckDeadline: those positions fail with `reason`, the others are done, as exactly-once
    delivery tells it. A StreamingPull that fails ends when it next has something to send.
    """

    _: KW_ONLY
    kind: Literal["error", "lost", "slow"] = "error"
    code: str = "UNAVAILABLE"
    ids: Sequence[int] = ()
    reason: str = "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE"
    #: Details of an error (google.rpc.ErrorInfo.metadata): the service has them on quotas and denials, too.
    info: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Under what it is counted."""
        return "ids" if self.ids else self.kind


@dataclass
class Requests:
    """What arrived, by method, and what would be billed for it."""

    by_method: Counter[str] = field(default_factory=Counter[str])
    #: By method and the name of the topic or subscription that it is about: what a role must allow.
    by_resource: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    #: Bytes, published and delivered.
    published: int = 0
    delivered: int = 0
    #: Pulls that brought nothing.
    empty: int = 0
    #: When the first message was given out and the last one acknowledged, on the machine's monotonic clock: between them lies
    #: the time that a backlog took, whoever the client is.
    first_delivery: float | None = None
    last_ack: float | None = None

    def as_json(self) -> Mapping[str, object]:
        """Return the figures."""
        return {
            "total": sum(self.by_method.values()),
            "published": self.published,
            "delivered": self.delivered,
            "empty": self.empty,
            "first_delivery": self.first_delivery,
            "last_ack": self.last_ack,
            "by_method": dict(self.by_method),
        }
