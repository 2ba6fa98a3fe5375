"""Promises of the engine that need an exact moment: on the virtual loop, with one worker or two."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from types import SimpleNamespace

import msgspec

from cloudq import NO_RETRY, Backoff, CloudQ, Context
from cloudq.driver import Outgoing, Part, Settled
from cloudq.envelope import VERSION, Envelope, encode
from cloudq.errors import StuckWorker, Unavailable
from cloudq.events import Events, Name
from cloudq.execution import Execution
from cloudq.sending import Sender
from cloudq.worker.engine import Engine, _Buffer
from cloudq.worker.held import Station
from cloudq_local.facts import MEMORY
from cloudq_local.memory import MemoryBroker, MemoryDriver
from support import virtual
from support.faults import FaultyDriver, Plan
from support.simulation import LoopRunner

LEASE = 10.0
LIMITS = MEMORY.limits


class World:
    """A broker, an application, and workers on demand."""

    def __init__(self, clock, limits=LIMITS, **queue):
        self.clock = clock
        self.broker = MemoryBroker(clock, replace(MEMORY, limits=limits))
        self.app = CloudQ("memory://unused", queues={"main": {"lease": LEASE, **queue}}, clock=clock, draw=random.Random(1))
        self.sent = 0

    def send(self, task, delay=0.0, part=Part.MAIN, priority="normal", key=None, **arguments):
        self.sent += 1
        envelope = Envelope(
            cloudq=VERSION,
            id=f"t{self.sent}",
            type=task.name,
            time=self.clock.time(),
            data=msgspec.Raw(task.signature.encode((), arguments)),
            ordering_key=key,
        )
        message = Outgoing(encode(envelope), envelope.id, delay, key)
        self.broker.send(self.app.address("main", part, priority), [message])
        return envelope.id

    def worker(self, driver=None, **options):
        events, log = Events(), []
        events.add(log.append)
        driver = driver or MemoryDriver(self.broker)
        sender = Sender(driver, self.clock, asyncio.get_running_loop().create_task, random.Random(1))
        addresses = self.app.addresses("main")
        delay, dead = (next(q for q in addresses if q.part is part) for part in (Part.DELAY, Part.DEAD))
        stations = [Station(q, dead, delay, driver, sender) for q in addresses if q.part is Part.MAIN]
        execution = Execution(self.app.declared, self.clock, events, random.Random(1))
        engine = Engine(
            stations,
            execution,
            LoopRunner(execution),
            clock=self.clock,
            events=events,
            draw=random.Random(1),
            **{"concurrency": 4, **options},
        )
        return engine, asyncio.get_running_loop().create_task(engine.run()), log

    def stats(self, part=Part.MAIN):
        return self.broker.stats(self.app.address("main", part))


def names(log):
    return [event.name for event in log]


def test_a_result_that_comes_after_the_lease_is_reported_and_not_acked():
    """As after SIGSTOP and SIGCONT: the process had no chance to renew, and its first act is to finish the task."""

    async def scenario(clock):
        world = World(clock)

        class Stopped(MemoryDriver):
            async def extend(self, queue, batch, lease):
                await asyncio.get_running_loop().create_future()  # a stopped process renews nothing

        @world.app.task(name="slow", queue="main")
        async def slow(ctx: Context) -> None:
            await asyncio.sleep(LEASE * 1.5 if ctx.attempt == 1 else LEASE * 0.4)

        world.send(slow)
        first, running_first, log = world.worker(Stopped(world.broker), concurrency=1)  # it does not take it back itself
        await asyncio.sleep(LEASE + 0.1)
        second, running_second, other = world.worker()
        await asyncio.sleep(LEASE)
        for engine, running in ((first, running_first), (second, running_second)):
            engine.drain()
            await running
        assert Name.LEASE_LOST in names(log)
        assert Name.SUCCEEDED not in names(log)
        assert Name.ACKED not in names(log)
        assert names(other).count(Name.ACKED) == 1

    virtual.run(scenario)


def test_a_late_answer_of_the_provider_is_not_believed():
    """A provider that says OK to a late ack does not make it one: the lease is judged by the worker's own clock."""

    async def scenario(clock):
        world = World(clock)
        acked = []

        class Gullible(MemoryDriver):
            async def extend(self, queue, batch, lease):
                return [Settled.UNKNOWN] * len(batch)

            async def ack(self, queue, batch):
                acked.extend(batch)
                return [Settled.OK] * len(batch)

        @world.app.task(name="slow", queue="main")
        async def slow() -> None:
            await asyncio.sleep(LEASE * 1.2)

        world.send(slow)
        engine, running, log = world.worker(Gullible(world.broker))
        await asyncio.sleep(LEASE * 1.5)
        engine.drain()
        await running
        assert not acked
        assert Name.RENEW_FAILED in names(log)
        assert Name.LEASE_LOST in names(log)

    virtual.run(scenario)


