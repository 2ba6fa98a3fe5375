"""AMQP messages: taken apart as they arrive, put together as they are delivered.

The sections and annotations are those that azure-servicebus 7.15 reads and writes (`_common/message.py`, `_pyamqp/_encode.py`).
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# proton names types that are not all there.
from collections.abc import Sequence
from typing import Any, cast

from proton import Data, Described, Message, int32, symbol, timestamp

from cloudq_servicebus.emulator.broker import Stored

#: AMQP 1.0, part 3: the descriptor of a data section.
_DATA = 0x75
#: A header that says nothing, as proton writes it, and one with a delivery count of 0: without it the SDK reads None.
_NO_HEADER, _COUNT_ZERO = bytes.fromhex("00537045"), bytes.fromhex("005370c0060540404040" + "43")


def parts(raw: bytes) -> list[bytes]:
    """Return the messages of a transfer: one, or those of a batch (SDK: data sections that each hold an encoded message).

    A batch has a message format of its own, which proton does not show. So a transfer is taken for one when every section of it
    is a message of its own, whole.
    """
    sections = _data_sections(raw)
    if sections and all(section[:2] == b"\x00S" and _is_message(section) for section in sections):
        return list(sections)
    return [raw]


def _data_sections(raw: bytes) -> Sequence[bytes]:
    data, offset, found = Data(), 0, list[bytes]()
    while offset < len(raw):
        data.clear()
        offset += data.decode(raw[offset:])
        data.rewind()
        data.next()
        section = data.get_object()
        if isinstance(section, Described) and section.descriptor == _DATA:
            found.append(bytes(cast("bytes", section.value)))
    return found


def _is_message(raw: bytes) -> bool:
    try:
        Message().decode(raw)
    except Exception:  # whatever proton has against it
        return False
    return True


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
