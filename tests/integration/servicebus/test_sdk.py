"""The vendor's SDK in its ordinary use, sync and async, against the emulator: operation, result and the source that says so.

What each step returned is written down in docs/emulators/servicebus.md, and compared with it: the page cannot drift.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    AutoLockRenewer,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import AutoLockRenewer as AsyncAutoLockRenewer
from azure.servicebus.aio import ServiceBusClient as AsyncServiceBusClient
from azure.servicebus.exceptions import ServiceBusError
from azure.servicebus.management import ServiceBusAdministrationClient

from conftest import missing
from support.clocks import JumpingClock

if find_spec("proton") is None:
    missing("proton", "it is built from source, which needs a C compiler: pip install python-qpid-proton")
from cloudq_servicebus.emulator import Fault, Plan, Server, Settings

PAGE = Path(__file__).parents[3] / "docs" / "emulators" / "servicebus.md"
WRITE = os.environ.get("CLOUDQ_GOLDEN") == "write"
MESSAGES = "docs, message transfers, locks, and settlement"


class PlainTransport(RequestsTransport):
    """The SDK asks for https wherever it is; the emulator has none."""

    def send(self, request: Any, **options: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **options)


class Place:
    """A server with a queue for one step, and clients of both kinds."""

    def __init__(self, **settings: Any) -> None:
        self.clock = JumpingClock()
        self.server = Server(clock=self.clock).start()
        self.make("q", **settings)

    def make(self, name: str, **settings: Any) -> None:
        self.server.ask(lambda: self.server.create(Settings(name, **settings)))

    def client(self) -> ServiceBusClient:
        return ServiceBusClient.from_connection_string(self.server.connection_string, retry_total=0)

    def aclient(self) -> AsyncServiceBusClient:
        return AsyncServiceBusClient.from_connection_string(self.server.connection_string, retry_total=0)

    def admin(self) -> ServiceBusAdministrationClient:
        told = self.server.connection_string.replace(f":{self.server.port};", f":{self.server.admin_port};")
        return ServiceBusAdministrationClient.from_connection_string(told, transport=PlainTransport())

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.look()

    def counts(self) -> dict[str, int]:
        return {kind: count for kind, count in self.server.counts()["q"].items() if count}


Step = Callable[[Place], Any]
STEPS: dict[str, tuple[Step, str, dict[str, Any]]] = {}


def step(name: str, source: str, **settings: Any) -> Callable[[Step], Step]:
    def add(function: Step) -> Step:
        STEPS[name] = function, source, settings
        return function

    return add


def texts(messages: Any) -> list[str]:
    return [str(message) for message in messages]


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


# Sync -----------------------------------------------------------------------------------------------------------------


@step("send, receive, complete", MESSAGES)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("größe", application_properties={"a": "b"}, message_id="m1", subject="s"))
        (got,) = receiver.receive_messages(1, max_wait_time=5)
        receiver.complete_message(got)
        return str(got), got.application_properties, got.message_id, got.subject, got.delivery_count, p.counts()


@step("a body of bytes", "SDK ServiceBusMessage.body")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage(b"\x00S\xff"))
        (got,) = receiver.receive_messages(1, max_wait_time=5)
        return b"".join(got.body)


@step("a batch arrives whole", "SDK ServiceBusSender.create_message_batch")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        batch = sender.create_message_batch()
        for number in range(5):
            batch.add_message(ServiceBusMessage(str(number)))
        sender.send_messages(batch)
        return texts(receiver.receive_messages(5, max_wait_time=5))


@step("receive and delete", "docs, message transfers: ReceiveAndDelete")
def _(p: Place) -> Any:
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    with p.client() as client, client.get_queue_sender("q") as sender:
        sender.send_messages(ServiceBusMessage("x"))
        with client.get_queue_receiver("q", receive_mode=mode) as receiver:
            return texts(receiver.receive_messages(1, max_wait_time=5)), p.counts()


@step("abandon counts", MESSAGES)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x"))
        counts = []
        for _ in range(3):
            (got,) = receiver.receive_messages(1, max_wait_time=5)
            counts.append(got.delivery_count)
            receiver.abandon_message(got)
        return counts


@step("the last delivery is followed by the dead-letter queue", "docs, dead-letter queues: MaxDeliveryCount", most_deliveries=2)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x"))
        for _ in range(2):
            receiver.abandon_message(receiver.receive_messages(1, max_wait_time=5)[0])
        with client.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead:
            (got,) = dead.receive_messages(1, max_wait_time=5)
            return str(got), got.dead_letter_reason


@step("dead-letter with a reason", "SDK ServiceBusReceiver.dead_letter_message")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x", application_properties={"mine": "kept"}))
        receiver.dead_letter_message(
            receiver.receive_messages(1, max_wait_time=5)[0], reason="bad", error_description="because"
        )
        with client.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead:
            (got,) = dead.receive_messages(1, max_wait_time=5)
            dead.complete_message(got)
            mine = {name: value for name, value in (got.application_properties or {}).items() if name == b"mine"}
            return str(got), got.dead_letter_reason, got.dead_letter_error_description, mine, p.counts()


@step("defer, and receive by number", "docs, message deferral")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x"))
        (got,) = receiver.receive_messages(1, max_wait_time=5)
        receiver.defer_message(got)
        nothing = texts(receiver.receive_messages(1, max_wait_time=0.5))
        (again,) = receiver.receive_deferred_messages([got.sequence_number])
        receiver.complete_message(again)
        return nothing, str(again), p.counts()


@step("a lock that ran out", MESSAGES, lock=30.0)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x"))
        (late,) = receiver.receive_messages(1, max_wait_time=5)
        p.advance(31)
        assert len(receiver.receive_messages(1, max_wait_time=5)) == 1
        receiver.complete_message(late)


@step("a renewed lock lasts", MESSAGES, lock=30.0)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x"))
        (got,) = receiver.receive_messages(1, max_wait_time=5)
        p.advance(20)
        receiver.renew_message_lock(got)
        p.advance(20)
        receiver.complete_message(got)
        return p.counts()


@step("schedule and cancel", "docs, message sequencing: scheduled messages")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        numbers = sender.schedule_messages([ServiceBusMessage("x"), ServiceBusMessage("y")], soon(60))
        sender.cancel_scheduled_messages(numbers[:1])
        before = texts(receiver.receive_messages(1, max_wait_time=0.5))
        p.advance(61)
        return before, texts(receiver.receive_messages(2, max_wait_time=5))


@step("cancelling what has come", "SDK ServiceBusSender.cancel_scheduled_messages")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender:
        numbers = sender.schedule_messages(ServiceBusMessage("x"), soon(60))
        p.advance(61)
        sender.cancel_scheduled_messages(numbers)


@step("scheduled by the message itself", "SDK ServiceBusMessage.scheduled_enqueue_time_utc")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x", scheduled_enqueue_time_utc=soon(60)))
        before = p.counts()
        p.advance(61)
        return before, texts(receiver.receive_messages(1, max_wait_time=5))


@step("peek changes nothing", "docs, message browsing")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages([ServiceBusMessage("x"), ServiceBusMessage("y")])
        sender.schedule_messages(ServiceBusMessage("z"), soon(60))
        seen = [(str(message), message.state.name) for message in receiver.peek_messages(5, sequence_number=1)]
        return seen, texts(receiver.receive_messages(2, max_wait_time=5))


@step("a repeated id is dropped in its window", "docs, duplicate detection", dedup=True, window=60.0)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender:
        for _ in range(2):
            sender.send_messages(ServiceBusMessage("x", message_id="1"))
        first = p.counts()
        p.advance(61)
        sender.send_messages(ServiceBusMessage("x", message_id="1"))
        return first, p.counts()


@step("an expired message is not delivered", "docs, message expiration", dead_letter_expired=True)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x", time_to_live=timedelta(seconds=30)))
        p.advance(31)
        return texts(receiver.receive_messages(1, max_wait_time=0.5)), p.counts()


@step("a session in order, with its state", "docs, message sessions", sessions=True)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender:
        for number in range(4):
            sender.send_messages(ServiceBusMessage(str(number), session_id="ab"[number % 2]))
        with client.get_queue_receiver("q", session_id="b") as receiver:
            receiver.session.set_state(b"half")
            got = receiver.receive_messages(2, max_wait_time=5)
            for message in got:
                receiver.complete_message(message)
            state = receiver.session.get_state()
        with client.get_queue_receiver("q", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5) as other:
            return texts(got), state, other.session.session_id, texts(other.receive_messages(2, max_wait_time=5))


@step("a session that another has", "docs, message sessions", sessions=True)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_receiver("q", session_id="a"):
        client.get_queue_receiver("q", session_id="a").receive_messages(1, max_wait_time=1)


@step("no session in time", "docs, message sessions", sessions=True)
def _(p: Place) -> Any:
    with p.client() as client:
        receiver = client.get_queue_receiver("q", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1)
        receiver.receive_messages(1, max_wait_time=2)


@step("a session's lock is renewed", "docs, message sessions", sessions=True, lock=30.0)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender:
        sender.send_messages(ServiceBusMessage("x", session_id="a"))
        with client.get_queue_receiver("q", session_id="a") as receiver:
            (got,) = receiver.receive_messages(1, max_wait_time=5)
            p.advance(20)
            receiver.session.renew_lock()
            p.advance(20)
            receiver.complete_message(got)
            return p.counts()


@step("an entity that is not there", "SDK MessagingEntityNotFoundError")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_receiver("missing") as receiver:
        receiver.receive_messages(1, max_wait_time=1)


@step("a message that is too large", "docs, quotas: 256 KB")
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender:
        sender.send_messages(ServiceBusMessage("x" * 300_000))


@step("throttling", "SDK ServiceBusServerBusyError")
def _(p: Place) -> Any:
    p.server.plan = Plan([Fault("send", times=1)])
    with p.client() as client, client.get_queue_sender("q") as sender:
        sender.send_messages(ServiceBusMessage("x"))


@step("the renewer keeps a lock", "SDK AutoLockRenewer", lock=3.0)
def _(p: Place) -> Any:
    with p.client() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage("x"))
        (got,) = receiver.receive_messages(1, max_wait_time=5)
        with AutoLockRenewer() as renewer:
            renewer.register(receiver, got, max_lock_renewal_duration=20)
            ends = got.locked_until_utc
            while got.locked_until_utc == ends:
                asyncio.run(asyncio.sleep(0.1))  # the renewer has a thread of its own
        receiver.complete_message(got)
        return p.counts()


# Async ----------------------------------------------------------------------------------------------------------------


def run(work: Callable[[Place], Awaitable[Any]]) -> Step:
    return lambda p: asyncio.run(asyncio.wait_for(work(p), 30))


@step("async: settlements overlap", "SDK 7.15 changelog")
@run
async def _(p: Place) -> Any:
    async with p.aclient() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        await sender.send_messages([ServiceBusMessage(str(number)) for number in range(6)])
        got = await receiver.receive_messages(6, max_wait_time=5)
        await asyncio.gather(*(receiver.complete_message(message) for message in got[:3]))
        await receiver.abandon_message(got[3])
        await receiver.dead_letter_message(got[4], reason="r")
        await receiver.defer_message(got[5])
        return texts(got), p.counts()


@step("async: schedule, peek, cancel", "docs, message sequencing")
@run
async def _(p: Place) -> Any:
    async with p.aclient() as client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        numbers = await sender.schedule_messages(ServiceBusMessage("x"), soon(60))
        seen = texts(await receiver.peek_messages(1, sequence_number=1))
        await sender.cancel_scheduled_messages(numbers)
        return seen, p.counts()


@step("async: a session and the renewer", "SDK aio AutoLockRenewer", sessions=True, lock=3.0)
@run
async def _(p: Place) -> Any:
    async with p.aclient() as client, client.get_queue_sender("q") as sender:
        await sender.send_messages(ServiceBusMessage("x", session_id="a"))
        async with client.get_queue_receiver("q", session_id="a") as receiver, AsyncAutoLockRenewer() as renewer:
            ends = receiver.session.locked_until_utc
            renewer.register(receiver, receiver.session, max_lock_renewal_duration=20)
            while receiver.session.locked_until_utc == ends:  # noqa: ASYNC110  the SDK has no event for it
                await asyncio.sleep(0.1)
            (got,) = await receiver.receive_messages(1, max_wait_time=5)
            await receiver.complete_message(got)
            return p.counts()


# Administration -------------------------------------------------------------------------------------------------------


@step("administration: create, read, count, list, delete", "SDK ServiceBusAdministrationClient")
def _(p: Place) -> Any:
    admin = p.admin()
    admin.create_queue("Orders", lock_duration=timedelta(seconds=45), requires_session=False, max_delivery_count=7)
    found = admin.get_queue("orders")
    with p.client() as client, client.get_queue_sender("orders") as sender:
        sender.send_messages([ServiceBusMessage("x"), ServiceBusMessage("y", scheduled_enqueue_time_utc=soon(60))])
    running = admin.get_queue_runtime_properties("orders")
    names = sorted(queue.name for queue in admin.list_queues())
    admin.delete_queue("orders")
    return (
        found.lock_duration,
        found.max_delivery_count,
        found.requires_session,
        (running.active_message_count, running.scheduled_message_count, running.dead_letter_message_count),
        names,
        sorted(queue.name for queue in admin.list_queues()),
    )


@step("administration: a queue twice", "SDK ResourceExistsError")
def _(p: Place) -> Any:
    p.admin().create_queue("q")


@step("administration: a queue that is not there", "SDK ResourceNotFoundError")
def _(p: Place) -> Any:
    p.admin().get_queue("missing")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What each step came to. The SDK takes a second to close what it opened, so they run at the same time."""

    def outcome(name: str) -> str:
        function, _, settings = STEPS[name]
        place = Place(**settings)
        try:
            return repr(function(place))
        except (ServiceBusError, ResourceExistsError, ResourceNotFoundError) as error:
            return type(error).__name__
        finally:
            place.server.stop()

    with ThreadPoolExecutor(10) as pool:
        return dict(zip(STEPS, pool.map(outcome, STEPS), strict=True))