def test_a_lease_is_renewed_at_half_and_tried_again_when_that_fails():
    async def scenario(clock):
        world = World(clock)
        calls = []

        class Flaky(MemoryDriver):
            async def extend(self, queue, batch, lease):
                calls.append(clock.monotonic())
                if len(calls) in (1, 2):
                    raise Unavailable
                return await super().extend(queue, batch, lease)

        @world.app.task(name="slow", queue="main")
        async def slow() -> None:
            await asyncio.sleep(LEASE * 2)

        world.send(slow)
        engine, running, log = world.worker(Flaky(world.broker))
        await asyncio.sleep(LEASE * 2.5)
        engine.drain()
        await running
        assert calls[0] == LEASE / 2
        assert LEASE / 2 < calls[1] < calls[2] < LEASE * 0.75
        assert names(log).count(Name.RENEW_FAILED) == 2
        assert Name.ACKED in names(log)
        # A renewal every half of a lease, and two that failed.
        assert len(calls) <= 2 + 4

    virtual.run(scenario)


def test_nothing_starts_after_a_drain_and_what_waits_goes_back_uncounted():
    async def scenario(clock):
        world = World(clock)
        started = []

        @world.app.task(name="slow", queue="main")
        async def slow(ctx: Context) -> None:
            started.append((clock.monotonic(), ctx.attempt))
            await asyncio.sleep(1.0)

        for _ in range(50):
            world.send(slow)
        engine, running, log = world.worker(grace=5.0)
        await asyncio.sleep(2.5)
        engine.drain()
        drained = clock.monotonic()
        await running
        assert all(at <= drained for at, _ in started)
        stats = world.stats()
        assert (stats.in_flight, stats.delayed) == (0, 0)
        assert stats.ready == 50 - names(log).count(Name.ACKED)
        deliveries = [delivery.deliveries for delivery in world.broker.peek(world.app.address("main", Part.MAIN), 100)]
        assert set(deliveries) == {0}

    virtual.run(scenario)


def test_a_task_past_its_timeout_is_cancelled_and_counts_as_failed():
    async def scenario(clock):
        world = World(clock)

        @world.app.task(name="stuck", queue="main", timeout=30, retry=NO_RETRY)
        async def stuck() -> None:
            await asyncio.sleep(1e6)

        world.send(stuck)
        engine, running, log = world.worker()
        await asyncio.sleep(31)
        engine.drain()
        await running
        assert Name.DEAD_LETTERED in names(log)
        assert world.stats(Part.DEAD).ready == 1
        assert clock.monotonic() < 35

    virtual.run(scenario)


