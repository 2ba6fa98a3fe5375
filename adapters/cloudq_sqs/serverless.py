"""AWS Lambda: the tasks of an application as a function that an event source mapping of SQS calls.

    # function.py, with the handler `function.handler`
    from cloudq_sqs import lambda_handler
    from shop.tasks import app

    handler = lambda_handler(app)

What Lambda does (Lambda guide, "Using Lambda with Amazon SQS"): it receives, calls with up to a batch of messages of one queue,
and deletes what the answer does not name as failed, provided that the mapping has `ReportBatchItemFailures`. Without it, what
failed is deleted, and the function cannot see that: the Terraform module always sets it, and `cloudq doctor` looks.

Here, what succeeded is deleted by Lambda. What is tried again is hidden for its own delay, and named as failed. All
that is given up is sent to the dead part with its reason, and then deleted by Lambda. In a FIFO queue, nothing of a group runs
behind one that comes back. What could not be started in time is named as failed, and hidden until about its turn. Of the delay
part, the same function is the pump.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cloudq.driver import Delivery, Queue, Release, Settled
from cloudq.functions import Functions, Opened, Platform
from cloudq_sqs import messages
from cloudq_sqs.options import read

if TYPE_CHECKING:
    from cloudq import CloudQ

#: Of the time that a call has, this share is kept for giving back what was not started and for the answer, within these bounds
#: in seconds; and of that, this share is for the first.
_KEPT, _LEAST_KEPT, _MOST_KEPT, _GIVING_BACK = 0.15, 0.3, 2.0, 0.7


class LambdaContext(Protocol):
    """What is needed of the second argument of a handler."""

    def get_remaining_time_in_millis(self) -> int:
        """Return for how long the call may go on."""
        ...


#: A handler: `handler(event, context)`.
Handler = Callable[[Mapping[str, Any], LambdaContext], dict[str, list[dict[str, str]]]]


def lambda_handler(app: CloudQ, *, queues: Sequence[str] = (), concurrency: int | None = None) -> Handler:
    """Return a handler for event source mappings of these queues.

    By default, those with `[queues.<name>.serverless]`; where none has it, every queue of the application on SQS.

    `concurrency` is how many messages of a call run at once, by default as in a worker (`worker.concurrency`). The handler
    returns `{"batchItemFailures": [{"itemIdentifier": <message id>}, ...]}`. It raises, so that all of a batch comes back, for
    an event that is none of SQS (ValueError) and for a queue that is not served here (ConfigError). Nothing is connected to
    before the first message that is tried again, given up or forwarded.

    ConfigError: a queue that lives elsewhere, or a setting that SQS or Lambda cannot keep.
    """
    functions = Functions(app, _Lambda(), queues, concurrency)

    def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, list[dict[str, str]]]:
        records: Sequence[Mapping[str, Any]] = event.get("Records", ())
        sources = {str(record.get("eventSourceARN", "")) for record in records if record.get("eventSource") == "aws:sqs"}
        if len(sources) != 1:
            raise ValueError(
                f"this handler is for an event source mapping of SQS, whose events have Records of one queue; this one has "
                f"{', '.join(sorted(event)) or 'nothing'}. Is something else a trigger of the function?"
            )
        queue = functions.queue(sources.pop().rpartition(":")[2])
        left = context.get_remaining_time_in_millis() / 1000
        kept = min(_MOST_KEPT, max(_LEAST_KEPT, left * _KEPT))
        deliveries = [_delivery(queue, record) for record in records]
        removed = functions.hand_over(queue, deliveries, left - kept, kept * _GIVING_BACK)
        return {
            "batchItemFailures": [
                {"itemIdentifier": str(record["messageId"])} for record, gone in zip(records, removed, strict=True) if not gone
            ]
        }

    return handler


class _Lambda(Platform):
    scheme = "sqs"

    def name(self, place: str, options: Mapping[str, str], queue: Queue) -> str:
        return read(place, options).name(queue)

    async def release(self, driver: Opened, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:
        return await (await driver()).release(queue, batch)


def _delivery(queue: Queue, record: Mapping[str, Any]) -> Delivery:
    """Read a record. Lambda guide: the fields of a received message, in camel case, and binary values as base64."""
    told: Mapping[str, str] = record.get("attributes", {})
    found = {
        name: {
            "DataType": value.get("dataType", "String"),
            "StringValue": value.get("stringValue", ""),
            "BinaryValue": base64.b64decode(value.get("binaryValue") or b""),
        }
        for name, value in record.get("messageAttributes", {}).items()
    }
    attributes = messages.from_attributes(found)  # type: ignore[arg-type]  # as boto3 has them
    body = messages.to_bytes(record["body"], attributes)
    attributes.pop(messages.ENCODING, None)
    return Delivery(
        queue=queue,
        body=body,
        receipt=record["receiptHandle"],
        deliveries=int(told.get("ApproximateReceiveCount", "1")),
        leased_for=0.0,  # as long as the call
        sent_at=int(told["SentTimestamp"]) / 1000 if "SentTimestamp" in told else None,
        message_id=record["messageId"],
        group=told.get("MessageGroupId"),
        attributes=attributes,
    )
