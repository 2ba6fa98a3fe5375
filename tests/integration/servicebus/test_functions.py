"""A function app: loaded by Azure's own Python library, called with what that library makes of a delivery of the emulator.

The runtime itself (the Functions host and its language worker) is not here: the emulator's `Host` does what its docs say of the
trigger. What only the host could show is listed in docs/howto/functions.md.
"""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager

import pytest

from cloudq import CloudQ
from cloudq.driver import Part
from cloudq.errors import ConfigError
from cloudq_servicebus import functions_app
from cloudq_servicebus.emulator.functions import Host
from support.served import LOG, Tasks, runs
from support.servicebus import emulated, need_proton

need_proton()


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
        async with Host(served.functions, bus.port) as host:
            yield served, host
        served.app.close()


async def drain(host):
    while await host.round():
        pass


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
        await drain(host)
        assert host.errors == []  # what is tried again is a copy, what is given up is dead-lettered: nothing is a failed call
        assert {run["number"] for run in runs(served.log)} == set(numbers)
        assert len(runs(served.log)) == 200
        assert served.left() == 10  # the copies, scheduled
        assert host.gone == 4  # the runtime completed what was dead-lettered
        records = await served.dead()
        assert len(records) == 4
        assert all('"kind":"rejected"' in record and "is poison" in record for record in records)
        for attempt, longest in ((2, 60), (3, 180)):
            served.bus.advance(longest / 2 - 15)
            await drain(host)
            assert len(runs(served.log)) == 200 + 10 * (attempt - 2)
            served.bus.advance(longest / 2 + 16)
            await drain(host)
            again = runs(served.log)[-10:]
            assert {run["number"] for run in again} == failing
            assert {run["attempt"] for run in again} == {attempt}
        assert served.left() == 0
        report("azure functions: 200 messages, no failed call")


async def test_an_async_task_runs(tmp_path, monkeypatch):
    async with serving(tmp_path, monkeypatch) as (served, host):
        await served.tasks.awork.aenqueue(1)
        await drain(host)
        assert len(runs(served.log, 1)) == 1
        assert served.left() == 0


async def test_what_cannot_be_dead_lettered_comes_again(tmp_path, monkeypatch):
    """Its lock was lost: the function raises, and nothing is removed."""
    async with serving(tmp_path, monkeypatch) as (served, host):
        await served.tasks.poison.aenqueue(1)
        original = host.functions["served-default"]

        async def late(message):
            served.bus.advance(61)
            await original(message)

        host.functions["served-default"] = late
        await host.round()
        assert [type(error).__name__ for error in host.errors] == ["AgainError"]
        assert served.left() == 1
        host.functions["served-default"] = original
        await drain(host)
        assert len(await served.dead()) == 1
        assert served.left() == 0


async def test_an_end_between_the_copy_and_the_completion_makes_no_second_copy(tmp_path, monkeypatch):
    """The function has returned, and its host is gone before it completes: the message comes again, and so does its copy."""
    async with serving(tmp_path, monkeypatch) as (served, host):
        await served.tasks.work.aenqueue(1, fails=2)
        original = host.functions["served-default"]

        async def cut_off(message):
            await original(message)
            raise ConnectionError("the host is gone")

        host.functions["served-default"] = cut_off
        await host.round()
        assert served.left() == 2  # itself, and its copy
        host.functions["served-default"] = original
        await drain(host)
        assert len(runs(served.log)) == 2
        assert served.left() == 1  # one copy: of the second run, it had the same id
        served.bus.advance(200)
        await drain(host)
        served.bus.advance(600)
        await drain(host)
        assert served.left() == 0
        assert await served.dead() == []


async def test_a_copy_that_is_not_confirmed_is_no_reason_to_complete(tmp_path, monkeypatch):
    from cloudq_servicebus.emulator import Fault, Plan

    async with serving(tmp_path, monkeypatch, serverless={"timeout": "3s"}) as (served, host):
        await served.tasks.work.aenqueue(1, fails=1)
        served.bus.server.plan = Plan([Fault("send")])
        await host.round()
        assert [type(error).__name__ for error in host.errors] == ["AgainError"]
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
