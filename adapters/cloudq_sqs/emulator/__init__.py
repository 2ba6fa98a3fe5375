"""An emulator of Amazon SQS, for tests and for a developer's machine: in memory, on 127.0.0.1, for any SQS client.

    cloudq emulate sqs --port 9324
    aws --endpoint-url http://127.0.0.1:9324 sqs list-queues

It speaks the JSON protocol of the service model 2012-11-05 and does what that model and the Amazon SQS Developer Guide say:
standard and FIFO queues, delays, visibility, receive counts, redrive, move tasks, deduplication, limits and errors. Each
behaviour names its source where it is written.

What it does not imitate:

- It keeps nothing: when it ends, the messages are gone.
- It is one server, so a standard queue here is always in order but for what comes back, delivers once unless a lease ends, and
  finds a message with the first receive. The service promises none of that.
- Counts are exact and at once; settings take effect at once.
- Signatures and expiry of credentials are not checked, nor policies; encryption is taken as a setting and does nothing.
- Fair queues: a MessageGroupId on a standard queue is kept and told, and changes no order.
- Throughput limits and throttling come only from a fault plan. ReceiveRequestAttemptId is ignored.

For tests, it counts requests, moves its clock and fails as planned: over HTTP under `/_emulator/` (`requests`, `clock`,
`faults`, `policies`, `latency`), or through the attributes of `Server`.
"""

from __future__ import annotations

from cloudq.emulation import MovedClock, Plan, run
from cloudq_sqs.emulator.faults import Fault, Requests
from cloudq_sqs.emulator.server import Server

__all__ = ["Fault", "MovedClock", "Plan", "Requests", "Server", "serve"]


def serve(port: int = 9324) -> None:
    """Listen on 127.0.0.1 until interrupted. OSError: the port is taken."""
    run(Server(port))
