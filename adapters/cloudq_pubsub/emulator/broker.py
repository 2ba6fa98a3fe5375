"""The topics and subscriptions of the emulator: what Pub/Sub does with messages, on one clock, without a wire.

"API" sources are messages and methods of google.pubsub.v1 as documented in google-cloud-pubsub 2.44; "docs" is
docs.cloud.google.com/pubsub. Where neither says what happens, the comment says that this was chosen.
"""

from __future__ import annotations

import heapq
import itertools
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cloudq_pubsub.emulator import filters

#: API Subscription.ack_deadline_seconds: 10 when unset, 10 to 600. API DeadLetterPolicy.max_delivery_attempts: 5 when unset.
DEADLINE, DEADLINES, ATTEMPTS = 10, (10, 600), 5
#: API Subscription.message_retention_duration: 7 days when unset, 10 minutes to 31 days.
RETENTION, RETENTIONS = 604_800.0, (600.0, 31 * 86_400.0)
#: API RetryPolicy: 10 s and 600 s when unset.
BACKOFF = 10.0, 600.0


@dataclass(slots=True, eq=False)
class Held:
    """The copy of a message that one subscription keeps. Times are in seconds since the epoch."""

    #: A google.pubsub.v1.PubsubMessage.
    message: Any
    published: float
    #: Its place among all that the subscription ever took.
    number: int
    attempt: int = 0
    ack_id: str = ""
    #: When its deadline, or the wait after it, ends.
    due: float = 0.0
    waiting: bool = False
    acked: bool = False
    gone: bool = False
    #: Raised by whatever changes `due`, so that an older entry of the heap is known to be stale.
    version: int = 0


@dataclass(slots=True)
class Key:
    """What waits under one ordering key, and what was given out and is not settled, both in order."""

    messages: deque[Held] = field(default_factory=deque[Held])
    #: Those that are acknowledged before their predecessors stay here: if one of these comes back, so do they.
    given: list[Held] = field(default_factory=list[Held])


@dataclass(slots=True)
class Snapshot:
    """What was not acknowledged at one time."""

    name: str
    topic: str
    unacked: frozenset[int]
    at: float

    def includes(self, held: Held) -> bool:
        """Say whether it was unacknowledged then. What was published later is."""
        return held.number in self.unacked or held.published > self.at


