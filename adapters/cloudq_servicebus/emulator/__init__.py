"""An emulator of Azure Service Bus, for tests and for a developer's machine: in memory, on 127.0.0.1, for the vendor's SDK.

    cloudq emulate servicebus --port 5672
    Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true;

It speaks AMQP 1.0 with SASL ANONYMOUS and claims-based security, and HTTP for the administration of queues, and does what
the documentation and azure-servicebus 7.15 say: queues, peek-lock and receive-and-delete, locks that end and are renewed,
delivery counts and their limit, the dead-letter queue, scheduling and cancelling, deferral, peeking, sessions with their
state, duplicate detection, expiry, batches. Each behaviour names its source where it is written.

What it does not imitate:

- It keeps nothing: when it ends, the messages are gone.
- It is one server: order is that of arrival, counts are exact and at once, settings take effect at once.
- Forwarding, a status other than Active and deletion of what is idle are kept as they are set, and have no effect.
- Topics, subscriptions, rules, transactions, partitions, TLS, web sockets.
- Tokens are not checked, nor is who may do what; throttling and quotas come only from a fault plan.
- How the service sequences the refusal of a link, and which status codes stand beside its conditions, was not seen.

For tests, it counts requests, moves its clock and fails as planned, through the attributes of `Server`. From another process,
`{"latency": 0.01, "advance": 60, "reset": true}` posted to `/$emulator` of the administration sets what it says, and is
answered with the figures.
"""

from __future__ import annotations

from cloudq.emulation import MovedClock, Plan, run
from cloudq_servicebus.emulator.broker import Settings
from cloudq_servicebus.emulator.faults import Fault, Requests
from cloudq_servicebus.emulator.server import Server
from cloudq_servicebus.options import PORT, admin_port

__all__ = ["Fault", "MovedClock", "Plan", "Requests", "Server", "Settings", "serve"]


def serve(port: int = PORT) -> None:
    """Listen on 127.0.0.1 until interrupted, for administration 372 ports below. OSError: a port is taken."""
    run(Server(port, admin_port=admin_port(port)))
