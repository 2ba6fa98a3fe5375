"""A function app: loaded by Azure's own Python library, called with what that library makes of a delivery of the emulator.

The runtime itself (the Functions host and its language worker) is not here: `Host` does what its docs say of the trigger, with
the vendor's SDK: complete what returned, abandon what raised. What only the host could show is listed in
docs/howto/functions.md.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager

import pytest
from azure.functions import meta, servicebus
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError

from cloudq import CloudQ
from cloudq.driver import Part
from cloudq.errors import ConfigError
from cloudq_servicebus import functions_app
from support.served import LOG, Tasks, runs
from support.servicebus import emulated, need_proton

need_proton()


class Host:
    """Receives under a lock, calls the function, completes or abandons."""

    def __init__(self, client, function, queue):
        self.client, self.queue = client, queue
        self.function = function.get_user_function()
        #: How many completions failed, because the message was gone.
        self.gone = 0
        self.raised = []

    async def round(self, most=100, wait=1.0):
        """Call for what is there. Returns how many calls it was."""
        async with self.client.get_queue_receiver(self.queue) as receiver:
            found = await receiver.receive_messages(max_message_count=most, max_wait_time=wait)
            answers = await asyncio.gather(*(self._call(message) for message in found))
            for message, error in zip(found, answers, strict=True):
                try:
                    await (receiver.complete_message if error is None else receiver.abandon_message)(message)
                except (MessageLockLostError, MessageAlreadySettled):
                    self.gone += 1
        return len(found)

    async def drain(self):
        while await self.round():
            pass

    async def _call(self, message):
        try:
            await self.function(decoded(message))
        except Exception as error:
            self.raised.append(error)
            return error
        return None


def decoded(message):
    """What the library hands to the function: from the body and the trigger's metadata, as the host sends them."""
    properties = {key.decode(): value.decode() for key, value in (message.application_properties or {}).items()}
    metadata = {
        "MessageId": message.message_id,
        "LockToken": str(message.lock_token),
        "DeliveryCount": (message.delivery_count or 0) + 1,  # .NET counts from 1
        "UserProperties": properties,
        "ApplicationProperties": properties,
        "SequenceNumber": message.sequence_number,
    }
    told = {name: meta.Datum(json.dumps(value), "json") for name, value in metadata.items()}
    body = meta.Datum(b"".join(message.body), "bytes")
    return servicebus.ServiceBusMessageInConverter.decode(body, trigger_metadata=told)


class Served:
    def __init__(self, bus, path, monkeypatch, **queue):
        self.bus, self.log = bus, path / "runs"
        monkeypatch.setenv(LOG, str(self.log))
        queue = {"lease": "60s", "max_attempts": 4, **queue}
        self.app = CloudQ(bus.url, namespace="served", queues={"default": queue}, clock=bus.clock)
        self.tasks = Tasks(self.app)
        self.functions = functions_app(self.app, connection="ServiceBus")

    async def create(self):
        async with self.bus.driver() as driver:
            await driver.create(self.app.addresses("default"))

    @property
    def main(self):
        return self.app.address("default", Part.MAIN)

    def left(self):
        return len(self.bus.held(self.main))

    async def dead(self):
        part = self.app.address("default", Part.DEAD)
        async with self.bus.driver() as driver:
            return [delivery.attributes["cloudq-dead"] for delivery in await driver.peek(part, 100)]


@asynccontextmanager
async def serving(path, monkeypatch, **queue):
    with emulated() as bus:
        served = Served(bus, path, monkeypatch, **queue)
        await served.create()
        async with bus.driver() as driver:
            host = Host(driver.unwrap(ServiceBusClient), served.functions.get_functions()[0], "served-default")
            yield served, host
        served.app.close()