def test_an_unavailable_dead_part_keeps_the_original():
    """The copy is tried again while the lease is renewed; the original is acked only after the copy is there."""

    async def scenario(clock):
        world = World(clock, replace(LIMITS, native_dead_letter=False))

        class NoDeadPart(MemoryDriver):
            async def send(self, queue, batch):
                if queue.part is Part.DEAD and clock.monotonic() < 60:
                    raise Unavailable
                return await super().send(queue, batch)

        @world.app.task(name="broken", queue="main", retry=Backoff(max_attempts=1))
        async def broken() -> None:
            raise RuntimeError

        for _ in range(5):
            world.send(broken)
        engine, running, _log = world.worker(NoDeadPart(world.broker))
        await asyncio.sleep(59)
        assert world.stats(Part.DEAD).ready == 0
        assert sum(filter(None, (world.stats().ready, world.stats().in_flight, world.stats().delayed))) == 5
        await asyncio.sleep(30)
        engine.drain()
        await running
        assert world.stats(Part.DEAD).ready == 5
        assert world.stats() == replace(world.stats(), ready=0, in_flight=0, delayed=0)

    virtual.run(scenario)


def test_one_idle_queue_has_one_standing_poll():
    async def scenario(clock):
        world = World(clock)
        polls = []

        class Counting(MemoryDriver):
            async def receive(self, queue, max_messages, wait):
                polls.append((clock.monotonic(), queue.physical))
                return await super().receive(queue, max_messages, wait)

        @world.app.task(name="quick", queue="main")
        async def quick() -> None: ...

        engine, running, _ = world.worker(Counting(world.broker), grace=30.0, concurrency=64)
        await asyncio.sleep(600)
        engine.drain()
        await running
        # 20 s each: three a minute, ten minutes long, and the first.
        assert len(polls) <= 31

    virtual.run(scenario)


def test_long_tasks_are_not_hoarded():
    """With run times far over a second, no more is received than can start: the rest is there for other workers."""

    async def scenario(clock):
        world = World(clock)

        @world.app.task(name="slow", queue="main")
        async def slow() -> None:
            await asyncio.sleep(30)

        for _ in range(40):
            world.send(slow)
        engine, running, _ = world.worker(concurrency=4)
        await asyncio.sleep(75)
        assert world.stats().in_flight == 4
        engine.drain()
        await running

    virtual.run(scenario)


def test_a_broken_engine_ends_its_worker():
    """Never alive and deaf: an error inside is raised out of `run`, not logged and survived."""

    async def scenario(clock):
        world = World(clock)

        class Broken(MemoryDriver):
            async def receive(self, queue, max_messages, wait):
                raise ZeroDivisionError("an adapter's mistake")

        @world.app.task(name="quick", queue="main")
        async def quick() -> None: ...

        _, running, _ = world.worker(Broken(world.broker))
        done, _ = await asyncio.wait([running], timeout=10)
        assert done
        assert isinstance(running.exception(), ZeroDivisionError)

    virtual.run(scenario)


def test_a_burst_ends_when_the_queues_are_empty():
    async def scenario(clock):
        world = World(clock)
        ran = []

        @world.app.task(name="chain", queue="main")
        async def chain(left: int) -> None:
            ran.append(left)
            if left:
                world.send(chain, left=left - 1)

        world.send(chain, left=5)
        _, running, _ = world.worker(burst=True)
        async with asyncio.timeout(60):
            await running
        assert ran == [5, 4, 3, 2, 1, 0]

    virtual.run(scenario)


def test_a_burst_does_not_take_an_unreachable_provider_for_an_empty_queue():
    async def scenario(clock):
        world = World(clock)

        class Down(MemoryDriver):
            async def receive(self, queue, max_messages, wait):
                if clock.monotonic() < 5:
                    raise Unavailable
                return await super().receive(queue, max_messages, wait)

        ran = []

        @world.app.task(name="quick", queue="main")
        async def quick() -> None:
            ran.append(clock.monotonic())

        world.send(quick)
        _, running, log = world.worker(Down(world.broker), burst=True)
        async with asyncio.timeout(60):
            await running
        assert len(ran) == 1
        assert Name.RECEIVE_FAILED in names(log)

    virtual.run(scenario)


