"""The emulators, as what a proof needs of any: where it listens, what it counted, what waits in it, how it fails.

`wire("sqs")` and so on start one, with the credentials that its SDK wants in the environment.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from cloudq.clock import Clock
from cloudq.emulation import EmulatorServer, Plan
from cloudq_pubsub import emulator as pubsub
from cloudq_sqs import emulator as sqs


class Wire(ABC):
    """One emulator."""

    #: Requests for a task that is sent alone and worked off with others.
    ideal: float
    #: Of the pieces that pass a proxy, how many lose their answer, and how many are reset.
    shaky: float = 0.05
    server: EmulatorServer

    @abstractmethod
    def url(self, port: int) -> str:
        """What an application is given: the port is the server's, or that of a proxy before it."""

    @abstractmethod
    def requests(self) -> int:
        """How many came, of those that are paid for or limited."""

    @abstractmethod
    def plan(self, seed: int, *, on: bool) -> None:
        """Have 30 % of the calls fail: throttled, unavailable, broken."""

    @abstractmethod
    def struck(self) -> Mapping[str, int]:
        """How often a planned fault happened."""

    @abstractmethod
    def next_due(self) -> float | None:
        """When something becomes available by itself."""

    @abstractmethod
    def hidden(self, physical: str) -> int:
        """How many messages of a queue are leased or delayed by a release."""

    @abstractmethod
    def ready(self, physical: str) -> int:
        """How many messages of a queue can be received now."""

    @abstractmethod
    def left(self) -> dict[str, int]:
        """What is in the queues."""


class SQSWire(Wire):
    ideal = 0.3  # sent, received and deleted in tenths

    def __init__(self, clock: Clock | None) -> None:
        self.server: sqs.Server = sqs.Server(clock=clock).start()

    def url(self, port: int) -> str:
        return f"sqs://us-east-1?endpoint=http://127.0.0.1:{port}&account=000000000000"

    def requests(self) -> int:
        return self.server.requests.billed

    def plan(self, seed: int, *, on: bool) -> None:
        errors = [
            sqs.Fault(code="RequestThrottled", share=0.1),
            sqs.Fault(code="ServiceUnavailable", status=503, share=0.1),
            sqs.Fault(code="InternalError", status=500, share=0.1),
        ]
        self.server.plan = Plan(errors if on else [], seed)

    def struck(self) -> Mapping[str, int]:
        return self.server.plan.happened

    def next_due(self) -> float | None:
        dues = [queue.next_due() for queue in self.server.service.queues.values()]
        return min((due for due in dues if due is not None), default=None)

    def hidden(self, physical: str) -> int:
        return self.server.service.queues[physical].in_flight

    def ready(self, physical: str) -> int:
        return self.server.service.queues[physical].count(self.server.clock.time())[0]

    def left(self) -> dict[str, int]:
        queues = self.server.service.queues.values()
        return {queue.name: len(queue.messages) for queue in queues if queue.messages}


class PubSubWire(Wire):
    ideal = 0.06  # published, pulled and acknowledged by the fifty; what is paid for is bytes

    def __init__(self, clock: Clock | None) -> None:
        self.server: pubsub.Server = pubsub.Server(clock=clock).start()

    def url(self, port: int) -> str:
        return f"pubsub://test-project?endpoint=http://127.0.0.1:{port}"

    def requests(self) -> int:
        return sum(self.server.requests.by_method.values())

    def plan(self, seed: int, *, on: bool) -> None:
        errors = [
            pubsub.Fault(code="RESOURCE_EXHAUSTED", share=0.1),
            pubsub.Fault(code="UNAVAILABLE", share=0.05),
            pubsub.Fault(kind="lost", code="UNAVAILABLE", share=0.05),
            pubsub.Fault("Acknowledge", code="INTERNAL", share=0.1),
            pubsub.Fault("ModifyAckDeadline", code="INTERNAL", share=0.1),
        ]
        self.server.plan = Plan(errors if on else [], seed)

    def struck(self) -> Mapping[str, int]:
        return self.server.plan.happened

    def next_due(self) -> float | None:
        subscriptions = self.server.service.subscriptions
        dues = self.server.ask(lambda: [subscription.next_due() for subscription in subscriptions.values()])
        return min((due for due in dues if due is not None), default=None)

    def hidden(self, physical: str) -> int:
        return self._counts()[physical]["outstanding"]

    def ready(self, physical: str) -> int:
        counts = self._counts()[physical]
        return counts["unacked"] - counts["outstanding"]

    def left(self) -> dict[str, int]:
        return {name: counts["unacked"] for name, counts in self._counts().items() if counts["unacked"]}

    def _counts(self) -> dict[str, dict[str, int]]:
        return {name.rpartition("/")[2]: counts for name, counts in self.server.counts().items()}


class ServiceBusWire(Wire):
    ideal = 1.1  # sent by the batch, and completed one by one
    #: Opening an AMQP connection takes some twenty pieces, of which none may be lost.
    shaky = 0.005

    def __init__(self, clock: Clock | None) -> None:
        from cloudq_servicebus import emulator as servicebus

        self._fault = servicebus.Fault
        self.server: Any = servicebus.Server(clock=clock).start()

    def url(self, port: int) -> str:
        return f"servicebus://?endpoint=127.0.0.1:{port}&admin=127.0.0.1:{self.server.admin_port}"

    def requests(self) -> int:
        counted = self.server.requests.by_action
        return sum(count for action, count in counted.items() if action not in ("attach", "put-token"))

    def plan(self, seed: int, *, on: bool) -> None:
        busy = "com.microsoft:server-busy"
        errors = [
            self._fault("send", condition=busy, share=0.2),
            self._fault("send", kind="lost", share=0.05),
            self._fault("send", kind="detach", condition="amqp:link:detach-forced", share=0.05),
            self._fault("complete", condition=busy, share=0.2),
            self._fault("complete", kind="lost", share=0.05),
            self._fault("complete", condition="com.microsoft:message-lock-lost", share=0.05),
            self._fault("complete", kind="detach", condition="amqp:link:detach-forced", share=0.05),
            self._fault("attach", condition=busy, share=0.1),
        ]
        self.server.plan = Plan(errors if on else [], seed)

    def struck(self) -> Mapping[str, int]:
        return self.server.plan.happened

    def next_due(self) -> float | None:
        dues = self.server.ask(lambda: [queue.next_due() for queue in self.server.queues.values()])
        return min((due for due in dues if due is not None), default=None)

    def hidden(self, physical: str) -> int:
        queue = self.server.queues.get(physical)
        return 0 if queue is None else self.server.ask(lambda: len(queue.locked))

    def ready(self, physical: str) -> int:
        queue = self.server.queues.get(physical)
        return 0 if queue is None else self.server.ask(lambda: queue.counts()["active"] - len(queue.locked))

    def left(self) -> dict[str, int]:
        counted = self.server.counts().items()
        return {name: sum(counts.values()) for name, counts in counted if sum(counts.values())}


WIRES: dict[str, Any] = {"sqs": SQSWire, "pubsub": PubSubWire, "servicebus": ServiceBusWire}


def wired(url: str) -> str:
    """Return which emulator stands for a URL: that of its scheme, or SQS's where it has none."""
    scheme = url.partition(":")[0]
    return scheme if scheme in WIRES else "sqs"


@contextmanager
def wire(name: str, clock: Clock | None = None) -> Iterator[Wire]:
    """Start one, on this clock or on its own."""
    made: Wire = WIRES[name](clock)
    try:
        with mock.patch.dict(os.environ, {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}):
            yield made
    finally:
        made.server.stop()
