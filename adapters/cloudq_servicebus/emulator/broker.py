"""The queues of the emulator: what Azure Service Bus does with messages, on one clock, without a wire.

"docs" is learn.microsoft.com/azure/service-bus-messaging, "SDK" azure-servicebus 7.15. Where neither says what happens, the
comment says that this was chosen.
"""

from __future__ import annotations

import heapq
import itertools
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

#: docs, quotas: a message of the Standard tier; MessageId and SessionId.
MESSAGE_BYTES, ID_LENGTH = 262_144, 128
#: docs, message transfers: a lock lasts a minute unless set, five at the most.
LOCK, LONGEST_LOCK = 60.0, 300.0
#: docs, dead-letter queues: MaxDeliveryCount unless set. docs, duplicate detection: the window unless set, and its range.
MOST_DELIVERIES, WINDOW, WINDOWS = 10, 600.0, (20.0, 604_800.0)
#: docs, dead-letter queues: the reasons of the service's own.
TOO_OFTEN, EXPIRED = "MaxDeliveryCountExceeded", "TTLExpiredException"
#: Added to the name of a queue, its dead-letter queue (docs, dead-letter queues). Names do not depend on case.
DEAD = "/$deadletterqueue"


class State(IntEnum):
    """As `x-opt-message-state` has it (SDK ServiceBusMessageState)."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


@dataclass(slots=True)
class Settings:
    """Of one queue. Times in seconds."""

    name: str
    lock: float = LOCK
    most_deliveries: int = MOST_DELIVERIES
    sessions: bool = False
    dedup: bool = False
    window: float = WINDOW
    ttl: float = float("inf")
    dead_letter_expired: bool = False
    #: What is given back as it was set, and has no effect: by the names of a QueueDescription.
    kept: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, eq=False)
class Stored:
    """One message. Times are in seconds since the epoch."""

    #: A proton.Message.
    message: Any
    size: int
    sequence: int = 0
    enqueued: float = 0.0
    state: State = State.ACTIVE
    #: Deliveries that ended without a settlement for good.
    count: int = 0
    token: uuid.UUID | None = None
    locked_until: float = 0.0
    #: Who has it: for a session, the receiver; else only for statistics.
    owner: object = None
    gone: bool = False

    @property
    def session(self) -> str | None:
        """The session id."""
        return self.message.group_id or None


@dataclass(slots=True)
class Session:
    """A session that a receiver holds, or that has a state."""

    owner: object = None
    locked_until: float = 0.0
    state: bytes | None = None
    locked: set[Stored] = field(default_factory=set[Stored])


class SessionTaken(Exception):
    """Another receiver holds it."""


class Queue:
    """A queue, or the dead-letter queue of one."""

    def __init__(self, settings: Settings, *, dead: bool = False) -> None:
        """A dead-letter queue has no sessions, no expiry, and none behind it (docs, dead-letter queues)."""
        self.settings: Settings = settings
        self.name: str = settings.name + (DEAD if dead else "")
        self.dead: Queue | None = None if dead else Queue(settings, dead=True)
        self.sessions_only: bool = settings.sessions and not dead
        self.messages: dict[int, Stored] = {}
        self.sessions: dict[str, Session] = {}
        self.locked: dict[uuid.UUID, Stored] = {}
        self._ready: dict[str | None, list[tuple[int, Stored]]] = {}
        self._times: list[tuple[float, int, Stored | Session, object]] = []
        self._ids: OrderedDict[str, float] = OrderedDict()
        self._sequences = itertools.count(1)
        self._ties = itertools.count()

    def change(self, settings: Settings) -> None:
        """Take other settings, for what is sent and received from now on. ValueError: one of those is fixed."""
        for name in ("sessions", "dedup"):
            if getattr(settings, name) != getattr(self.settings, name):
                raise ValueError(f"SubCode=40000. {name} of {self.name} cannot be changed.")
        self.settings = settings
        if self.dead is not None:
            self.dead.settings = settings

    # Sending ----------------------------------------------------------------------------------------------------------

    def put(self, stored: Stored, now: float, at: float | None = None) -> int:
        """Take a message in, due at once or at a time, and return its sequence number; 0 when it was a duplicate."""
        # Without an id nothing is a duplicate: chosen, no source says it.
        known = stored.message.id is not None and self.settings.dedup and self.dead is not None
        if known and self._seen(str(stored.message.id), now):
            return 0  # docs, duplicate detection: accepted, and dropped
        stored.sequence = next(self._sequences)
        stored.enqueued = now
        self.messages[stored.sequence] = stored
        if at is not None and at > now:
            stored.state = State.SCHEDULED
            self._at(at, stored, stored.sequence)
        else:
            self._show(stored)
        return stored.sequence

    def _seen(self, message_id: str, now: float) -> bool:
        while self._ids and next(iter(self._ids.values())) <= now:
            self._ids.popitem(last=False)
        if message_id in self._ids:
            return True
        self._ids[message_id] = now + self.settings.window
        return False

    def cancel(self, sequences: Iterable[int]) -> bool:
        """Cancel scheduled messages; False, and nothing is cancelled, when one is not scheduled (any more)."""
        found = [self.messages.get(sequence) for sequence in sequences]
        if any(stored is None or stored.state is not State.SCHEDULED for stored in found):
            return False
        for stored in found:
            assert stored is not None
            self._remove(stored)
        return True

    def _show(self, stored: Stored) -> None:
        stored.state = State.ACTIVE
        session = stored.session if self.sessions_only else None
        heapq.heappush(self._ready.setdefault(session, []), (stored.sequence, stored))

    def _at(self, time: float, what: Stored | Session, mark: object) -> None:
        heapq.heappush(self._times, (time, next(self._ties), what, mark))

    # Receiving --------------------------------------------------------------------------------------------------------

    def take(self, now: float, owner: object, session: str | None = None, *, lock: bool = True) -> Stored | None:
        """Give out the oldest, under a lock of its own or of its session; without a lock it is gone."""
        waiting = self._ready.get(session, [])
        while waiting:
            _, stored = heapq.heappop(waiting)
            if stored.gone or stored.token is not None or stored.state is not State.ACTIVE:
                continue
            if self._expired(stored, now):
                continue
            if not lock:
                self._remove(stored)
                return stored
            self._lock(stored, now, owner)
            return stored
        return None

    def _lock(self, stored: Stored, now: float, owner: object) -> None:
        stored.token, stored.owner = uuid.uuid4(), owner
        self.locked[stored.token] = stored
        if self.sessions_only:
            held = self.sessions[stored.session or ""]
            stored.locked_until = held.locked_until
            held.locked.add(stored)
        else:
            stored.locked_until = now + self.settings.lock
            self._at(stored.locked_until, stored, stored.token)

    def _expired(self, stored: Stored, now: float) -> bool:
        # docs, message expiration: the message's own, capped by the queue's; looked at when it is about to be delivered.
        ttl = min(stored.message.ttl or float("inf"), self.settings.ttl) if self.dead is not None else float("inf")
        if stored.enqueued + ttl > now:
            return False
        if self.settings.dead_letter_expired:
            self._bury(stored, EXPIRED, "The message expired and was dead lettered.", now)
        else:
            self._remove(stored)
        return True

    def deferred(self, sequences: Iterable[int], now: float, owner: object, *, lock: bool) -> list[Stored] | None:
        """Give out deferred messages by their numbers; None when one is not there."""
        found = [self.messages.get(sequence) for sequence in sequences]
        if any(each is None or each.state is not State.DEFERRED or each.token is not None for each in found):
            return None
        taken = [stored for stored in found if stored is not None]
        for stored in taken:
            if lock:
                self._lock(stored, now, owner)
            else:
                self._remove(stored)
        return taken

    def peek(self, start: int, most: int, session: str | None) -> list[Stored]:
        """Look at what is there in the order of its numbers, locked, deferred and scheduled too."""
        found = [
            stored
            for sequence, stored in sorted(self.messages.items())
            if sequence >= start and (session is None or stored.session == session)
        ]
        return found[:most]

    # Settling ---------------------------------------------------------------------------------------------------------

    def held(self, token: uuid.UUID, now: float) -> Stored | None:
        """The message under this lock, if the lock is good."""
        self.pass_time(now)
        return self.locked.get(token)

    def complete(self, stored: Stored) -> None:
        """Remove it for good."""
        self._remove(stored)

    def abandon(self, stored: Stored, now: float) -> None:
        """Give it back, counted; the last time, to the dead-letter queue."""
        self._unlock(stored)
        stored.count += 1
        if self.dead is not None and stored.count >= self.settings.most_deliveries:
            self._bury(stored, TOO_OFTEN, f"Message could not be consumed after {stored.count} delivery attempts.", now)
        elif stored.state is not State.DEFERRED:  # docs, message deferral: it stays deferred
            self._show(stored)

    def release(self, stored: Stored) -> None:
        """Give it back, not counted (AMQP released)."""
        self._unlock(stored)
        if stored.state is not State.DEFERRED:
            self._show(stored)

    def defer(self, stored: Stored) -> None:
        """Put it aside, to be asked for by its number. Counted: the SDK says delivery-failed with it."""
        self._unlock(stored)
        stored.count += 1
        stored.state = State.DEFERRED

    def bury(self, stored: Stored, reason: str, description: str, now: float) -> None:
        """Move it to the dead-letter queue."""
        self._unlock(stored)
        self._bury(stored, reason, description, now)

    def _bury(self, stored: Stored, reason: str, description: str, now: float) -> None:
        assert self.dead is not None, "nothing is behind a dead-letter queue"
        self._remove(stored)
        told = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        stored.message.properties = {
            **(stored.message.properties or {}), **{name: text for name, text in told.items() if text}
        }  # fmt: skip
        moved = Stored(stored.message, stored.size, count=stored.count)
        self.dead.put(moved, now)

    def renew(self, stored: Stored, now: float) -> float:
        """Let the lock last as long as at its begin, from now. The length cannot be chosen (docs, AMQP request/response)."""
        assert stored.token is not None
        stored.locked_until = now + self.settings.lock
        self._at(stored.locked_until, stored, stored.token)
        return stored.locked_until

    def _unlock(self, stored: Stored) -> None:
        if stored.token is not None:
            self.locked.pop(stored.token, None)
            stored.token = stored.owner = None
            if self.sessions_only:
                self.sessions[stored.session or ""].locked.discard(stored)

    def _remove(self, stored: Stored) -> None:
        self._unlock(stored)
        stored.gone = True
        self.messages.pop(stored.sequence, None)

    # Sessions ---------------------------------------------------------------------------------------------------------

    def accept(self, session: str | None, owner: object, now: float) -> str | None:
        """Let a receiver have a session, or any that has messages; None when there is none. SessionTaken: it is not free."""
        self.pass_time(now)
        if session is None:
            free = [
                (waiting[0][0], name)
                for name, waiting in self._ready.items()
                if name is not None and self._some(waiting) and not self._taken(name)
            ]
            if not free:
                return None
            session = min(free)[1]
        elif self._taken(session):
            raise SessionTaken
        held = self.sessions.setdefault(session, Session())
        held.owner = owner
        self.renew_session(session, now)
        return session

    def _taken(self, name: str) -> bool:
        held = self.sessions.get(name)
        return held is not None and held.owner is not None

    @staticmethod
    def _some(waiting: list[tuple[int, Stored]]) -> bool:
        while waiting and (waiting[0][1].gone or waiting[0][1].token is not None):
            heapq.heappop(waiting)
        return bool(waiting)

    def renew_session(self, session: str, now: float) -> float:
        """Let the session's lock, and with it that of its messages, last from now."""
        held = self.sessions[session]
        held.locked_until = now + self.settings.lock
        for stored in held.locked:
            stored.locked_until = held.locked_until
        self._at(held.locked_until, held, held.owner)
        return held.locked_until

    def leave(self, session: str, owner: object) -> None:
        """The receiver is gone: its messages come back, not counted (docs, message sessions)."""
        held = self.sessions.get(session)
        if held is None or held.owner is not owner:
            return
        for stored in sorted(held.locked, key=lambda each: each.sequence):
            self.release(stored)
        held.owner = None

    def session_ids(self) -> list[str]:
        """Sessions that have messages."""
        return sorted({stored.session for stored in self.messages.values() if stored.session is not None})

    # Time -------------------------------------------------------------------------------------------------------------

    def pass_time(self, now: float) -> None:
        """Let what is due by now happen: scheduled messages come, locks end."""
        while self._times and self._times[0][0] <= now:
            _, _, what, mark = heapq.heappop(self._times)
            if isinstance(what, Session):
                self._session_ends(what, mark, now)
            elif what.gone:
                continue
            elif what.state is State.SCHEDULED and mark == what.sequence:
                self._activate(what, now)
            elif what.token is not None and mark == what.token and what.locked_until <= now:
                self.abandon(what, now)

    def _activate(self, stored: Stored, now: float) -> None:
        # docs, message sequencing: it gets a new number then, and its place behind what is there.
        del self.messages[stored.sequence]
        stored.sequence, stored.enqueued = next(self._sequences), now
        self.messages[stored.sequence] = stored
        self._show(stored)

    def _session_ends(self, held: Session, owner: object, now: float) -> None:
        if held.owner is not owner or held.owner is None or held.locked_until > now:
            return
        for stored in sorted(held.locked, key=lambda each: each.sequence):
            self.abandon(stored, now)  # docs, message sessions: a lock that ran out counts
        held.owner = None

    def next_due(self) -> float | None:
        """When something happens by itself, at the latest."""
        return self._times[0][0] if self._times else None

    def counts(self) -> dict[str, int]:
        """As the runtime properties have them (SDK QueueRuntimeProperties): active includes what is locked."""
        states = [stored.state for stored in self.messages.values()]
        return {
            "active": states.count(State.ACTIVE),
            "scheduled": states.count(State.SCHEDULED),
            "deferred": states.count(State.DEFERRED),
            "dead": len(self.dead.messages) if self.dead is not None else 0,
        }