def test_a_delay_beyond_the_providers_goes_through_the_pump_and_runs_once():
    async def scenario(clock):
        limits = replace(LIMITS, send_delay=900.0, release_delay=600.0)
        world = World(clock, limits)
        ran = []

        @world.app.task(name="later", queue="main")
        async def later() -> None:
            ran.append(clock.time())

        due = clock.time() + 20 * 24 * 3600.0
        envelope = Envelope(
            cloudq=VERSION, id="t1", type="later", time=clock.time(), data=msgspec.Raw(later.signature.encode((), {})), due=due
        )
        world.broker.send(world.app.address("main", Part.DELAY), [Outgoing(encode(envelope), "t1", 900.0)])
        engine, running, _ = world.worker()
        await asyncio.sleep(20 * 24 * 3600.0 + 60)
        engine.drain()
        await running
        assert len(ran) == 1
        assert 0 <= ran[0] - due < 5

    virtual.run(scenario)


def test_a_message_that_kills_its_process_takes_no_innocent_with_it():
    """Company of a killer counts crashes too; on its last chance nobody is in hand beside another of the kind."""

    async def scenario(clock):
        world = World(clock)
        ran, deaths = [], []

        @world.app.task(name="killer", queue="main")
        async def killer() -> None:
            deaths.append(clock.monotonic())
            driver.cut = True  # what SIGKILL does: from here on, nothing that this process does has an effect
            await asyncio.sleep(1e6)

        @world.app.task(name="good", queue="main")
        async def good(number: int) -> None:
            await asyncio.sleep(0.01)
            ran.append(number)

        world.send(killer)
        for number in range(6):
            world.send(good, number=number)
        while clock.monotonic() < 200:
            driver = FaultyDriver(MemoryDriver(world.broker), Plan(on=False), random.Random(1))
            _, running, _ = world.worker(driver, concurrency=8)
            died = len(deaths)
            for _ in range(40):
                await asyncio.sleep(0.5)
                if len(deaths) > died:
                    break
            driver.cut = True
            running.cancel()
        assert len(deaths) == 3
        assert sorted(set(ran)) == list(range(6))
        assert world.stats(Part.DEAD).ready == 1
        assert world.stats() == replace(world.stats(), ready=0, in_flight=0, delayed=0)

    virtual.run(scenario)


def test_an_ack_without_an_answer_holds_up_no_other():
    """One settlement that hangs is repeated, and the others' go on beside it: nobody's lease is lost."""

    async def scenario(clock):
        world = World(clock)
        hung = []

        class Hangs(MemoryDriver):
            async def ack(self, queue, batch):
                if not hung:
                    hung.append(batch)
                    await asyncio.get_running_loop().create_future()
                return await super().ack(queue, batch)

        @world.app.task(name="quick", queue="main")
        async def quick(number: int) -> None:
            await asyncio.sleep(number * 0.7)

        for number in range(12):
            world.send(quick, number=number)
        engine, running, log = world.worker(Hangs(world.broker))
        await asyncio.sleep(60)
        engine.drain()
        await running
        assert names(log).count(Name.STARTED) == 12
        assert names(log).count(Name.ACKED) == 12
        assert Name.LEASE_LOST not in names(log)

    virtual.run(scenario)


def test_a_receive_that_never_answers_is_broken_off():
    async def scenario(clock):
        world = World(clock)
        calls = []

        class Silent(MemoryDriver):
            async def receive(self, queue, max_messages, wait):
                calls.append(clock.monotonic())
                if len(calls) == 1:
                    await asyncio.get_running_loop().create_future()
                return await super().receive(queue, max_messages, wait)

        ran = []

        @world.app.task(name="quick", queue="main")
        async def quick() -> None:
            ran.append(clock.monotonic())

        engine, running, log = world.worker(Silent(world.broker))
        await asyncio.sleep(1)
        world.send(quick)
        await asyncio.sleep(120)
        engine.drain()
        await running
        assert len(ran) == 1
        assert Name.RECEIVE_FAILED in names(log)

    virtual.run(scenario)


