"""What the emulator gets wrong on purpose, and what it counts: for tests that show what a client makes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from cloudq import emulation

#: AWS price list: every 64 KB of payload is a request.
CHUNK = 65_536


@dataclass
class Fault(emulation.Fault):
    """`entries`, of a batch: those positions fail with the code, the others are done.

    Without them, `kind` says what happens: "error" answers with the code and does nothing, "lost" does the work and closes the
    connection instead of answering, "reset" closes it and does nothing, "slow" answers `seconds` late.
    """

    _: KW_ONLY
    kind: Literal["error", "lost", "reset", "slow"] = "error"
    code: str = "RequestThrottled"
    status: int = 400
    entries: Sequence[int] = ()
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Under what it is counted."""
        return "entries" if self.entries else self.kind


@dataclass
class Requests:
    """What arrived, by action and by whose access key signed it."""

    by_action: Counter[str] = field(default_factory=Counter[str])
    billed: int = 0
    by_caller: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter[str]))
    #: By action and the name of the queue that it is about: what a policy must allow.
    by_queue: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    #: Receives that brought nothing.
    empty: int = 0
    #: When the first message was received and the last one deleted, on the machine's monotonic clock: between them lies the
    #: time that a backlog took, whoever the client is.
    first_receive: float | None = None
    last_delete: float | None = None

    def delivered(self, action: str, now: float) -> None:
        """Note the time of a receive that brought something, or of a delete."""
        if action == "ReceiveMessage" and self.first_receive is None:
            self.first_receive = now
        elif action.startswith("DeleteMessage"):
            self.last_delete = now

    def count(self, action: str, caller: str, length: int, queues: Iterable[str] = ()) -> None:
        """Count one request with a body of `length` bytes, about these queues."""
        self.by_queue.update((action, queue) for queue in queues)
        self.by_action[action] += 1
        self.by_caller[caller][action] += 1
        self.billed += max(1, -(-length // CHUNK))

    def as_json(self) -> Mapping[str, object]:
        """Return the figures."""
        return {
            "total": sum(self.by_action.values()),
            "billed": self.billed,
            "empty": self.empty,
            "first_receive": self.first_receive,
            "last_delete": self.last_delete,
            "by_action": dict(self.by_action),
            "by_caller": {caller: dict(actions) for caller, actions in self.by_caller.items()},
        }
