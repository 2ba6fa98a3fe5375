"""Every adapter through every scenario."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import boto3
import pytest

from cloudq import CloudQ
from cloudq.clock import SystemClock
from cloudq.conformance import SCENARIOS, Skip
from cloudq.conformance import working as working_scenarios
from cloudq.driver import Part, Queue
from cloudq_local.facts import MEMORY
from cloudq_local.memory import MemoryBroker, _brokers, connect
from cloudq_local.sqlite import SQLiteDriver
from cloudq_pubsub.driver import PubSubDriver
from cloudq_pubsub.emulator import Server as PubSubServer
from cloudq_pubsub.options import Options as PubSubOptions
from cloudq_servicebus.driver import ServiceBusDriver
from cloudq_servicebus.options import read as read_servicebus
from cloudq_sqs import provision
from cloudq_sqs.driver import SQSDriver
from cloudq_sqs.emulator import Server
from cloudq_sqs.options import Options
from conftest import missing
from support.clocks import JumpingClock
from support.foreign import LOCALSTACK, google_pubsub, google_pubsub_jar, localstack, moto
from support.rights import allowed
from support.servicebus import Emulated as ServiceBusEmulated
from support.servicebus import need_proton

numbers = itertools.count()


class LocalHarness:
    """Driver scenarios on a clock that the test moves; worker scenarios in real time, with leases of a second."""

    lease = 1.0
    tick = 0.2

    def __init__(self, directory, **limits):
        self.clock = JumpingClock()
        self.directory = directory

    #: Of the queues for driver scenarios.
    seconds = 30.0

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        return Queue("main", f"t-{next(numbers)}", part, ordered=ordered, lease=self.seconds, dedup=dedup)

    async def pass_time(self, seconds):
        self.clock.advance(seconds)

    def app(self, **queues):
        settings = {name: {"lease": self.lease, **settings} for name, settings in queues.items()}
        return CloudQ(self.url(), queues=settings, draw=random.Random(1))


class SQLite(LocalHarness):
    @asynccontextmanager
    async def open(self):
        driver = SQLiteDriver(self.directory / "queue.db", self.clock)
        yield driver
        await driver.aclose()

    def url(self):
        return f"sqlite:///{self.directory}/app{next(numbers)}.db"


class Memory(LocalHarness):
    facts = MEMORY

    def __init__(self, directory):
        super().__init__(directory)
        self.broker = MemoryBroker(self.clock, self.facts)

    @asynccontextmanager
    async def open(self):
        driver = connect(self.broker)
        yield driver
        await driver.aclose()

    def url(self):
        name = f"conformance-{next(numbers)}"
        _brokers[name] = MemoryBroker(CloudQ().clock, self.facts)
        return f"memory://{name}"


class Composing(Memory):
    """Memory with the limits of a provider that has next to nothing: what the core composes is composed here."""

    facts = replace(
        MEMORY,
        peeks=False,
        limits=replace(
            MEMORY.limits,
            provider="memory that can do little",
            native_dead_letter=False,
            dedup="none",
            counts_crashes=False,
            release_uncounted=False,
            send_delay=0.0,
            cancels=False,
            release_delay=0.3,
            send_count=10,
            receive_count=10,
            settle_count=10,
            linger=0.05,
        ),
    )


class SQS:
    """The SDK over a socket: the shipped emulator, on a clock that the test moves."""

    lease = 3.0
    tick = 1.0

    def __init__(self, directory):
        self.clock = JumpingClock()
        self.server = Server(clock=self.clock).start()
        self.endpoint = self.server.endpoint
        self.options = Options(region="us-east-1", endpoint=self.endpoint, keys=("test", "test"))

    def close(self):
        self.server.stop()

    @asynccontextmanager
    async def open(self):
        driver = SQSDriver(self.options, self.clock)
        yield driver
        await driver.aclose()

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        queue = Queue("main", f"t-{next(numbers)}", part, ordered=ordered, lease=30.0, dedup=dedup)
        async with self.open() as driver:
            await driver.create([queue])
        return queue

    async def pass_time(self, seconds):
        self.clock.advance(seconds)
        self.server.look()

    def app(self, **queues):
        settings = {name: {"lease": self.lease, **settings} for name, settings in queues.items()}
        app = CloudQ(
            f"sqs://us-east-1?endpoint={self.endpoint}",
            namespace=f"n{next(numbers)}",
            queues=settings,
            draw=random.Random(1),
        )
        client = boto3.client("sqs", endpoint_url=self.endpoint)
        for name in queues:
            provision.create(client, self.options, app.addresses(name))
        return app


class PubSub(LocalHarness):
    """The SDK over a socket: the shipped emulator, on a clock that the test moves."""

    lease = 10.0  # the shortest there is
    tick = 1.0

    def __init__(self, directory):
        super().__init__(directory)
        self.server = PubSubServer(clock=self.clock).start()
        self.endpoint = self.server.endpoint

    def close(self):
        self.server.stop()

    def url(self):
        return f"pubsub://test-project?endpoint=http://{self.endpoint}"

    @asynccontextmanager
    async def open(self):
        driver = PubSubDriver(PubSubOptions(project="test-project", endpoint=self.endpoint, plain=True), self.clock)
        yield driver
        await driver.aclose()

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        queue = await super().queue(part, ordered=ordered, dedup=dedup)
        dead = replace(queue, physical=f"{queue.physical}-dlq", part=Part.DEAD, ordered=False)
        async with self.open() as driver:
            await driver.create([queue, dead])  # attempts are counted with a dead-letter policy alone
        return queue

    async def pass_time(self, seconds):
        await super().pass_time(seconds)
        self.server.look()

    def app(self, **queues):
        settings = {name: {"lease": self.lease, **settings} for name, settings in queues.items()}
        app = CloudQ(self.url(), namespace=f"n{next(numbers)}", queues=settings, draw=random.Random(1))

        async def create():
            async with self.open() as driver:
                for name in queues:
                    await driver.create(app.addresses(name))

        with ThreadPoolExecutor() as pool:
            pool.submit(asyncio.run, create()).result()
        return app


class ServiceBus(LocalHarness):
    """The SDK over a socket: the shipped emulator, on a clock that the test moves."""

    lease = 5.0  # the shortest there is
    tick = 1.0

    def __init__(self, directory):
        super().__init__(directory)
        need_proton()
        self.emulated = ServiceBusEmulated(clock=self.clock)

    def close(self):
        self.emulated.server.stop()

    def open(self):
        return self.emulated.driver()

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        if part is Part.DEAD:  # it is built into the one before
            return self.emulated.dead(self.latest)
        self.latest = await super().queue(part, ordered=ordered, dedup=dedup)
        async with self.open() as driver:
            await driver.create([self.latest])
        return self.latest

    async def pass_time(self, seconds):
        await super().pass_time(seconds)
        self.emulated.server.look()

    def app(self, **queues):
        settings = {name: {"lease": self.lease, **settings} for name, settings in queues.items()}
        app = self.emulated.app(clock=False, **settings)
        with ThreadPoolExecutor() as pool:
            pool.submit(asyncio.run, self.emulated.create()).result()
        return app


@pytest.fixture(params=[SQLite, Memory, Composing, SQS, PubSub, ServiceBus], ids=lambda kind: kind.__name__)
def harness(request, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    made = request.param(tmp_path)
    yield made
    if isinstance(made, (SQS, PubSub, ServiceBus)):
        made.close()
    # Whatever a scenario asked for, a role of the Terraform module allows it.
    if isinstance(made, SQS):
        assert {action.removesuffix("Batch") for action in made.server.requests.by_action} <= allowed("sqs")
    elif isinstance(made, PubSub):
        assert set(made.server.requests.by_method) <= allowed("pubsub")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_conformance(scenario, harness):
    try:
        async with asyncio.timeout(60):
            await scenario.run(harness)
    except Skip as skip:
        pytest.skip(f"declared: {skip}")


#: Scenarios under way at a time: moto serves some tens of messages a second.
AT_ONCE = 6


class OtherServer:
    """A server of somebody else: what it gets wrong, and where that is shown instead."""

    def __init__(self, server, harness, wrong, there=lambda: True, lacking="", installable=True):
        self.server, self.harness, self.wrong = server, harness, wrong
        self.there, self.lacking, self.installable = there, lacking, installable


class OtherSQS(SQS):
    """The same SDK, in real time."""

    def __init__(self, endpoint):
        self.clock = SystemClock()
        self.endpoint = endpoint
        self.options = Options(region="us-east-1", endpoint=endpoint, keys=("test", "test"))

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        queue = Queue("main", f"t-{next(numbers)}", part, ordered=ordered, lease=self.lease, dedup=dedup)
        async with self.open() as driver:
            await driver.create([queue])
        return queue

    async def pass_time(self, seconds):
        await asyncio.sleep(seconds)  # the server has no other clock


class OtherPubSub(PubSub):
    """The same SDK, in real time."""

    def __init__(self, endpoint):
        self.clock = SystemClock()
        self.endpoint = endpoint
        self.seconds = self.lease

    async def pass_time(self, seconds):
        await asyncio.sleep(seconds)  # as above


class OtherServiceBus(ServiceBus):
    """The same SDK, in real time: the official emulator, or a namespace."""

    tick = 3.0  # a look at an ordered queue takes up to two seconds

    def __init__(self, endpoint):
        self.clock = SystemClock()
        self.seconds = self.lease
        self.run = os.urandom(3).hex()  # a namespace keeps the queues of earlier runs

    @asynccontextmanager
    async def open(self):
        driver = ServiceBusDriver(read_servicebus("", {"prefix": f"c{self.run}-"}), self.clock)
        yield driver
        await driver.aclose()

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        if part is Part.DEAD:
            return ServiceBusEmulated.dead(self.latest)
        self.latest = await LocalHarness.queue(self, part, ordered=ordered, dedup=dedup)
        async with self.open() as driver:
            await driver.create([self.latest])
        return self.latest

    async def pass_time(self, seconds):
        await asyncio.sleep(seconds)  # the server has no other clock

    def app(self, **queues):
        settings = {name: {"lease": self.lease, **settings} for name, settings in queues.items()}
        app = CloudQ(
            f"servicebus://?prefix=c{self.run}-", namespace=f"n{next(numbers)}", queues=settings, draw=random.Random(1)
        )

        async def create():
            async with self.open() as driver:
                for name in queues:
                    await driver.create(app.addresses(name))

        with ThreadPoolExecutor() as pool:
            pool.submit(asyncio.run, create()).result()
        return app


OTHERS = {
    "azure": OtherServer(
        nullcontext,
        OtherServiceBus,
        {},
        lambda: os.environ.get("SERVICEBUS_CONNECTION_STRING"),
        "SERVICEBUS_CONNECTION_STRING names Microsoft's emulator or a namespace",
        installable=False,
    ),
    "moto": OtherServer(
        moto, OtherSQS, {"a_repeated_id_is_dropped_in_its_window": "moto forgets an id with its message; shown on the others"}
    ),
    "localstack": OtherServer(localstack, OtherSQS, {}, LOCALSTACK.exists, "an environment of its own: make localstack"),
    "google-pubsub": OtherServer(
        google_pubsub,
        OtherPubSub,
        {},
        lambda: google_pubsub_jar() or os.environ.get("PUBSUB_EMULATOR_HOST"),
        "Google's emulator comes with the Google Cloud CLI and needs Java; PUBSUB_EMULATOR_HOST names a running one",
        installable=False,
    ),
}


@pytest.fixture(scope="session")
def outcomes():
    """What each scenario came to on a server, by name: all of them at once, because there they wait in real time."""
    known = {}

    async def one(scenario, harness, few):
        async with few:
            try:
                async with asyncio.timeout(90):
                    await scenario.run(harness)
            except Skip as skip:
                return f"declared: {skip}"
            except BaseException as error:
                return error
            return None

    async def every(other, endpoint):
        few = asyncio.Semaphore(AT_ONCE)
        scenarios = [scenario for scenario in SCENARIOS if scenario.name not in other.wrong]
        found = await asyncio.gather(*(one(scenario, other.harness(endpoint), few) for scenario in scenarios))
        return dict(zip([scenario.name for scenario in scenarios], found, strict=True))

    def run(name):
        if name not in known:
            with pytest.MonkeyPatch.context() as environment, OTHERS[name].server() as endpoint:
                for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                    environment.setenv(variable, "test")
                environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
                known[name] = asyncio.run(every(OTHERS[name], endpoint))
        return known[name]

    return run


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_conformance_on_servers_of_others(scenario, name, outcomes):
    other = OTHERS[name]
    if not other.there():
        missing(name, other.lacking, installable=other.installable)
    if scenario.name in other.wrong:
        pytest.skip(f"declared: {other.wrong[scenario.name]}")
    outcome = outcomes(name)[scenario.name]
    if isinstance(outcome, str):
        pytest.skip(outcome)
    if outcome is not None:
        raise outcome


def test_every_scenario_is_collected():
    assert len(SCENARIOS) > 35
    assert {scenario.name for scenario in working_scenarios.SCENARIOS} <= {scenario.name for scenario in SCENARIOS}