def test_a_hanging_renewal_of_one_lease_does_not_keep_others_from_theirs():
    async def scenario(clock):
        world = World(clock)

        class Hangs(MemoryDriver):
            async def extend(self, queue, batch, lease):
                if any(delivery.message_id == "t1" for delivery in batch):
                    await asyncio.get_running_loop().create_future()
                return await super().extend(queue, batch, lease)

        @world.app.task(name="slow", queue="main")
        async def slow() -> None:
            await asyncio.sleep(LEASE * 3)

        world.send(slow)
        _, running, log = world.worker(Hangs(world.broker), concurrency=2)
        await asyncio.sleep(3)
        world.send(slow)
        await asyncio.sleep(LEASE * 3.5)
        lost = [event.task_id for event in log if event.name is Name.LEASE_LOST]
        assert "t2" not in lost
        assert "t1" in lost
        running.cancel()

    virtual.run(scenario)


def test_a_shutdown_is_bounded_also_when_nothing_is_confirmed():
    async def scenario(clock):
        world = World(clock, lease=3600)

        class NoAck(MemoryDriver):
            async def ack(self, queue, batch):
                raise Unavailable

        @world.app.task(name="quick", queue="main")
        async def quick() -> None: ...

        world.send(quick)
        engine, running, _ = world.worker(NoAck(world.broker), grace=5.0)
        await asyncio.sleep(3)
        engine.drain()
        began = clock.monotonic()
        await running
        assert clock.monotonic() - began <= 16

    virtual.run(scenario)


def test_a_worker_whose_slots_are_all_held_by_lost_runs_ends():
    async def scenario(clock):
        world = World(clock)

        @world.app.task(name="endless", queue="main", timeout=5)
        async def endless() -> None:
            while not over:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1e6)  # as a `def` that loops: it cannot be stopped

        over = []
        world.send(endless)
        _, running, log = world.worker(concurrency=1)
        done, _ = await asyncio.wait([running], timeout=100)
        over.append(True)
        assert done
        assert isinstance(running.exception(), StuckWorker)
        assert Name.TIMED_OUT in names(log)

    virtual.run(scenario)


def test_an_unknown_task_is_not_offered_for_ever_with_an_ordering_key_either():
    async def scenario(clock):
        world = World(clock, ordered=True)

        @world.app.task(name="known", queue="main")
        async def known() -> None: ...

        class Later:
            name = "later"
            signature = known.signature

        world.send(Later, key="k")
        world.send(known, key="k")
        engine, running, log = world.worker()
        await asyncio.sleep(3 * 3600)
        engine.drain()
        await running
        assert world.stats(Part.DEAD).ready == 1
        assert names(log).count(Name.ACKED) == 1
        assert names(log).count(Name.RECEIVED) < 60

    virtual.run(scenario)


def test_a_retry_by_copies_ends_with_the_age_of_the_task():
    async def scenario(clock):
        world = World(clock, replace(LIMITS, release_delay=0.0))

        @world.app.task(name="broken", queue="main", retry=Backoff(max_attempts=1000, first="30m", cap="1h", max_age="3h"))
        async def broken() -> None:
            raise RuntimeError

        world.send(broken)
        engine, running, _ = world.worker()
        await asyncio.sleep(6 * 3600)
        engine.drain()
        await running
        assert world.stats(Part.DEAD).ready == 1

    virtual.run(scenario)


def test_a_task_that_is_given_back_at_the_end_of_the_grace_is_told():
    async def scenario(clock):
        world = World(clock)
        told = []

        @world.app.task(name="stubborn", queue="main")
        async def stubborn(ctx: Context) -> None:
            for _ in range(100):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)  # as a `def`: it cannot be stopped
                told.append((clock.monotonic(), ctx.lease_lost))

        world.send(stubborn)
        engine, running, log = world.worker(grace=3.0)
        await asyncio.sleep(2)
        engine.drain()
        await running
        ended = clock.monotonic()
        await asyncio.sleep(5)
        assert Name.INTERRUPTED in names(log)
        assert all(lost == (at > ended) for at, lost in told)
        assert world.stats().ready == 1

    virtual.run(scenario)


