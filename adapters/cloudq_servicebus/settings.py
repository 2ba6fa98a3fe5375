"""What a queue is made with: for development and tests, and what `inspection` compares with. Production has Terraform."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from cloudq.driver import Queue
from cloudq_servicebus.facts import SERVICEBUS

_SHORTEST, _LONGEST = SERVICEBUS.limits.dedup_window
#: For a queue that says nothing, as a direct user of the driver has one: a week.
_RETENTION = 7 * 86_400.0


def settings(queue: Queue) -> dict[str, Any]:
    """Return the properties of one queue, as `ServiceBusAdministrationClient.create_queue` takes them."""
    # A copy for a later attempt is made again after a kill, under the same id.
    window = min(max(queue.dedup or SERVICEBUS.copies or 0.0, _SHORTEST), _LONGEST)
    return {
        "lock_duration": timedelta(seconds=math.ceil(queue.lease)),
        "requires_session": queue.ordered,
        "requires_duplicate_detection": True,
        "duplicate_detection_history_time_window": timedelta(seconds=math.ceil(window)),
        "max_delivery_count": SERVICEBUS.net(queue.attempts, served=queue.served),
        # docs, message expiration: then it is in the dead-letter queue, which keeps for ever.
        "default_message_time_to_live": timedelta(seconds=math.ceil(queue.retention or _RETENTION)),
        "dead_lettering_on_message_expiration": True,
    }
