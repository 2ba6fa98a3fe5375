"""What stands in a Service Bus message: the body as data, attributes as application properties, there and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from cloudq.driver import RECORD, Delivery, Outgoing, Queue

#: SDK `_common/constants.py`: what a dead letter carries beside its own properties.
_REASON, _DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"
#: How a record begins (`Burial.record`), and what stands in its place where there was no room for one.
_RECORD, NO_RECORD = '{"kind"', "cloudq: no room for a record"


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
    description = attributes.get(_DESCRIPTION, "")
    if description == NO_RECORD or description.startswith(_RECORD):
        # As `dead_letter` wrote them: the record, and no properties of the message that was sent.
        attributes.pop(_REASON, None)
        del attributes[_DESCRIPTION]
        attributes[RECORD] = "" if description == NO_RECORD else description
    return attributes


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
