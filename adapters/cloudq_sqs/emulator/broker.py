"""The queues of the emulator: what Amazon SQS does with messages, on one clock, without a wire.

"API" sources are operations of the service model 2012-11-05 that ships with botocore 1.44; "guide" is the Amazon SQS Developer
Guide. Where neither says what happens, the comment says that this was chosen.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import md5, sha256
from typing import Any

#: API SendMessage: at most 900 s. API ReceiveMessage: at most 20 s. API ChangeMessageVisibility: 12 hours in all.
MOST_DELAY, MOST_WAIT, MOST_HIDDEN = 900, 20, 43_200
#: API SendMessageBatch and the others: 10 entries, 1 MiB in total. A message is as large at the most.
BATCH, BATCH_BYTES = 10, 1_048_576
#: guide, quotas-messages: 10 attributes; in flight about 120,000.
ATTRIBUTES, IN_FLIGHT = 10, 120_000
#: API SendMessage, MessageDeduplicationId: 5 minutes.
DEDUP = 300.0
#: API StartMessageMoveTask: at most 500 messages a second.
MOVE_RATE = 500

#: API CreateQueue: the attributes that may be set, their defaults where they have one, and the ranges of the numbers.
DEFAULTS = {
    "DelaySeconds": "0",
    "MaximumMessageSize": str(BATCH_BYTES),
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "VisibilityTimeout": "30",
    "SqsManagedSseEnabled": "true",
}
RANGES = {
    "DelaySeconds": (0, MOST_DELAY),
    "MaximumMessageSize": (1024, BATCH_BYTES),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, MOST_WAIT),
    "VisibilityTimeout": (0, MOST_HIDDEN),
    "KmsDataKeyReusePeriodSeconds": (60, 86_400),
}
FIFO_ONLY = {"FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"}
SETTABLE = {*DEFAULTS, *RANGES, *FIFO_ONLY, "Policy", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId"}


class Refusal(Exception):
    """A request, or an entry of a batch, that is answered with an error. `code` is the name in the service model."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        """`status` is that of the HTTP answer."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(slots=True, eq=False)
class Message:
    """One message. Times are in seconds since the epoch."""

    id: str
    body: str
    attributes: dict[str, dict[str, Any]]
    size: int
    sent_at: float
    visible_at: float
    sender: str = ""
    trace: str | None = None
    group: str | None = None
    dedup_id: str | None = None
    sequence: int = 0
    body_md5: str = ""
    count: int = 0
    first_received: float | None = None
    #: When it was received last. From then, 12 hours.
    received_at: float | None = None
    #: Hidden by a receive, not by a delay.
    in_flight: bool = False
    #: Raised by whatever changes `visible_at`, so that an older entry of the heap is known to be stale.
    version: int = 0
    #: The dead-letter queue's: where it came from.
    source: str | None = None
    gone: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """A message group of a FIFO queue. Nothing of it is given out while something of it is in flight (guide, FIFO delivery)."""

    messages: deque[Message] = field(default_factory=deque[Message])
    in_flight: int = 0


@dataclass(slots=True)
class Move:
    """A message move task."""

    handle: str
    source: Queue
    destination: Queue | None
    rate: int
    started: float
    to_move: int
    moved: int = 0
    status: str = "RUNNING"


