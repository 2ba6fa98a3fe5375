"""What the emulator gets wrong on purpose, and what it counts: for tests that show what a client makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from cloudq import emulation


@dataclass
class Fault(emulation.Fault):
    """Actions are "send", "complete", "abandon", "defer", "dead-letter", "attach", "put-token" and those of $management.

    `kind` says what happens: "error" refuses with `condition` and does nothing, "detach" closes the link with it, "drop" cuts
    the connection, "lost" does what is asked and cuts it, "silent" does it and never answers, "slow" answers `seconds` late.
    """

    _: KW_ONLY
    kind: Literal["error", "detach", "drop", "lost", "silent", "slow"] = "error"
    condition: str = "com.microsoft:server-busy"
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Under what it is counted."""
        return self.kind


@dataclass
class Requests:
    """What was asked, by action, and what lies between the first delivery and the last settlement of a backlog."""

    by_action: Counter[str] = field(default_factory=Counter[str])
    #: By the claim that is needed (Send, Listen, Manage) and the name of the queue.
    by_claim: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    connections: int = 0
    #: On the machine's monotonic clock.
    first_delivery: float | None = None
    last_complete: float | None = None

    def as_json(self) -> Mapping[str, object]:
        """Return the figures."""
        return {
            "connections": self.connections,
            "first_delivery": self.first_delivery,
            "last_complete": self.last_complete,
            "by_action": dict(self.by_action),
        }
