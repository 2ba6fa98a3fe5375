"""An emulator of Google Cloud Pub/Sub, for tests and for a developer's machine: in memory, on 127.0.0.1, for any client.

    cloudq emulate pubsub --port 8085
    PUBSUB_EMULATOR_HOST=127.0.0.1:8085 python your_program.py

It serves google.pubsub.v1 over gRPC and does what that API's reference and the guide say: topics, pull and push subscriptions,
streaming pull with flow control, deadlines with ack ids that change, retry and dead-letter policies, ordering keys, filters,
exactly-once results, retention, seek and snapshots, limits and errors. Each behaviour names its source where it is written.

What it does not imitate:

- It keeps nothing: when it ends, the messages are gone.
- It is one server: a message is delivered once unless a deadline ends, at once, and without a key in the order of publication;
  `delivery_attempt` is exact; a late acknowledgement never counts. The service promises none of that.
- IAM policies are kept and given back, and hinder nobody. No encryption, no quotas, no schemas, no message transforms, no
  exports to BigQuery or Cloud Storage, no monitoring.
- The retention of topics is not imitated, and a list is always one page. Snapshots do not expire.
- Subscriptions do not expire; settings take effect at once. Pushes start at full rate and never back off by themselves.
- Throttling and failures come only from a fault plan.

For tests, it counts requests and bytes, moves its clock and fails as planned: through the gRPC service `cloudq.emulator.Tools`
(`state`, `clock`, `faults`, `latency`; JSON in and out), or through the attributes of `Server`.
"""

from __future__ import annotations

from cloudq.emulation import MovedClock, Plan, run
from cloudq_pubsub.emulator.faults import Fault, Requests
from cloudq_pubsub.emulator.server import Server

__all__ = ["Fault", "MovedClock", "Plan", "Requests", "Server", "serve"]


def serve(port: int = 8085) -> None:
    """Listen on 127.0.0.1 until interrupted. OSError: the port is taken."""
    run(Server(port))