class Queue:
    """A queue, standard or FIFO."""

    def __init__(self, name: str, arn: str, attributes: dict[str, str], now: float) -> None:
        """Attributes are as CreateQueue has them, already checked."""
        self.name = name
        self.arn = arn
        self.fifo: bool = name.endswith(".fifo")
        self.created: float = now
        self.modified: float = now
        self.attributes: dict[str, str] = {**DEFAULTS, **attributes}
        self.tags: dict[str, str] = {}
        self.messages: dict[str, Message] = {}
        self.in_flight: int = 0
        self.move: Move | None = None
        #: Standard: may be received now. Entries that are gone or hidden by now are skipped.
        self._ready: deque[Message] = deque()
        #: Becomes visible at (time, tie-breaker, message, version).
        self._hidden: list[tuple[float, int, Message, int]] = []
        #: FIFO: in the order in which they take their turn.
        self._groups: OrderedDict[str, Group] = OrderedDict()
        self._dedup: OrderedDict[str, tuple[float, str, int]] = OrderedDict()
        self._ties = itertools.count()

    def number(self, attribute: str) -> int:
        """A numeric attribute."""
        return int(self.attributes[attribute])

    # Time -------------------------------------------------------------------------------------------------------------

    def pass_time(self, now: float) -> bool:
        """Let what is due by now become visible. Says whether anything did."""
        hidden, woke = self._hidden, False
        while hidden and hidden[0][0] <= now:
            _, _, message, version = heapq.heappop(hidden)
            if message.gone or message.version != version:
                continue
            self._show(message)
            woke = True
        return woke

    def next_due(self) -> float | None:
        """When the next hidden message becomes visible."""
        hidden = self._hidden
        while hidden and (hidden[0][2].gone or hidden[0][2].version != hidden[0][3]):
            heapq.heappop(hidden)
        return hidden[0][0] if hidden else None

    def expire(self, now: float) -> None:
        """Drop what is older than the retention period (API SetQueueAttributes, MessageRetentionPeriod)."""
        oldest = now - self.number("MessageRetentionPeriod")
        for message in [message for message in self.messages.values() if message.sent_at <= oldest]:
            self.remove(message)

    def _show(self, message: Message) -> None:
        if message.in_flight:
            message.in_flight = False
            self.in_flight -= 1
            if self.fifo:
                self._groups[message.group or ""].in_flight -= 1
        if not self.fifo:
            self._ready.append(message)

    def _hide(self, message: Message, until: float) -> None:
        message.version += 1
        message.visible_at = until
        heapq.heappush(self._hidden, (until, next(self._ties), message, message.version))

    # Sending ----------------------------------------------------------------------------------------------------------

    def duplicate_of(self, dedup_id: str, group: str, now: float) -> tuple[str, int] | None:
        """The id and sequence number under which this was sent before, within five minutes."""
        while self._dedup and next(iter(self._dedup.values()))[0] <= now:
            self._dedup.popitem(last=False)
        known = self._dedup.get(self._dedup_key(dedup_id, group))
        return known[1:] if known else None

    def put(self, message: Message, now: float) -> None:
        """Take a message in."""
        self.messages[message.id] = message
        if self.fifo:
            group = self._groups.setdefault(message.group or "", Group())
            group.messages.append(message)
            if message.dedup_id is not None:
                key = self._dedup_key(message.dedup_id, message.group or "")
                self._dedup[key] = (now + DEDUP, message.id, message.sequence)
        if message.visible_at > now:
            self._hide(message, message.visible_at)
        else:
            self._show(message)

    def _dedup_key(self, dedup_id: str, group: str) -> str:
        # API SetQueueAttributes, DeduplicationScope.
        return f"{group}\n{dedup_id}" if self.attributes.get("DeduplicationScope") == "messageGroup" else dedup_id

    # Receiving --------------------------------------------------------------------------------------------------------

    def candidates(self, now: float) -> Iterator[Message]:
        """What may be received now, one after the other. The caller hides or removes each before it asks for the next."""
        if self.fifo:
            yield from self._in_order(now)
            return
        while self._ready:
            message = self._ready.popleft()
            # One that was shown twice (released, and its old lease came due) is hidden by now.
            if not message.gone and not message.in_flight and message.id in self.messages:
                yield message

    def _in_order(self, now: float) -> Iterator[Message]:
        # As many as possible of one group, then of the next (guide, FIFO delivery logic). Which group first was chosen: the
        # one that has waited longest for its turn.
        for name in list(self._groups):
            group = self._groups.get(name)
            if group is None or group.in_flight:
                continue
            for message in list(itertools.islice(group.messages, BATCH)):
                if message.visible_at > now:
                    break
                yield message
            if group.in_flight:
                self._groups.move_to_end(name)

    def take(self, message: Message, now: float, visibility: float) -> None:
        """Give a message out: counted, and hidden for `visibility` seconds."""
        message.count += 1
        message.received_at = now
        if message.first_received is None:
            message.first_received = now
        message.in_flight = True
        self.in_flight += 1
        if self.fifo:
            self._groups[message.group or ""].in_flight += 1
        self._hide(message, now + visibility)

    def change(self, message: Message, now: float, visibility: float) -> None:
        """Let a message in flight become visible in `visibility` seconds from now."""
        self._hide(message, now + visibility)
        if visibility <= 0:
            self.pass_time(now)

    def remove(self, message: Message) -> None:
        """Forget a message."""
        message.gone = True
        del self.messages[message.id]
        if message.in_flight:
            self.in_flight -= 1
        if self.fifo:
            name = message.group or ""
            group = self._groups[name]
            group.messages.remove(message)
            group.in_flight -= message.in_flight
            if not group.messages:
                del self._groups[name]

    def count(self, now: float) -> tuple[int, int, int]:
        """How many are visible, in flight, delayed. The service calls these approximate; here they are exact."""
        self.pass_time(now)
        self.expire(now)
        delayed = sum(not message.in_flight and message.visible_at > now for message in self.messages.values())
        return len(self.messages) - self.in_flight - delayed, self.in_flight, delayed


def body_digest(body: str) -> str:
    """MD5, as the answers of SendMessage and ReceiveMessage carry it."""
    return md5(body.encode(), usedforsecurity=False).hexdigest()


def content_digest(body: str) -> str:
    """The deduplication id of a queue with ContentBasedDeduplication (API SendMessage)."""
    return sha256(body.encode()).hexdigest()