@pytest.mark.timeout(180)
def test_what_the_sdk_sees_is_written_down(outcomes, report):
    rows = "".join(f"| {name} | `{outcomes[name]}` | {source} |\n" for name, (_, source, _) in STEPS.items())
    page = (
        "# What the SDK sees of the Service Bus emulator\n\n"
        "azure-servicebus in its ordinary use against `cloudq_servicebus.emulator`; written by\n"
        "`CLOUDQ_GOLDEN=write pytest tests/integration/servicebus/test_sdk.py`, and compared by that test. No namespace was\n"
        "used.\n\n"
        "| Operation | Result | Source |\n|---|---|---|\n" + rows
    )
    if WRITE:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page)
    report(f"Service Bus: {len(STEPS)} operations of the SDK against the emulator")
    assert page == PAGE.read_text()


def test_the_table_says_what_the_documentation_says(outcomes):
    """A page that was written by what it describes shows nothing by itself."""
    wanted = {
        "abandon counts": "[0, 1, 2]",
        "a lock that ran out": "MessageLockLostError",
        "a renewed lock lasts": "{}",
        "schedule and cancel": "([], ['y'])",
        "cancelling what has come": "MessageNotFoundError",
        "a repeated id is dropped in its window": "({'active': 1}, {'active': 2})",
        "an expired message is not delivered": "([], {'dead': 1})",
        "a session that another has": "SessionCannotBeLockedError",
        "no session in time": "OperationTimeoutError",
        "a message that is too large": "MessageSizeExceededError",
        "throttling": "ServiceBusServerBusyError",
        "administration: a queue that is not there": "ResourceNotFoundError",
    }
    assert {name: outcomes[name] for name in wanted} == wanted
