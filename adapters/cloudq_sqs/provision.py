"""Queues as this project makes them, for development and tests, and as they are, for `doctor`. Production has Terraform."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from cloudq.driver import Part, Queue
from cloudq_sqs.options import Options, is_fifo

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.literals import QueueAttributeNameType

#: API SetQueueAttributes, MessageRetentionPeriod: a week; parts that wait or keep, the longest there is.
_RETENTION, _LONGEST_RETENTION = 604_800, 1_209_600
#: The net behind cloudq's own limit, for queues that are made here: far beyond any default policy.
_NET = 45


def attributes(queue: Queue, options: Options, dead_arn: str | None = None) -> dict[QueueAttributeNameType, str]:
    """Return the attributes of one queue, as CreateQueue takes them."""
    main = queue.part is Part.MAIN
    found: dict[QueueAttributeNameType, str] = {
        "VisibilityTimeout": str(math.ceil(queue.lease)),
        "MessageRetentionPeriod": str(_RETENTION if main else _LONGEST_RETENTION),
    }
    if is_fifo(queue):
        found["FifoQueue"] = "true"
        if options.fifo_throughput == "high":
            # API SetQueueAttributes, high throughput for FIFO queues: both, or neither.
            found["DeduplicationScope"] = "messageGroup"
            found["FifoThroughputLimit"] = "perMessageGroupId"
    if options.sse in ("sqs", "off"):
        found["SqsManagedSseEnabled"] = str(options.sse == "sqs").lower()
    else:
        found["KmsMasterKeyId"] = options.sse
    if main and dead_arn is not None:
        found["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": _NET})
    return found


def create(client: SQSClient, options: Options, queues: Sequence[Queue]) -> Sequence[Queue]:
    """Make what does not exist, dead parts first, so that the others can name them."""
    made: list[Queue] = []
    arns: dict[str, str] = {}
    for queue in sorted(queues, key=lambda queue: queue.part is not Part.DEAD):
        name = options.name(queue)
        url = _existing(client, name)
        if url is None:
            wanted = attributes(queue, options, arns.get(queue.logical))
            url = client.create_queue(QueueName=name, Attributes=wanted)["QueueUrl"]
            made.append(queue)
        if queue.part is Part.DEAD:
            arns[queue.logical] = _attributes(client, url, ["QueueArn"])["QueueArn"]
    return made


def live(client: SQSClient, options: Options, queues: Sequence[Queue]) -> Mapping[str, Mapping[str, str]]:
    """Read every attribute of those that exist."""
    found: dict[str, Mapping[str, str]] = {}
    for queue in queues:
        url = _existing(client, options.name(queue))
        if url is not None:
            found[queue.physical] = _attributes(client, url, ["All"])
    return found


def _existing(client: SQSClient, name: str) -> str | None:
    try:
        return client.get_queue_url(QueueName=name)["QueueUrl"]
    except client.exceptions.QueueDoesNotExist:
        return None


def _attributes(client: SQSClient, url: str, names: list[str]) -> dict[str, str]:
    asked = cast("list[QueueAttributeNameType]", names)
    answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=asked)
    return cast("dict[str, str]", answer["Attributes"])
