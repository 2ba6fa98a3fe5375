"""Envelope v1: how a task travels. JSON in the message body, so that any language can produce one (docs/envelope.md).

Decoding is total: whatever the bytes, the answer is a value and never an exception. What cannot be read is told apart from
what a newer cloudq wrote: the first is kept with its reason, the second is given back to a worker that can read it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

VERSION = 1

#: In the year 5138. A later time is not meant, and would be waited for.
_LATEST = 1e11
_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,127}", re.ASCII)
_ID = re.compile(r"[!-~]{1,100}")  # printable ASCII; 100 leaves room for ":<generation>" in the 128 of the tightest provider


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task on its way. Times are seconds since the epoch, UTC.

    `type` is the task's name and `data` its arguments by name, as JSON. `generation` counts the copies that were made of it
    (for a delay or a retry that the provider cannot hold), `attempts` how often it may have run before this copy, and
    `offers` how often a worker that does not know the task handed it back before.
    """

    cloudq: int
    id: str
    type: str
    time: float
    data: msgspec.Raw
    due: float | None = None
    expires: float | None = None
    priority: str = "normal"
    ordering_key: str | None = None
    tenant: str | None = None
    generation: int = 0
    attempts: int = 0
    offers: int = 0
    #: When the first copy was due: where a retry is a copy, `due` moves on, and the age of the task does not.
    since: float | None = None

    @property
    def born(self) -> float:
        """From when on the task could have been run: its age counts from here."""
        return self.since or self.due or self.time

    @property
    def group(self) -> str | None:
        """What a provider groups by: a queue is ordered or shared fairly, never both."""
        return self.ordering_key or self.tenant

    @property
    def message_id(self) -> str:
        """What a provider deduplicates by. It counts copies, never attempts: repeating a copy repeats its id."""
        return f"{self.id}:{self.generation}" if self.generation else self.id


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes that are no envelope, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Newer:
    """An envelope of a version that this cloudq cannot read."""

    version: int


class _TwiceError(ValueError):
    """A key that stands twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object that has a key twice: readers differ in which of the values they take."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _TwiceError(f"the key {key[:120]!r} stands twice in one object")
        seen.add(key)


class _Head(msgspec.Struct):
    cloudq: int


# `cloudq` is written even though it always has the same value, hence no default in the struct.
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)
_head = msgspec.json.Decoder(_Head)
# msgspec takes the last of two equal keys without a word. The second reading costs 2 µs for a message of 130 bytes, and 50 ms
# for the worst MiB, which is all empty objects. Numbers stay text: how long one may be is for the task's annotation to say.
_unambiguous = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str)


def encode(envelope: Envelope) -> bytes:
    """Return the body to send."""
    return _encoder.encode(envelope)


def valid_task_name(name: str) -> bool:
    """Tell whether a task may bear this name: an identifier with dots and dashes, at most 128 characters."""
    return _NAME.fullmatch(name) is not None


def valid_task_id(task_id: str) -> bool:
    """Tell whether a task may bear this id: 1 to 100 printable ASCII characters without spaces."""
    return _ID.fullmatch(task_id) is not None


def decode(body: bytes) -> Envelope | Unreadable | Newer:
    """Read a body. Never raises for what the body holds."""
    try:
        envelope = _decoder.decode(body)
        _unambiguous.decode(body.decode())
    except _TwiceError as error:
        return Unreadable(str(error))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # A newer version may have changed any field but this one, so its number is looked for before the verdict.
        return _newer(body) or Unreadable(f"not a cloudq message: {error}")
    if envelope.cloudq != VERSION:
        return Newer(envelope.cloudq) if envelope.cloudq > VERSION else Unreadable(f"envelope version {envelope.cloudq}")
    if not valid_task_id(envelope.id):
        return Unreadable(f"the id {envelope.id[:120]!r} is not 1 to 100 printable characters")
    if not valid_task_name(envelope.type):
        return Unreadable(f"the task name {envelope.type[:120]!r} is not a name")
    if any(not 0 <= at <= _LATEST for at in (envelope.time, envelope.due, envelope.expires) if at is not None):
        return Unreadable("time, due and expires are seconds since the epoch")
    if envelope.generation < 0 or envelope.attempts < 0 or envelope.offers < 0:
        return Unreadable("generation, attempts and offers cannot be negative")
    return envelope


def _newer(body: bytes) -> Newer | None:
    try:
        version = _head.decode(body).cloudq
        _unambiguous.decode(body.decode())
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Newer(version) if version > VERSION else None


def copy(
    body: bytes,
    *,
    generation: int,
    attempts: int,
    due: float | None,
    since: float | None = None,
    offers: int | None = None,
) -> bytes:
    """Return the body of a copy. What is None stays as it was written, as does every field that this version does not know."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    changes: dict[str, object] = {
        "generation": generation,
        "attempts": attempts,
        "due": due,
        "since": since,
        "offers": offers,
    }
    return _encoder.encode({**fields, **{key: value for key, value in changes.items() if value is not None}})


def anew(body: bytes, *, generation: int, now: float) -> bytes:
    """Return the body of a task that begins again: no attempts, born now, due at once, and without the expiry it had."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    kept = {name: value for name, value in fields.items() if name not in ("attempts", "offers", "due", "expires")}
    return _encoder.encode({**kept, "generation": generation, "since": now})
