"""Every adapter through every scenario."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cloudq import CloudQ
from cloudq.conformance import SCENARIOS, Skip
from cloudq.conformance import working as working_scenarios
from cloudq.driver import Part, Queue
from cloudq_local.facts import MEMORY
from cloudq_local.memory import MemoryBroker, _brokers, connect
from cloudq_local.sqlite import SQLiteDriver
from support.clocks import JumpingClock

numbers = itertools.count()


class LocalHarness:
    """Driver scenarios on a clock that the test moves; worker scenarios in real time, with leases of a second."""

    lease = 1.0
    tick = 0.2

    def __init__(self, directory, **limits):
        self.clock = JumpingClock()
        self.directory = directory

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        return Queue("main", f"t-{next(numbers)}", part, ordered=ordered, lease=30.0, dedup=dedup)

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
            release_delay=0.3,
            send_count=10,
            receive_count=10,
            settle_count=10,
            linger=0.05,
        ),
    )


@pytest.fixture(params=[SQLite, Memory, Composing], ids=lambda kind: kind.__name__)
def harness(request, tmp_path):
    return request.param(tmp_path)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_conformance(scenario, harness):
    try:
        async with asyncio.timeout(60):
            await scenario.run(harness)
    except Skip as skip:
        pytest.skip(f"declared: {skip}")


def test_every_scenario_is_collected():
    assert len(SCENARIOS) > 35
    assert {scenario.name for scenario in working_scenarios.SCENARIOS} <= {scenario.name for scenario in SCENARIOS}
