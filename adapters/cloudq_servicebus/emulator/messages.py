"""AMQP messages: taken apart as they arrive, put together as they are delivered.

The sections and annotations are those that azure-servicebus 7.15 reads and writes (`_common/message.py`, `_pyamqp/_encode.py`).
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# proton names types that are not all there.
from typing import Any, cast

from proton import Data, Described, Message, int32, symbol, timestamp

from cloudq_servicebus.emulator.broker import Stored

#: AMQP 1.0, part 3: the descriptors of a data section, of those that are bodies, and of all.
_DATA, _BODIES, _SECTIONS = 0x75, range(0x75, 0x78), range(0x70, 0x79)
#: A header that says nothing, as proton writes it, and one with a delivery count of 0: without it the SDK reads None.
_NO_HEADER, _COUNT_ZERO = bytes.fromhex("00537045"), bytes.fromhex("005370c0060540404040" + "43")


def parts(raw: bytes) -> list[bytes]:
    """Return the messages of a transfer: one, or those of a batch (SDK: data sections that each hold an encoded message).

    A batch has a message format of its own, which proton does not show. So a transfer is taken for one when every data section
    of it is a message of its own, whole.
    """
    bodies: list[bytes] = [value for descriptor, value in _sections(raw) if descriptor == _DATA]
    if bodies and all(any(descriptor in _BODIES for descriptor, _ in _sections(body)) for body in bodies):
        return bodies
    return [raw]


def _sections(raw: bytes) -> list[tuple[int, Any]]:
    """Return the sections of a message with their descriptors; nothing when it is no message."""
    data, offset, found = Data(), 0, list[tuple[int, Any]]()
    while offset < len(raw):
        data.clear()
        try:
            offset += data.decode(raw[offset:])
        except Exception:  # whatever proton has against it
            return []
        data.rewind()
        data.next()
        section = data.get_object()
        if not isinstance(section, Described) or section.descriptor not in _SECTIONS:
            return []
        value: Any = section.value
        # A buffer of proton is used again with the next one.
        found.append((int(cast("int", section.descriptor)), bytes(value) if isinstance(value, memoryview) else value))
    return found


def read(raw: bytes) -> Any:
    """Return a proton.Message. Buffers of proton are used again, so what is kept is copied."""
    message = Message()
    message.decode(raw)
    if isinstance(message.body, memoryview):
        message.body = bytes(message.body)
    return message


def scheduled(message: Any) -> float | None:
    """When it is to be enqueued, in seconds since the epoch."""
    at = (message.annotations or {}).get(symbol("x-opt-scheduled-enqueue-time"))
    return None if at is None else at / 1000


def write(stored: Stored, *, locked: bool) -> bytes:
    """Return the message as it is delivered, or shown, with what the service adds."""
    message = stored.message
    annotations = dict(message.annotations or {})
    annotations |= {
        symbol("x-opt-sequence-number"): stored.sequence,
        symbol("x-opt-enqueued-time"): milliseconds(stored.enqueued),
        symbol("x-opt-message-state"): int32(int(stored.state)),
    }
    annotations.pop(symbol("x-opt-locked-until"), None)
    if locked:
        annotations[symbol("x-opt-locked-until")] = milliseconds(stored.locked_until)
    message.annotations = annotations
    message.delivery_count = stored.count
    raw: bytes = message.encode()
    return _COUNT_ZERO + raw[len(_NO_HEADER) :] if raw.startswith(_NO_HEADER) else raw


def milliseconds(time: float) -> Any:
    """An AMQP timestamp."""
    return timestamp(int(time * 1000))
