"""What stands in a Pub/Sub message: the body as data, attributes as attributes, there and back.

A message has data or at least one attribute (API PubsubMessage), and at most 100 attributes (docs, quotas, resource limits).
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
from typing import Any

from google.pubsub_v1 import types

from cloudq.driver import RECORD, Outgoing
from cloudq_pubsub.attributes import EMPTY, MOST_ATTRIBUTES

#: The protocol buffer class: the SDK's own wrapper around it costs more than the call.
_Message: Any = types.PubsubMessage.pb()


def to_message(message: Outgoing) -> Any:
    """Return the message to publish."""
    attributes = dict(message.attributes)
    if len(attributes) > MOST_ATTRIBUTES:
        # Only a message from elsewhere has a hundred of its own. All of it is kept; the reason is in the log alone.
        attributes.pop(RECORD, None)
    if not message.body and not attributes:
        attributes[EMPTY] = "1"
    return _Message(data=message.body, attributes=attributes, ordering_key=message.group or "")
