"""Queues as this project makes them, for development and tests; `inspection` compares with it. Production has Terraform."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from cloudq.driver import Part, Queue
from cloudq_sqs.facts import SQS
from cloudq_sqs.options import Options, is_fifo

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.literals import QueueAttributeNameType


def attributes(queue: Queue, options: Options, dead_arn: str | None = None) -> dict[QueueAttributeNameType, str]:
    """Return the attributes of one queue, as CreateQueue takes them."""
    main = queue.part is Part.MAIN
    found: dict[QueueAttributeNameType, str] = {
        "VisibilityTimeout": str(math.ceil(queue.lease)),
        "MessageRetentionPeriod": str(math.ceil(queue.retention or SQS.limits.retention)),
        "MaximumMessageSize": str(SQS.limits.message_bytes),
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
        found["RedrivePolicy"] = json.dumps(
            {"deadLetterTargetArn": dead_arn, "maxReceiveCount": SQS.net(queue.attempts, served=queue.served)}
        )
    return found


def create(client: SQSClient, options: Options, queues: Sequence[Queue]) -> Sequence[Queue]:
    """Make what does not exist, dead parts first, so that the others can name them."""
    made: list[Queue] = []
    arns: dict[str, str] = {}
    for queue in sorted(queues, key=lambda queue: queue.part is not Part.DEAD):
        name = options.name(queue)
        url = existing(client, name)
        if url is None:
            wanted = attributes(queue, options, arns.get(queue.logical))
            url = client.create_queue(QueueName=name, Attributes=wanted)["QueueUrl"]
            made.append(queue)
        if queue.part is Part.DEAD:
            arns[queue.logical] = read(client, url, "QueueArn")["QueueArn"]
    return made


def existing(client: SQSClient, name: str) -> str | None:
    """Return the queue's URL; None when there is none of this name."""
    try:
        return client.get_queue_url(QueueName=name)["QueueUrl"]
    except client.exceptions.QueueDoesNotExist:
        return None


def read(client: SQSClient, url: str, name: QueueAttributeNameType) -> dict[str, str]:
    """Return one attribute, or with "All" every one."""
    answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=[name])
    return cast("dict[str, str]", answer["Attributes"])
