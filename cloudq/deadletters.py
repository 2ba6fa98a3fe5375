"""The record that a message carries in the dead part: why it is there, in one attribute beside its untouched body.

The body stays as it came, byte for byte, because what could not be read must be kept, and what could be read must be
redrivable. The record is cut to what the provider takes for an attribute: the traceback first, then the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cloudq.batching import cut
from cloudq.driver import RECORD, Delivery, Driver, Limits, Peeks, Queue, Release
from cloudq.envelope import Envelope, decode
from cloudq.outcome import Bury, Kind

#: Kept free of the provider's message limit at every enqueue, in bytes, so that a dead letter always has room.
ROOM = 16 * 1024


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a message was given up. `at` in seconds since the epoch; `trace` is the end of the traceback."""

    kind: str
    reason: str
    at: float
    queue: str
    task: str = ""
    task_id: str = ""
    attempts: int = 0
    trace: str = ""
    cut: bool = False


def write(bury: Bury, delivery: Delivery, limits: Limits, *, now: float, task: str, task_id: str, attempts: int) -> str:
    """Return the record as JSON, cut to the room that there is; empty where there is none."""
    record = Record(
        kind=bury.kind.value,
        reason=writable(bury.reason),
        at=round(now, 3),
        queue=delivery.queue.logical,
        task=task,
        task_id=task_id,
        attempts=attempts,
        trace=writable(bury.trace),
    )
    # A foreign message may fill its provider's limit: then the bytes matter more than the story.
    taken = len(delivery.body) + sum(len(k.encode()) + len(v.encode()) for k, v in delivery.attributes.items())
    return _fit(record, min(ROOM, limits.attribute_bytes, limits.message_bytes - taken) - len(RECORD))


def read(delivery: Delivery) -> Record:
    """Return the record of a dead letter. One that the provider moved by itself, without a record, counts as crashed."""
    text = delivery.attributes.get(RECORD)
    if text == "":
        room = f"a message of {len(delivery.body):,} bytes left no room for a record"
        return Record(kind="?", reason=room, at=0.0, queue=delivery.queue.logical)
    if text is not None:
        try:
            return msgspec.json.decode(text, type=Record)
        except msgspec.MsgspecError as error:
            return Record(kind="?", reason=f"its record cannot be read: {error}", at=0.0, queue=delivery.queue.logical)
    return Record(
        kind=Kind.CRASHED.value, reason="moved by the provider, without a record", at=0.0, queue=delivery.queue.logical
    )


def writable(text: str) -> str:
    """Return text that UTF-8 can hold: a file name in an error may contain what it cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def _fit(record: Record, room: int) -> str:
    """Cut from the front of the trace, where the least is told, then from the end of the reason, until it fits."""
    for trace, reason in ((16384, 8192), (4096, 1024), (1024, 512), (256, 256), (0, 256), (0, 64)):
        cut = len(record.trace) > trace or len(record.reason) > reason
        shortened = msgspec.structs.replace(
            record, trace=record.trace[-trace:] if trace else "", reason=record.reason[:reason], cut=cut
        )
        text = msgspec.json.encode(shortened).decode()
        if len(text.encode()) <= room:
            return text
    return ""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as far as it can be read. `task` and `task_id` are empty where it cannot."""

    delivery: Delivery
    record: Record
    envelope: Envelope | None

    @property
    def task(self) -> str:
        """The task's name, from the record or else from the message."""
        return self.record.task or (self.envelope.type if self.envelope else "")

    @property
    def task_id(self) -> str:
        """The task's id, or the provider's where there is none."""
        return self.record.task_id or (self.envelope.id if self.envelope else self.delivery.message_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters are meant: those that fit every filter that is set. Times in seconds since the epoch."""

    kinds: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    #: Beginnings of task ids.
    ids: tuple[str, ...] = ()
    reason: str = ""
    before: float = float("inf")
    after: float = 0.0

    def fits(self, letter: Letter) -> bool:
        """Tell whether a letter is meant."""
        record = letter.record
        return (
            (not self.kinds or record.kind in self.kinds)
            and (not self.tasks or letter.task in self.tasks)
            and (not self.ids or letter.task_id.startswith(self.ids))
            and self.reason in record.reason
            and self.after <= record.at <= self.before
        )


def open_letter(delivery: Delivery) -> Letter:
    """Read a dead letter; never raises for what it holds."""
    reading = decode(delivery.body)
    return Letter(delivery, read(delivery), reading if isinstance(reading, Envelope) else None)


async def look(driver: Driver, dead: Queue, limit: int) -> list[Delivery]:
    """Return up to `limit` dead letters without removing them.

    Where the provider cannot peek, they are received and given back, which raises their counts and hides each for a moment.
    """
    if isinstance(driver, Peeks):
        return list(await driver.peek(dead, limit))
    found: list[Delivery] = []
    try:
        while len(found) < limit:
            batch = await driver.receive(dead, min(limit - len(found), driver.limits.receive_count), 1.0)
            if not batch:
                break
            found += batch
    finally:
        for part in cut(found, driver.limits.settle_count):
            await driver.release(dead, [Release(delivery, counted=False) for delivery in part])
    return found