def test_a_settlement_that_is_never_answered_is_given_up_to_its_lease():
    """Through an outage of seconds it is repeated, its lease renewed; after five leases the message is let go."""

    async def scenario(clock):
        world = World(clock)
        tries = []

        class NoAck(MemoryDriver):
            async def ack(self, queue, batch):
                tries.append(clock.monotonic())
                raise Unavailable

        @world.app.task(name="quick", queue="main")
        async def quick() -> None: ...

        world.send(quick)
        _, running, log = world.worker(NoAck(world.broker), concurrency=1)
        await asyncio.sleep(LEASE * 4)
        assert names(log).count(Name.STARTED) == 1
        await asyncio.sleep(LEASE * 4)
        assert Name.SETTLE_UNKNOWN in names(log)
        assert Name.LEASE_LOST in names(log)
        assert names(log).count(Name.STARTED) == 2
        running.cancel()

    virtual.run(scenario)


def test_no_more_than_max_concurrency_run_at_once_and_the_slots_are_for_others():
    async def scenario(clock):
        world = World(clock, priorities=["normal", "low"])
        now, most, others = 0, 0, []

        @world.app.task(name="capped", queue="main", max_concurrency=2)
        async def capped() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(LEASE * 1.5)
            now -= 1

        @world.app.task(name="other", queue="main")
        async def other() -> None:
            others.append(clock.monotonic())

        for _ in range(9):
            world.send(capped)
        engine, running, log = world.worker(concurrency=6)
        await asyncio.sleep(1)
        for _ in range(5):
            world.send(other, priority="low")
        await asyncio.sleep(1)
        assert len(others) == 5, "another queue waits behind the capped tasks"
        await asyncio.sleep(LEASE * 1.5 * 5)
        engine.drain()
        await running
        assert most == 2
        assert names(log).count(Name.ACKED) == 14
        assert names(log).count(Name.RECEIVED) == 14, "a capped task was given back and received again"
        assert Name.LEASE_LOST not in names(log)

    virtual.run(scenario)


def test_what_waits_for_its_cap_goes_back_unrun_at_the_end():
    async def scenario(clock):
        world = World(clock)

        @world.app.task(name="capped", queue="main", max_concurrency=1)
        async def capped() -> None:
            await asyncio.sleep(1)

        for _ in range(4):
            world.send(capped)
        engine, running, log = world.worker()
        await asyncio.sleep(0.5)
        engine.drain()
        await running
        assert names(log).count(Name.STARTED) == 1
        assert (world.stats().ready, world.stats().in_flight) == (3, 0)

    virtual.run(scenario)


def test_a_burst_ends_after_the_last_of_an_ordering_key():
    """The next of a key can be received when the ack of the one before is confirmed, not when its run has ended."""

    async def scenario(clock):
        world = World(clock, ordered=True)

        class Slow(MemoryDriver):
            async def ack(self, queue, batch):
                await asyncio.sleep(0.5)
                return await super().ack(queue, batch)

        @world.app.task(name="step", queue="main")
        async def step() -> None: ...

        for _ in range(4):
            world.send(step, key="k")
        _, running, log = world.worker(Slow(world.broker), burst=True, pump=False)
        await running
        assert names(log).count(Name.SUCCEEDED) == 4

    virtual.run(scenario)


