"""Amazon SQS.

URLs
    `sqs://eu-west-1` is a region; `sqs://` takes the one of the environment or profile. Credentials come from boto3's chain.
    Options: `account=` (owner of the queues; spares GetQueueUrl), `prefix=` (before every name), `url.<name>=` (an explicit
    queue URL), `endpoint=` (else AWS_ENDPOINT_URL_SQS and the like), and for queues that `cloudq queues create` makes `sse=`
    (`sqs`, `off`, or a KMS key) and `fifo_throughput=high`. `sqs://local` is the emulator on this machine, started when it is
    not there; `port=` chooses another than 9324.

Delivery
    At least once, in no order. A send is confirmed per message; one without an answer may have arrived. A late
    acknowledgement may look like one in time. In an ordered queue (FIFO), in order within each group, and a message whose id
    was sent within the last 5 minutes is dropped.

What is native and what composed
    Native: delay up to 15 min, retry delay up to 6 h, order and dedup (FIFO), the redrive policy as the net, moving a whole
    dead part back. Composed by the core: longer delays (through the delay part), the move of one message to the dead part
    (copy, confirm, delete), expiry, priority (one physical queue each). The count of deliveries is native and includes what
    was given back unrun; crashes are not told apart. There is no peek.

In a function
    `lambda_handler(app)` is a handler for AWS Lambda: see `serverless`, and docs/howto/functions.md.

Escape hatch
    `unwrap(botocore.client.BaseClient)` is the boto3 client for SQS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudq_sqs.serverless import lambda_handler

__all__ = ["lambda_handler"]


def __getattr__(name: str) -> Any:
    # Late: the facts of this provider are read where nothing else of it is needed.
    if name != "lambda_handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cloudq_sqs.serverless import lambda_handler

    return lambda_handler
