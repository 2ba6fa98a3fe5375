"""A driver beside a model of what it promises: Hypothesis looks for the shortest sequence of calls in which they differ.

The model knows the contract of `cloudq.driver` and nothing of any provider; where the contract leaves something open (which of
the visible messages come, whether a lease that has ended is good while nobody else has the message), it follows the driver.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule, run_state_machine_as_test

from cloudq.driver import Burial, Outgoing, Part, Queue, Release, Settled
from cloudq.facts import facts_of
from cloudq.testing import ManualClock
from cloudq_local.facts import MEMORY
from cloudq_local.memory import MemoryBroker, connect
from cloudq_local.sqlite import SQLiteDriver

LEASE = 30.0


@dataclass(eq=False)
class Modelled:
    """A message as the contract has it."""

    body: bytes
    visible_at: float
    group: str | None
    #: Of the delivery that holds it, even when its lease has ended: until somebody else takes it, nobody has.
    holder: object | None = None
    deliveries: int = 0
    crashes: int = 0
    extended: bool = False
    dead: bool = False


@dataclass(eq=False)
class Handle:
    """A delivery in somebody's hands, and the message that it is of."""

    delivery: object
    message: Modelled


class Contract(RuleBasedStateMachine):
    """The rules. `make(clock, directory)` returns the driver under test."""

    ordered = False
    make = None

    handles = Bundle("handles")

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.directory = Path(tempfile.mkdtemp())
        self.driver = self.call_sync(type(self).make, self.clock, self.directory)
        self.limits = self.driver.limits
        self.queue = Queue("main", "t-main", ordered=self.ordered, lease=LEASE)
        self.dead = Queue("main", "t-dead", Part.DEAD, lease=LEASE)
        self.messages: list[Modelled] = []
        self.numbers = itertools.count()

    def call(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def call_sync(self, function, *arguments):
        async def inside():
            return function(*arguments)

        return self.call(inside())

    @property
    def now(self):
        return self.clock.monotonic()

    def free(self, message):
        """Tell whether the contract lets a message be received now."""
        if message.dead or message.visible_at > self.now:
            return False
        earlier = self.messages[: self.messages.index(message)]
        return (
            not self.ordered
            or message.group is None
            or all(other.group != message.group or other.dead or other.visible_at <= self.now for other in earlier)
        )

    @rule(count=st.integers(1, 3), delay=st.sampled_from([0.0, 5.0, 50.0]), group=st.sampled_from(["a", "b"]))
    def send(self, count, delay, group):
        delay = min(delay, self.limits.send_delay) if self.limits.ordered_delay or not self.ordered else 0.0
        batch = [
            Outgoing(f"message {number}".encode(), f"id-{number}", delay, group if self.ordered else None)
            for number in itertools.islice(self.numbers, count)
        ]
        assert self.call(self.driver.send(self.queue, batch)) == {}
        self.messages += [Modelled(one.body, self.now + delay, one.group) for one in batch]

    @rule(target=handles, most=st.integers(1, 4))
    def receive(self, most):
        free = [message for message in self.messages if self.free(message)]
        taken = self.call(self.driver.receive(self.queue, min(most, self.limits.receive_count), 0.0))
        assert len(taken) <= most
        assert bool(taken) == bool(free), f"{len(taken)} received, {len(free)} could have been"
        handles = []
        for delivery in taken:
            message = next((other for other in self.messages if other.body == bytes(delivery.body)), None)
            assert message is not None, "nobody sent this, or it was removed"
            assert self.free(message), "it was hidden"
            if message.holder is not None and (message.crashes == 0 or message.extended):
                message.crashes += 1
            message.deliveries += 1
            message.holder, message.extended = delivery, False
            assert delivery.deliveries == message.deliveries
            assert delivery.crashes == (message.crashes if self.limits.counts_crashes else None)
            handles.append(Handle(delivery, message))
        # Only now: what comes in one batch may follow its own group.
        for handle in handles:
            handle.message.visible_at = self.now + LEASE
        if self.ordered:
            order = [self.messages.index(handle.message) for handle in handles]
            assert order == sorted(order), "out of order"
        return multiple(*handles)

    def verdict(self, handle, answer):
        """Compare an answer with what the contract allows, and return whether the call had its effect."""
        message = handle.message
        if message.holder is not handle.delivery:
            assert answer is Settled.LOST, "a receipt of an earlier delivery was good"
            return False
        if message.visible_at <= self.now:  # its lease has ended, and nobody else has it yet: either is right
            assert answer in (Settled.OK, Settled.LOST)
        else:
            assert answer is Settled.OK
        return answer is Settled.OK

    @rule(handle=handles)
    def ack(self, handle):
        (answer,) = self.call(self.driver.ack(self.queue, [handle.delivery]))
        message = handle.message
        if message not in self.messages or message.dead:
            assert answer is Settled.OK, "what is gone is as wished"
        elif message.holder is not handle.delivery and not self.limits.tells_lost:
            assert answer is Settled.OK, "where a late ack cannot be told, it looks like one in time"
        elif self.verdict(handle, answer):
            self.messages.remove(message)

    @rule(handle=handles, delay=st.sampled_from([0.0, 0.0, 7.0]), counted=st.booleans())
    def release(self, handle, delay, counted):
        longest = self.limits.ordered_release_delay if self.ordered else self.limits.release_delay
        delay = min(delay, longest)
        (answer,) = self.call(self.driver.release(self.queue, [Release(handle.delivery, delay, counted)]))
        message = handle.message
        if message not in self.messages or message.dead:
            assert answer is Settled.LOST
        elif self.verdict(handle, answer):
            message.holder, message.visible_at = None, self.now + delay
            message.deliveries -= not counted and self.limits.release_uncounted

    @rule(handle=handles)
    def extend(self, handle):
        (answer,) = self.call(self.driver.extend(self.queue, [handle.delivery], LEASE))
        message = handle.message
        if message not in self.messages or message.dead:
            assert answer is Settled.LOST
        elif self.verdict(handle, answer):
            message.visible_at, message.extended = self.now + LEASE, True

    @rule(handle=handles)
    def bury(self, handle):
        if not self.limits.native_dead_letter:
            return
        burial = Burial(handle.delivery, "failed", '{"why":"a test"}')
        (answer,) = self.call(self.driver.dead_letter(self.queue, self.dead, [burial]))
        message = handle.message
        if message not in self.messages or message.dead:
            assert answer is Settled.LOST
        elif self.verdict(handle, answer):
            message.dead, message.holder = True, None

    @rule(seconds=st.sampled_from([1.0, 10.0, LEASE + 1]))
    def tick(self, seconds):
        self.clock.advance(seconds)

    @rule(handle=consumes(handles))
    def crash(self, handle):
        """Whoever held it is gone without a word."""

    @invariant()
    def everything_is_counted(self):
        stats = self.call(self.driver.stats(self.queue))
        here = [message for message in self.messages if not message.dead]
        if stats.ready is not None:
            assert stats.ready == sum(message.visible_at <= self.now for message in here)
        if None not in (stats.ready, stats.in_flight, stats.delayed):
            assert stats.ready + stats.in_flight + stats.delayed == len(here)

    def teardown(self):
        """Whatever happened: in the end, what was not removed is there, once, and as it was sent."""
        self.clock.advance(10 * LEASE)
        found = []
        for queue in (self.queue, self.dead):
            while taken := self.call(self.driver.receive(queue, self.limits.receive_count, 0.0)):
                found += [bytes(delivery.body) for delivery in taken]
                self.call(self.driver.ack(queue, taken))
        self.call(self.driver.aclose())
        self.loop.close()
        shutil.rmtree(self.directory)
        assert sorted(found) == sorted(message.body for message in self.messages)


def in_memory(facts):
    return lambda clock, _directory: connect(MemoryBroker(clock, facts))


def like(provider):
    """Memory with the facts of a provider, but for its minimum of a lease and its whole seconds."""
    return in_memory(replace(facts_of(provider), resolution=0.0))


DRIVERS = {
    "SQLite": lambda clock, directory: SQLiteDriver(directory / "queue.db", clock),
    "Memory": in_memory(MEMORY),
    "as sqs": like("sqs"),
    "as pubsub": like("pubsub"),
    "as servicebus": like("servicebus"),
}


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_does_what_the_contract_says(name, ordered):
    machine = type(f"Contract{name}", (Contract,), {"make": staticmethod(DRIVERS[name]), "ordered": ordered})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15 if name == "SQLite" else 60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class StaleReceipts(MemoryBroker):
    """Takes the receipt of an earlier delivery for good."""

    def _held(self, queue, delivery):
        return self._queues.get(queue.physical, {}).get(delivery.receipt.message.number)


class NoGroups(MemoryBroker):
    """Forgets that what follows in a group must wait."""

    def _due(self, queue, now):
        return super()._due(replace(queue, ordered=False), now)


class ForgetsToHide(MemoryBroker):
    """Leaves a released message visible, whatever its delay."""

    def release(self, queue, item):
        return super().release(queue, replace(item, delay=0.0))


class LosesTheLast(MemoryBroker):
    """Drops the last message of a batch of three."""

    def send(self, queue, batch):
        return super().send(queue, batch[:2])


@pytest.mark.parametrize(
    ("broker", "ordered"), [(StaleReceipts, False), (NoGroups, True), (ForgetsToHide, False), (LosesTheLast, False)]
)
def test_the_model_finds_a_driver_that_does_not(broker, ordered):
    make = staticmethod(lambda clock, _directory: connect(broker(clock)))
    machine = type("Broken", (Contract,), {"make": make, "ordered": ordered})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=300,
                stateful_step_count=40,
                deadline=None,
                database=None,
                derandomize=True,
                print_blob=False,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