def test_what_waits_for_its_key_is_not_received_and_given_back_without_end():
    """The head runs on after its lease; its message comes again, and there are slots, but none for this key."""

    async def scenario(clock):
        world = World(clock, ordered=True)

        class Unreachable(MemoryDriver):
            async def extend(self, queue, batch, lease):
                if clock.time() - began < LEASE * 2:
                    raise Unavailable
                return await super().extend(queue, batch, lease)

        began = clock.time()

        @world.app.task(name="slow", queue="main")
        async def slow(ctx: Context) -> None:
            await asyncio.sleep(LEASE * 2 if ctx.attempt == 1 else 0.1)

        @world.app.task(name="quick", queue="main")
        async def quick() -> None:
            await asyncio.sleep(2)  # so that nothing is taken ahead

        world.send(quick, key="another")
        world.send(slow, key="k")
        engine, running, log = world.worker(Unreachable(world.broker))
        await asyncio.sleep(LEASE * 3)
        engine.drain()
        await running
        assert names(log).count(Name.SUCCEEDED) == 2
        received = names(log).count(Name.RECEIVED)
        assert received <= 2 + LEASE, f"{received} messages were received, of 2"

    virtual.run(scenario)


def capped_world(clock, **options):
    """A world whose task runs five seconds, one at a time, and notes its number."""
    world = World(clock)
    ran = []

    @world.app.task(name="capped", queue="main", max_concurrency=1, **options)
    async def capped(number: int) -> None:
        ran.append(number)
        await asyncio.sleep(5)

    def send(number, expires=None):
        data = msgspec.Raw(b'{"number":%d}' % number)
        envelope = Envelope(cloudq=VERSION, id=f"t{number}", type="capped", time=clock.time(), data=data, expires=expires)
        world.broker.send(world.app.address("main", Part.MAIN), [Outgoing(encode(envelope), envelope.id, 0.0, None)])

    return world, ran, send


def test_what_expires_while_it_waits_for_its_cap_holds_up_nobody():
    async def scenario(clock):
        world, ran, send = capped_world(clock, on_expiry="drop")
        send(1)
        send(2, clock.time() + 2)
        send(3)
        engine, running, _ = world.worker()
        await asyncio.sleep(60)
        engine.drain()
        await running
        assert ran == [1, 3]

    virtual.run(scenario)


def test_what_loses_its_lease_while_it_waits_for_its_cap_holds_up_nobody():
    async def scenario(clock):
        world, ran, send = capped_world(clock)

        class Loses(MemoryDriver):
            async def extend(self, queue, batch, lease):
                return [Settled.LOST if each.message_id == "t2" else Settled.OK for each in batch]

        for number in (1, 2, 3):
            send(number)
        engine, running, _ = world.worker(Loses(world.broker))
        await asyncio.sleep(5.5)
        assert ran == [1, 3]
        engine.drain()
        await running

    virtual.run(scenario)


def test_no_more_is_taken_in_hand_for_a_cap_than_slots_are_free():
    async def scenario(clock):
        world, _, send = capped_world(clock)
        for number in range(40):
            send(number)
        engine, running, _ = world.worker(concurrency=4)
        await asyncio.sleep(7)
        assert world.stats().in_flight <= 4
        engine.drain()
        await running

    virtual.run(scenario)


def test_one_on_its_last_chance_does_not_wait_for_a_cap():
    """Waiting here, it could be taken down by what runs beside it, without having run."""

    async def scenario(clock):
        world, ran, send = capped_world(clock)

        class LastChance(MemoryDriver):
            async def receive(self, queue, max_messages, wait):
                found = await super().receive(queue, max_messages, wait)
                return [replace(each, crashes=2) if each.message_id == "t2" else each for each in found]

        send(1)
        engine, running, log = world.worker(LastChance(world.broker))
        await asyncio.sleep(1)
        send(2)
        await asyncio.sleep(1)
        assert world.stats().in_flight == 1, "it is held, unrun, beside a run that may end the process"
        await asyncio.sleep(20)
        assert ran == [1, 2]
        engine.drain()
        await running
        assert Name.LEASE_LOST not in names(log)

    virtual.run(scenario)