def test_the_bindings_are_those_of_the_queues(tmp_path, monkeypatch):
    app = CloudQ(
        "servicebus://my-namespace", namespace="shop", queues={"mail": {"priorities": ["high", "normal"]}, "default": {}}
    )
    Tasks(app)
    made = functions_app(app, connection="Bus").get_functions()
    found = {each.get_function_name(): json.loads(each.get_function_json()) for each in made}
    assert sorted(found) == ["shop_default", "shop_mail", "shop_mail_high"]
    assert found["shop_mail_high"]["bindings"] == [
        {
            "direction": "IN",
            "type": "serviceBusTrigger",
            "name": "message",
            "connection": "Bus",
            "queueName": "shop-mail-high",
            "cardinality": "ONE",
        }
    ]


async def test_two_hundred_with_failures_and_poison(tmp_path, monkeypatch, report):
    draw = random.Random(9)
    numbers = list(range(200))
    failing = set(draw.sample(numbers, 10))
    poisonous = set(draw.sample(sorted(set(numbers) - failing), 4))
    async with serving(tmp_path, monkeypatch) as (served, host):
        await served.app.aenqueue_many(
            served.tasks.poison.message(number)
            if number in poisonous
            else served.tasks.work.message(number, fails=2 if number in failing else 0)
            for number in numbers
        )
        await host.drain()
        assert host.raised == []  # what is tried again is a copy, what is given up is dead-lettered: nothing is a failed call
        assert {run["number"] for run in runs(served.log)} == set(numbers)
        assert len(runs(served.log)) == 200
        assert served.left() == 10  # the copies, scheduled
        assert host.gone == 4  # the runtime completed what was dead-lettered
        records = await served.dead()
        assert len(records) == 4
        assert all('"kind":"rejected"' in record and "is poison" in record for record in records)
        for attempt, longest in ((2, 60), (3, 180)):
            served.bus.advance(longest / 2 - 15)
            await host.drain()
            assert len(runs(served.log)) == 200 + 10 * (attempt - 2)
            served.bus.advance(longest / 2 + 16)
            await host.drain()
            again = runs(served.log)[-10:]
            assert {run["number"] for run in again} == failing
            assert {run["attempt"] for run in again} == {attempt}
        assert served.left() == 0
        report("azure functions: 200 messages, no failed call")


async def test_an_async_task_runs(tmp_path, monkeypatch):
    async with serving(tmp_path, monkeypatch) as (served, host):
        await served.tasks.awork.aenqueue(1)
        await host.drain()
        assert len(runs(served.log, 1)) == 1
        assert served.left() == 0


async def test_what_cannot_be_dead_lettered_comes_again(tmp_path, monkeypatch):
    """Its lock was lost: the function raises, and nothing is removed."""
    async with serving(tmp_path, monkeypatch) as (served, host):
        await served.tasks.poison.aenqueue(1)
        original = host.function

        async def late(message):
            served.bus.advance(61)
            await original(message)

        host.function = late
        await host.round()
        assert [type(error).__name__ for error in host.raised] == ["AgainError"]
        assert served.left() == 1
        host.function = original
        await host.drain()
        assert len(await served.dead()) == 1
        assert served.left() == 0


async def test_a_copy_that_is_not_confirmed_is_no_reason_to_complete(tmp_path, monkeypatch):
    from cloudq_servicebus.emulator import Fault, Plan

    async with serving(tmp_path, monkeypatch, serverless={"timeout": "3s"}) as (served, host):
        await served.tasks.work.aenqueue(1, fails=1)
        served.bus.server.plan = Plan([Fault("send")])
        await host.round()
        assert [type(error).__name__ for error in host.raised] == ["AgainError"]
        assert served.left() == 1


def test_an_ordered_queue_is_refused():
    app = CloudQ("servicebus://my-namespace", queues={"default": {"ordered": True}})
    Tasks(app)
    with pytest.raises(ConfigError, match="can neither dead-letter nor delay a message of a session"):
        functions_app(app)


def test_another_namespace_than_the_trigger_s_is_refused(monkeypatch):
    monkeypatch.setenv("ServiceBus__fullyQualifiedNamespace", "other-one.servicebus.windows.net")
    app = CloudQ("servicebus://my-namespace")
    Tasks(app)
    with pytest.raises(ConfigError, match=r"reads from other-one.*the application is at my-namespace"):
        functions_app(app)
