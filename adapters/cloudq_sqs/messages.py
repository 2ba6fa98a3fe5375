"""What stands in an SQS message: bodies and attributes, there and back.

SQS takes text in which every character is allowed in XML, one at least, and ten attributes (API SendMessage). Everything else
is carried as base64, with an attribute that says so: what a driver is given arrives byte for byte.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

from cloudq.driver import RECORD

if TYPE_CHECKING:
    from types_boto3_sqs.type_defs import MessageAttributeValueOutputTypeDef, MessageAttributeValueTypeDef

#: On a message whose body is base64 of the one that was sent.
ENCODING = "cloudq-encoding"
#: Holds, as JSON, all attributes but the record, where there are more than SQS takes, or an empty one, which it does not take.
PACKED = "cloudq-attributes"
#: guide, quotas-messages.
MOST_ATTRIBUTES = 10

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: API SendMessage, MessageGroupId and MessageDeduplicationId.
_TOKEN = re.compile(r"[!-~]{1,128}", re.ASCII)


class Typed(str):
    """The value of an attribute that another producer sent as something else than a String: a binary one as base64.

    It passes through the core as the text it is, and keeps its type when the message is copied.
    """

    __slots__ = ("kind",)

    kind: str

    def __new__(cls, text: str, kind: str) -> Self:
        """`kind` is the DataType, e.g. Number or Binary.png."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made


def to_text(body: bytes) -> tuple[str, bool]:
    """Return the body as SQS takes it, and whether that is base64."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True
    if text and not _NOT_XML.search(text):
        return text, False
    # An empty body becomes a line end, which base64 passes over.
    return base64.b64encode(body).decode() or "\n", True


def to_bytes(text: str, attributes: Mapping[str, str]) -> bytes:
    """Return the body that was sent. A foreign message that only claims to be base64 keeps its text."""
    if attributes.get(ENCODING) == "base64":
        try:
            return base64.b64decode(text.strip(), validate=True)
        except ValueError:
            pass
    return text.encode()


def to_attributes(given: Mapping[str, str], *, encoded: bool) -> dict[str, MessageAttributeValueTypeDef]:
    """Return message attributes."""
    wanted = {**given, ENCODING: "base64"} if encoded else dict(given)
    if not wanted.get(RECORD, "there is none"):
        del wanted[RECORD]  # there was no room for it
    if len(wanted) > MOST_ATTRIBUTES or "" in wanted.values():
        kept = {name: wanted.pop(name) for name in (RECORD, ENCODING) if name in wanted}
        packed = {name: [getattr(value, "kind", "String"), value] for name, value in wanted.items()}
        wanted = {**kept, PACKED: json.dumps(packed)}
    return {name: _value(value) for name, value in wanted.items()}


def _value(value: str) -> MessageAttributeValueTypeDef:
    kind = value.kind if isinstance(value, Typed) else "String"
    if kind.startswith("Binary"):
        return {"DataType": kind, "BinaryValue": base64.b64decode(value)}
    return {"DataType": kind, "StringValue": _NOT_XML.sub("\ufffd", value)}


def from_attributes(found: Mapping[str, MessageAttributeValueOutputTypeDef]) -> dict[str, str]:
    """Return attributes as the core has them."""
    attributes: dict[str, str] = {}
    for name, value in found.items():
        kind = value.get("DataType", "String")
        if kind == "String":
            attributes[name] = value.get("StringValue", "")
        elif kind.startswith("Binary"):
            attributes[name] = Typed(base64.b64encode(value.get("BinaryValue", b"")).decode(), kind)
        else:
            attributes[name] = Typed(value.get("StringValue", ""), kind)
    packed = attributes.pop(PACKED, None)
    if packed is not None:
        try:
            attributes |= _unpacked(packed)
        except (ValueError, TypeError, AttributeError, RecursionError):
            attributes[PACKED] = packed  # not one of ours
    return attributes


def _unpacked(packed: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, (kind, value) in json.loads(packed).items():
        f"{name}{kind}{value}".encode()  # a lone surrogate could not be sent again
        if kind.startswith("Binary"):
            base64.b64decode(value, validate=True)
        found[name] = str(value) if kind == "String" else Typed(value, kind)
    return found


def token(text: str) -> str:
    """Return a group or deduplication id: 128 letters, digits and punctuation marks are taken; else a digest stands for it."""
    return text if _TOKEN.fullmatch(text) else f"sha256-{sha256(text.encode()).hexdigest()}"


def size(text: str, attributes: Mapping[str, Any]) -> int:
    """Return the bytes that count: the body, and of each attribute its name, type and value (API SendMessage)."""
    total = len(text.encode())
    for name, value in attributes.items():
        held = value.get("StringValue")
        total += (
            len(name.encode())
            + len(value["DataType"])
            + len(held.encode() if held is not None else value.get("BinaryValue", b""))
        )
    return total