class Subscription:
    """One subscription: pulled, streamed or pushed."""

    def __init__(self, settings: Any, now: float) -> None:
        """`settings` is a google.pubsub.v1.Subscription, already checked. ValueError: its filter cannot be read."""
        self.settings = settings
        self.created: float = now
        #: Messages that go to the dead-letter topic: the service publishes them.
        self.forwarded: list[Held] = []
        self._test = filters.parse(settings.filter) if settings.filter else None
        #: In the order of publication, the acknowledged ones too as long as they can be sought.
        self._all: OrderedDict[int, Held] = OrderedDict()
        self._ready: deque[Held] = deque()
        self._keys: OrderedDict[str, Key] = OrderedDict()
        self._outstanding: dict[str, Held] = {}
        self._hidden: list[tuple[float, int, Held, int]] = []
        self._numbers = itertools.count(1)
        self._ties = itertools.count()

    # Settings ---------------------------------------------------------------------------------------------------------

    @property
    def dead_letter_topic(self) -> str:
        """Empty where there is none."""
        return str(self.settings.dead_letter_policy.dead_letter_topic)

    @property
    def retention(self) -> float:
        """Seconds."""
        told = self.settings.message_retention_duration
        return float(told.seconds + told.nanos / 1e9) or RETENTION

    # Publishing -------------------------------------------------------------------------------------------------------

    def put(self, message: Any, now: float) -> bool:
        """Take a copy, if the filter lets it pass: the others count as acknowledged (docs, filters)."""
        if self._test is not None and not self._test(message.attributes):
            return False
        held = Held(message, now, next(self._numbers))
        self._all[held.number] = held
        self._offer(held)
        return True

    def _offer(self, held: Held) -> None:
        key = self._key_of(held)
        if key:
            # Put where it belongs: a redelivery stands before what was published after it.
            waiting = self._keys.setdefault(key, Key()).messages
            later = [other for other in waiting if other.number > held.number]
            for _ in later:
                waiting.pop()
            waiting.extend([held, *later])
        else:
            self._ready.append(held)

    def _key_of(self, held: Held) -> str:
        return str(held.message.ordering_key) if self.settings.enable_message_ordering else ""

    # Time -------------------------------------------------------------------------------------------------------------

    def pass_time(self, now: float) -> bool:
        """Let what is due by now become available. Says whether anything did."""
        woke = False
        while self._hidden and self._hidden[0][0] <= now:
            _, _, held, version = heapq.heappop(self._hidden)
            if held.gone or held.acked or held.version != version:
                continue
            woke = True
            if held.ack_id:
                self._back(held, now)
                continue
            held.waiting = False
            if not self._key_of(held):  # under a key it stands at the head already
                self._offer(held)
        return woke

    def next_due(self) -> float | None:
        """When something becomes available by itself."""
        hidden = self._hidden
        while hidden and (hidden[0][2].gone or hidden[0][2].acked or hidden[0][2].version != hidden[0][3]):
            heapq.heappop(hidden)
        return hidden[0][0] if hidden else None

    def expire(self, now: float) -> None:
        """Forget what is older than the retention, acknowledged or not (API Subscription.message_retention_duration)."""
        oldest = now - self.retention
        while self._all:
            held = next(iter(self._all.values()))
            if held.published > oldest:
                return
            self._forget(held)

    def _hide(self, held: Held, until: float) -> None:
        held.version += 1
        held.due = until
        heapq.heappush(self._hidden, (until, next(self._ties), held, held.version))

    # Delivering -------------------------------------------------------------------------------------------------------

    def take(self, most: int, deadline: float, now: float) -> list[Held]:
        """Give out up to `most`, each with a new ack id that is good until its deadline."""
        taken: list[Held] = []
        candidates = self._candidates()
        while len(taken) < most and (held := next(candidates, None)) is not None:
            held.attempt += 1
            held.ack_id = uuid.uuid4().hex
            self._outstanding[held.ack_id] = held
            self._hide(held, now + deadline)
            taken.append(held)
            key = self._key_of(held)
            if key:
                self._keys[key].given.append(held)
        return taken

    def _candidates(self) -> Iterator[Held]:
        # Keys and the rest in turn was chosen; within a key the order is that of publication, and nothing of it is given
        # out while something of it is outstanding: docs, ordering, promise the order, not how far ahead it is delivered.
        for name in list(self._keys):
            key = self._keys[name]
            if key.given:
                continue
            while key.messages and not key.messages[0].waiting:
                held = key.messages.popleft()
                if not (held.gone or held.acked):
                    yield held
            if key.given:
                self._keys.move_to_end(name)
        while self._ready:
            held = self._ready.popleft()
            if not (held.gone or held.acked):
                yield held

    def _back(self, held: Held, now: float) -> None:
        """A nack or the end of a deadline."""
        self._end_lease(held)
        key = self._key_of(held)
        if key:
            self._call_back_followers(key, held)
        policy = self.settings.dead_letter_policy
        if policy.dead_letter_topic and held.attempt >= (policy.max_delivery_attempts or ATTEMPTS):
            self.forwarded.append(held)
            self._drop(held)
            return
        wait = self._backoff(held.attempt)
        held.waiting = wait > 0
        if wait <= 0 or key:
            self._offer(held)  # under a key at its head, where the rest waits for it
        if wait > 0:
            self._hide(held, now + wait)

    def _call_back_followers(self, name: str, head: Held) -> None:
        """Docs, ordering: the redelivery of a message brings back all that follow it under its key, acknowledged or not."""
        key = self._keys[name]
        place = key.given.index(head)
        followers = key.given[place + 1 :]
        del key.given[place:]
        self._settle_key(name)
        for held in followers:
            self._end_lease(held)
            held.acked = False
            self._offer(held)

    def _settle_key(self, name: str) -> None:
        key = self._keys[name]
        if not all(held.acked for held in key.given):
            return
        for held in key.given:
            self._settled(held)
        key.given.clear()
        if not key.messages:
            del self._keys[name]

    def _end_lease(self, held: Held) -> None:
        self._outstanding.pop(held.ack_id, None)
        held.ack_id = ""
        held.version += 1

    def _backoff(self, attempt: int) -> float:
        # API RetryPolicy: exponential between the two, as a best effort. The doubling was chosen.
        if not self.settings.HasField("retry_policy"):
            return 0.0
        policy = self.settings.retry_policy
        shortest, longest = (
            (told.seconds + told.nanos / 1e9) if policy.HasField(name) else unset
            for name, told, unset in (
                ("minimum_backoff", policy.minimum_backoff, BACKOFF[0]),
                ("maximum_backoff", policy.maximum_backoff, BACKOFF[1]),
            )
        )
        return float(min(longest, shortest * 2 ** min(attempt - 1, 30)))

    # Settling ---------------------------------------------------------------------------------------------------------

    def ack(self, ack_ids: Iterable[str]) -> list[str]:
        """Acknowledge; returns the ids that are not valid any more. They change nothing."""
        invalid: list[str] = []
        for ack_id in ack_ids:
            held = self._outstanding.pop(ack_id, None)
            if held is None:
                invalid.append(ack_id)
                continue
            self._end_lease(held)
            held.acked = True
            key = self._key_of(held)
            if key:
                self._settle_key(key)
            else:
                self._settled(held)
        return invalid

    def modify(self, ack_ids: Iterable[str], seconds: float, now: float) -> list[str]:
        """Let deadlines end `seconds` from now; 0 is a nack. Returns the ids that are not valid any more."""
        invalid: list[str] = []
        for ack_id in ack_ids:
            held = self._outstanding.get(ack_id)
            if held is None:
                invalid.append(ack_id)
            elif seconds <= 0:
                self._back(held, now)
            else:
                self._hide(held, now + seconds)
        return invalid

    def outstanding(self, ack_ids: Iterable[str]) -> set[str]:
        """Those of the ids that are still good."""
        return {ack_id for ack_id in ack_ids if ack_id in self._outstanding}

    def _settled(self, held: Held) -> None:
        # API Subscription.retain_acked_messages: only then can they be sought.
        if not self.settings.retain_acked_messages:
            self._drop(held)

    def _drop(self, held: Held) -> None:
        held.gone = True
        self._all.pop(held.number, None)

    def _forget(self, held: Held) -> None:
        self._end_lease(held)
        key = self._keys.get(self._key_of(held))
        if key is not None and held in key.given:
            key.given.remove(held)
        self._drop(held)

    # Seeking ----------------------------------------------------------------------------------------------------------

    def snapshot(self, name: str, now: float) -> Snapshot:
        """Return what is not acknowledged now (API CreateSnapshot)."""
        unacked = frozenset(held.number for held in self._all.values() if not held.acked)
        return Snapshot(name, str(self.settings.topic), unacked, now)

    def seek(self, to: float | Snapshot) -> None:
        """API Seek: what was published before the time counts as acknowledged, what came later does not; or as a snapshot says.

        What was published after a snapshot was made is unacknowledged.
        """
        for held in list(self._all.values()):
            wanted = held.published >= to if isinstance(to, (int, float)) else to.includes(held)
            if wanted and held.acked:
                held.acked = False
                self._offer(held)
            elif not wanted and not held.acked:
                self._end_lease(held)
                held.acked = True
                key = self._key_of(held)
                if key and held in self._keys[key].given:
                    self._settle_key(key)
                else:
                    self._settled(held)

    def counts(self) -> dict[str, int]:
        """How many are unacknowledged, and how many of those outstanding."""
        keeps = self.settings.retain_acked_messages or self.settings.enable_message_ordering
        unacked = sum(not held.acked for held in self._all.values()) if keeps else len(self._all)
        return {"unacked": unacked, "outstanding": len(self._outstanding)}
