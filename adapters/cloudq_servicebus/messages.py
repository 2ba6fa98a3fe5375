"""What stands in a Service Bus message: the body as data, attributes as application properties, there and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from cloudq.driver import RECORD, Delivery, Outgoing, Queue
from cloudq.outcome import Kind

#: SDK `_common/constants.py`: what a dead letter carries beside its own properties.
_REASON, _DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"
_KINDS = {kind.value for kind in Kind}


def to_message(outgoing: Outgoing, queue: Queue, now: float) -> ServiceBusMessage:
    """Return the message to send; `now` in seconds since the epoch."""
    attributes = {name: text for name, text in outgoing.attributes.items() if name not in (_REASON, _DESCRIPTION)}
    message = ServiceBusMessage(
        outgoing.body,
        application_properties=cast("Any", attributes or None),
        message_id=outgoing.message_id,
        # Without a session, an entity that has them takes none: a message of no key is one of its own.
        session_id=(outgoing.group or outgoing.message_id) if queue.ordered else outgoing.group,
    )
    if outgoing.delay > 0:
        message.scheduled_enqueue_time_utc = datetime.fromtimestamp(now + outgoing.delay, UTC)
    return message


def to_delivery(queue: Queue, received: ServiceBusReceivedMessage, receipt: object, leased_for: float) -> Delivery:
    """Return what was received."""
    enqueued = received.enqueued_time_utc
    return Delivery(
        queue=queue,
        body=_body(received),
        receipt=receipt,
        deliveries=(received.delivery_count or 0) + 1,  # SDK: 0 at the first
        leased_for=leased_for,
        sent_at=None if enqueued is None else enqueued.timestamp(),
        message_id=received.message_id or "",
        group=received.session_id,
        attributes=_attributes(received.application_properties),
    )


def _body(received: ServiceBusReceivedMessage) -> bytes:
    if received.body_type is AmqpMessageBodyType.DATA:
        return b"".join(received.body)
    return str(received).encode()  # of another producer: an AMQP value or sequence


def _attributes(found: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return application properties as text. The SDK has names and texts as bytes."""
    attributes = {_text(name): _text(value) for name, value in (found or {}).items()}
    if attributes.get(_REASON) in _KINDS:
        # As `dead_letter` wrote them: the record, and no properties of the message that was sent.
        del attributes[_REASON]
        attributes[RECORD] = attributes.pop(_DESCRIPTION, "")
    return attributes


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
