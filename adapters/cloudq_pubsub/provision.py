"""Topics and subscriptions as this project makes them, for development and tests. Production has Terraform."""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
import math
from collections.abc import Sequence
from datetime import timedelta

from google.api_core.exceptions import AlreadyExists, InvalidArgument
from google.protobuf import duration_pb2
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types

from cloudq.driver import Part, Queue
from cloudq_pubsub.facts import PUBSUB
from cloudq_pubsub.options import Options

#: What Google's emulator takes at the most.
WEEK = timedelta(seconds=604_800)
_PATIENCE = 30.0


def subscription(queue: Queue, options: Options, project: str, dead_topic: str | None) -> types.Subscription:
    """Return the subscription of one queue, as CreateSubscription takes it, with the net that hangs behind a main part."""
    name = options.name(queue)
    made = types.Subscription(
        name=f"projects/{project}/subscriptions/{name}",
        topic=f"projects/{project}/topics/{name}",
        ack_deadline_seconds=math.ceil(queue.lease),
        message_retention_duration=duration_pb2.Duration(seconds=math.ceil(queue.retention or PUBSUB.limits.retention)),
        enable_message_ordering=queue.ordered,
        enable_exactly_once_delivery=options.exactly_once,
        # API ExpirationPolicy: without a ttl, it never expires. No retry policy: its backoff would come on top of ours.
        expiration_policy=types.ExpirationPolicy(),
    )
    if queue.part is Part.MAIN and dead_topic is not None:
        made.dead_letter_policy = types.DeadLetterPolicy(
            dead_letter_topic=dead_topic, max_delivery_attempts=PUBSUB.net(queue.attempts, served=queue.served)
        )
    return made


async def create(
    publisher: PublisherAsyncClient, subscriber: SubscriberAsyncClient, options: Options, project: str, queues: Sequence[Queue]
) -> Sequence[Queue]:
    """Make what does not exist, dead parts first, so that the others can name them."""
    made: list[Queue] = []
    dead: dict[str, str] = {}
    for queue in sorted(queues, key=lambda queue: queue.part is not Part.DEAD):
        wanted = subscription(queue, options, project, dead.get(queue.logical))
        if queue.part is Part.DEAD:
            dead[queue.logical] = wanted.topic
        # The topic first: what is published before the subscription is there would be lost to it.
        await _made(publisher.create_topic(types.Topic(name=wanted.topic, kms_key_name=options.kms), timeout=_PATIENCE))
        try:
            new = await _made(subscriber.create_subscription(wanted, timeout=_PATIENCE))
        except InvalidArgument:
            if not options.plain:
                raise
            # Google's emulator takes no more than a week, and keeps nothing for longer than it runs.
            wanted.message_retention_duration = duration_pb2.Duration(seconds=int(WEEK.total_seconds()))
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