def test_a_burst_ends_although_a_poll_failed_beside_an_empty_one():
    async def scenario(clock):
        world = World(clock)
        calls = []

        class Flaky(MemoryDriver):
            async def receive(self, queue, max_messages, wait):
                calls.append(max_messages)
                if len(calls) == 3:
                    await asyncio.sleep(0.01)
                    raise Unavailable("down")
                return await super().receive(queue, max_messages, wait)

        @world.app.task(name="t", queue="main")
        async def task() -> None: ...

        for _ in range(LIMITS.receive_count):
            world.send(task)
        _, running, log = world.worker(Flaky(world.broker), burst=True, concurrency=LIMITS.receive_count * 4)
        async with asyncio.timeout(600):
            await running
        assert Name.RECEIVE_FAILED in names(log)

    virtual.run(scenario)


def test_the_bytes_of_a_buffer_come_and_go():
    buffer = _Buffer()
    helds = [SimpleNamespace(delivery=SimpleNamespace(body=b"x" * size)) for size in (1, 10, 100)]
    for held in helds:
        buffer.put(held, first=held is helds[2])
    assert (len(buffer), buffer.bytes, buffer.next(None)) == (3, 111, helds[2])
    assert buffer.next(but=helds[2]) is helds[0]
    buffer.take(helds[2])
    assert buffer.take_last() is helds[1]
    assert (len(buffer), buffer.bytes) == (1, 1)


class Silent(MemoryDriver):
    """Never answers an extension, or only from a moment on."""

    answers = False

    async def extend(self, queue, batch, lease):
        if not self.answers:
            raise Unavailable("no extension today")
        return await super().extend(queue, batch, lease)


class Hanging(MemoryDriver):
    async def extend(self, queue, batch, lease):
        await asyncio.Event().wait()


async def _crashed_once(world, task, count=1):
    """Send tasks, and let their first leases run out in the hands of nobody."""
    for _ in range(count):
        world.send(task)
    assert len(world.broker.take(world.app.address("main", Part.MAIN), count)) == count
    await asyncio.sleep(LEASE + 0.1)


@virtual.virtually
async def test_what_has_crashed_is_not_started_before_the_provider_has_confirmed_that_it_is_here(clock):
    world = World(clock)

    @world.app.task(queue="main")
    async def quick() -> None: ...

    await _crashed_once(world, quick)
    driver = Silent(world.broker)
    engine, running, log = world.worker(driver)
    await asyncio.sleep(5)
    # Tried every two seconds, not in a loop without a pause, and never run.
    assert 2 <= names(log).count(Name.RENEW_FAILED) <= 4
    assert Name.STARTED not in names(log)
    driver.answers = True
    await asyncio.sleep(3)
    assert names(log).count(Name.ACKED) == 1
    assert names(log).index(Name.RENEWED) < names(log).index(Name.STARTED)
    engine.drain()
    await running


@virtual.virtually
async def test_a_confirmation_without_an_answer_does_not_hold_up_a_drain(clock):
    world = World(clock)

    @world.app.task(queue="main", max_concurrency=1)
    async def quick() -> None: ...

    await _crashed_once(world, quick)
    engine, running, log = world.worker(Hanging(world.broker))
    await asyncio.sleep(0.5)
    began = clock.monotonic()
    engine.drain()
    await running
    assert clock.monotonic() - began < 0.5
    assert Name.STARTED not in names(log)
    assert names(log).count(Name.RELEASED) == 1
    (delivery,) = world.broker.take(world.app.address("main", Part.MAIN), 1)
    assert (delivery.deliveries, delivery.crashes) == (2, 1)


@virtual.virtually
async def test_what_waits_for_the_cap_of_its_task_is_not_yet_confirmed(clock):
    world = World(clock)

    @world.app.task(queue="main", max_concurrency=1)
    async def slow() -> None:
        await asyncio.sleep(3.0)

    await _crashed_once(world, slow, count=2)
    engine, running, log = world.worker()
    await asyncio.sleep(2.0)
    assert names(log).count(Name.RENEWED) == 1  # of the one that runs
    await asyncio.sleep(10.0)
    assert names(log).count(Name.ACKED) == 2
    engine.drain()
    await running
