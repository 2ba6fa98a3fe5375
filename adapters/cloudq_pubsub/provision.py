"""Topics and subscriptions as this project makes them, for development and tests. Production has Terraform."""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
import math
from collections.abc import Sequence

from google.api_core.exceptions import AlreadyExists, InvalidArgument
from google.protobuf import duration_pb2
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types

from cloudq.driver import Part, Queue
from cloudq_pubsub.options import Options

#: API Subscription.message_retention_duration: a week; parts that wait or keep, the longest there is.
_RETENTION, _LONGEST_RETENTION = 604_800, 2_678_400
#: The net behind cloudq's own limit, for queues that are made here: far beyond any default policy. 5 to 100 can be said.
_NET = 45
_PATIENCE = 30.0


def subscription(queue: Queue, options: Options, project: str) -> types.Subscription:
    """Return the subscription of one queue, as CreateSubscription takes it."""
    name = options.name(queue)
    main = queue.part is Part.MAIN
    return types.Subscription(
        name=f"projects/{project}/subscriptions/{name}",
        topic=f"projects/{project}/topics/{name}",
        ack_deadline_seconds=math.ceil(queue.lease),
        message_retention_duration=duration_pb2.Duration(seconds=_RETENTION if main else _LONGEST_RETENTION),
        enable_message_ordering=queue.ordered,
        enable_exactly_once_delivery=options.exactly_once,
        # API ExpirationPolicy: without a ttl, it never expires. No retry policy: its backoff would come on top of ours.
        expiration_policy=types.ExpirationPolicy(),
    )


async def create(
    publisher: PublisherAsyncClient, subscriber: SubscriberAsyncClient, options: Options, project: str, queues: Sequence[Queue]
) -> Sequence[Queue]:
    """Make what does not exist, dead parts first, so that the others can name them."""
    made: list[Queue] = []
    dead: dict[str, str] = {}
    for queue in sorted(queues, key=lambda queue: queue.part is not Part.DEAD):
        wanted = subscription(queue, options, project)
        if queue.part is Part.DEAD:
            dead[queue.logical] = wanted.topic
        elif queue.part is Part.MAIN and queue.logical in dead:
            wanted.dead_letter_policy = types.DeadLetterPolicy(
                dead_letter_topic=dead[queue.logical], max_delivery_attempts=_NET
            )
        # The topic first: what is published before the subscription is there would be lost to it.
        await _made(publisher.create_topic(types.Topic(name=wanted.topic, kms_key_name=options.kms), timeout=_PATIENCE))
        try:
            new = await _made(subscriber.create_subscription(wanted, timeout=_PATIENCE))
        except InvalidArgument:
            if not options.plain:
                raise
            # Google's emulator takes no more than a week, and keeps nothing for longer than it runs.
            wanted.message_retention_duration = duration_pb2.Duration(seconds=_RETENTION)
            new = await _made(subscriber.create_subscription(wanted, timeout=_PATIENCE))
        if new:
            made.append(queue)
    return made


async def _made(creating: object) -> bool:
    try:
        await creating  # type: ignore[misc]  # a coroutine of either client
    except AlreadyExists:
        return False
    return True
