"""When leases are renewed and settlements asked for again, to the moment: lease keeper and settler alone, in virtual time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from cloudq import CloudQ
from cloudq.driver import Outgoing, Part, Queue, Settled
from cloudq.envelope import VERSION, Envelope, encode
from cloudq.errors import Refused, Throttled, Unavailable
from cloudq.events import Events, Name
from cloudq.execution import Job
from cloudq.outcome import Ack, Bury, GiveBack, Kind, Resend
from cloudq.sending import Sender
from cloudq.worker.held import Held, Station
from cloudq.worker.leases import Leases
from cloudq.worker.settling import Settler
from cloudq_local.facts import MEMORY
from cloudq_local.memory import MemoryBroker, MemoryDriver
from support.virtual import virtually

LEASE = 100.0
SILENT = object()


class Scripted(MemoryDriver):
    """The real driver, but for what it is told to answer, call by call. Notes when it was asked for what."""

    def __init__(self, broker, clock):
        super().__init__(broker)
        self.clock = clock
        self.calls = []
        self.script = {}

    async def _call(self, name, *arguments):
        batch = arguments[1]
        self.calls.append((name, round(self.clock.monotonic(), 6), len(batch)))
        script = self.script.get(name, [])
        answer = script.pop(0) if script else None
        if answer is SILENT:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        return await getattr(MemoryDriver, name)(self, *arguments)

    async def ack(self, queue, batch):
        return await self._call("ack", queue, batch)

    async def extend(self, queue, batch, lease):
        return await self._call("extend", queue, batch, lease)

    async def release(self, queue, batch):
        return await self._call("release", queue, batch)

    async def send(self, queue, batch):
        return await self._call("send", queue, batch)

    def times(self, name):
        return [at for what, at, _ in self.calls if what == name]


class Middle(random.Random):
    """Draws the middle of every range: what is drawn is then known."""

    def uniform(self, a, b):
        return (a + b) / 2


class Desk:
    """One lease keeper and one settler, with deliveries in hand."""

    def __init__(self, clock, **limits):
        self.clock = clock
        self.broker = MemoryBroker(clock, replace(MEMORY, limits=replace(MEMORY.limits, **limits)))
        self.driver = Scripted(self.broker, clock)
        self.log = []
        events = Events.only(self.log.append)
        self.tasks = set()
        sender = Sender(self.driver, clock, self.spawn, Middle())
        queue = Queue("main", "main", lease=LEASE)
        dead, delay = (replace(queue, physical=part.value, part=part) for part in (Part.DEAD, Part.DELAY))
        self.station = Station(queue, dead, delay, self.driver, sender)
        self.lost = []
        self.leases = Leases(clock, events, self.spawn, self.lost.append)
        self.settler = Settler(self.station, self.leases, clock, events, self.spawn, Middle())
        self.spawn(self.leases.run())

    def spawn(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def envelope(self, number):
        return Envelope(cloudq=VERSION, id=f"t{number}", type="x", time=self.clock.time(), data=msgspec.Raw(b"{}"))

    def hold(self, number=1, *, renew_in=LEASE / 2, kept=True):
        self.broker.send(self.station.queue, [Outgoing(encode(self.envelope(number)), f"t{number}")])
        (delivery,) = self.broker.take(self.station.queue, 1)
        now = self.clock.monotonic()
        held = Held(delivery, self.station, self.clock, lease_end=now + LEASE, renew_at=now + renew_in)
        if kept:
            self.leases.hold(held)
        return held

    def settle(self, held, settlement):
        ends = []
        held.finished, held.then = True, ends.append
        self.settler.settle(held, settlement, self.envelope(1))
        return ends

    def job(self, held):
        app = CloudQ("memory://unused", clock=self.clock)
        task = app.task(name="x", timeout="5m")(lambda: None)
        return Job(task, self.envelope(1), held.delivery, 3, (), {})

    def told(self, *of):
        start = 1_700_000_000.0
        return [(event.name, round(event.at - start, 6)) for event in self.log if not of or event.name in of]


# Leases -----------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_lease_is_renewed_at_half_of_each(clock):
    desk = Desk(clock)
    assert desk.leases.worst_gap == 0.0
    desk.hold()
    await asyncio.sleep(3 * LEASE - 1)
    assert desk.driver.times("extend") == [50, 100, 150, 200, 250]
    assert desk.told(Name.RENEWED)[0] == (Name.RENEWED, 50)
    assert desk.log[0].attempt == 0
    assert desk.leases.worst_gap == 0.0


@virtually
async def test_what_falls_due_within_a_tenth_of_a_lease_goes_out_together(clock):
    desk = Desk(clock)
    for number, renew_in in ((1, 50), (2, 60), (3, 60.5)):
        desk.hold(number, renew_in=renew_in)
    await asyncio.sleep(70)
    assert [(at, count) for name, at, count in desk.driver.calls if name == "extend"] == [(50, 2), (60.5, 1)]


@virtually
async def test_more_than_a_batch_goes_out_in_batches(clock):
    desk = Desk(clock, settle_count=2)
    for number in range(5):
        desk.hold(number)
    await asyncio.sleep(60)
    assert [count for name, _, count in desk.driver.calls if name == "extend"] == [2, 2, 1]


@virtually
async def test_a_renewal_that_fails_is_tried_again_until_the_lease_ends(clock):
    desk = Desk(clock)
    desk.driver.script["extend"] = [Unavailable("away")] * 50
    held = desk.hold()
    await asyncio.sleep(2 * LEASE)
    # Every twentieth of a lease, as long as there is a lease.
    assert desk.driver.times("extend") == [50, 55, 60, 65, 70, 75, 80, 85, 90, 95]
    assert desk.told(Name.RENEW_FAILED)[:2] == [(Name.RENEW_FAILED, 50), (Name.RENEW_FAILED, 55)]
    assert desk.told(Name.LEASE_LOST) == [(Name.LEASE_LOST, 100)]
    assert desk.lost == [held]
    assert held.reported_lost


@virtually
async def test_a_renewal_without_an_answer_leaves_time_for_another(clock):
    desk = Desk(clock)
    desk.driver.script["extend"] = [SILENT]
    held = desk.hold()
    await asyncio.sleep(85)
    assert desk.driver.times("extend") == [50, 80]  # a quarter of the lease is waited, then a twentieth
    assert held.lease_end == 180
    assert desk.log[0].detail["reason"] == "no answer"


@virtually
async def test_a_renewed_lease_ends_a_lease_after_the_request_not_after_the_answer(clock):
    desk = Desk(clock)
    real = desk.driver.extend

    async def slow(queue, batch, lease):
        await asyncio.sleep(10)
        return await real(queue, batch, lease)

    desk.driver.extend = slow
    held = desk.hold()
    await asyncio.sleep(61)
    assert (held.lease_end, held.renew_at, held.extended) == (150, 100, True)


@virtually
async def test_a_lease_that_is_gone_is_told_at_once_and_once(clock):
    desk = Desk(clock)
    desk.driver.script["extend"] = [[Settled.LOST]]
    desk.hold()
    await asyncio.sleep(2 * LEASE)
    assert desk.told() == [(Name.LEASE_LOST, 50)]
    assert desk.log[0].detail["running"] == 0
    assert desk.driver.times("extend") == [50]


@virtually
async def test_what_is_finished_and_gone_is_for_its_settlement_to_tell(clock):
    desk = Desk(clock)
    desk.driver.script["extend"] = [[Settled.LOST]]
    held, other = desk.hold(1), desk.hold(2, renew_in=LEASE)
    held.finished = other.finished = True
    other.renewing = True  # its renewal never ends: so its lease does
    await asyncio.sleep(2 * LEASE)
    assert desk.told() == []
    assert not desk.leases._held


@virtually
async def test_an_answer_for_what_was_settled_meanwhile_changes_nothing(clock):
    desk = Desk(clock)
    desk.driver.script["extend"] = [SILENT]
    held = desk.hold()
    await asyncio.sleep(60)
    desk.leases.drop(held)
    await asyncio.sleep(LEASE)
    assert desk.told() == []


@virtually
async def test_after_its_time_a_lease_is_left_to_run_out(clock):
    desk = Desk(clock)
    held = desk.hold()
    held.renew_until = 120.0
    desk.leases.hold(held)
    await asyncio.sleep(4 * LEASE)
    assert desk.driver.times("extend") == [50, 100]
    assert desk.told(Name.LEASE_LOST) == [(Name.LEASE_LOST, 200)]


@virtually
async def test_a_starved_loop_shows_in_the_worst_gap(clock):
    desk = Desk(clock)
    desk.hold()
    await asyncio.sleep(49)
    clock._loop.now += 8  # as if nothing had run for so long
    await asyncio.sleep(1)
    assert desk.leases.worst_gap == pytest.approx(7.0)


@virtually
async def test_a_confirmation_extends_now_and_is_not_renewed_meanwhile(clock):
    desk = Desk(clock)
    desk.driver.script["extend"] = [SILENT]
    held = desk.hold(renew_in=1.0)
    await desk.leases.confirm(held)
    assert clock.monotonic() == 25
    assert not held.extended
    assert desk.driver.times("extend") == [0]
    await desk.leases.confirm(held)
    assert held.extended


@virtually
async def test_a_lease_that_ended_while_nothing_ran_is_lost(clock):
    desk = Desk(clock)
    desk.hold()
    await asyncio.sleep(49)
    clock._loop.now += 60
    await asyncio.sleep(1)
    assert desk.told() == [(Name.LEASE_LOST, 109)]


@virtually
async def test_what_is_finished_and_was_lost_while_nothing_ran_is_for_its_settlement_to_tell(clock):
    desk = Desk(clock)
    desk.hold().finished = True
    await asyncio.sleep(49)
    clock._loop.now += 60
    await asyncio.sleep(1)
    assert desk.told() == []


@virtually
async def test_a_time_that_passed_while_nothing_ran_has_passed(clock):
    desk = Desk(clock)
    held = desk.hold()
    held.renew_until = 45.0
    desk.leases.hold(held)
    await asyncio.sleep(44)
    clock._loop.now += 10
    await asyncio.sleep(1)
    assert desk.driver.times("extend") == []


@virtually
async def test_what_is_being_renewed_is_not_renewed_beside_it(clock):
    desk = Desk(clock)
    desk.driver.script["extend"] = [SILENT]
    desk.hold(1, renew_in=85)
    desk.hold(2, renew_in=96)
    await asyncio.sleep(97)
    assert [(at, count) for _, at, count in desk.driver.calls] == [(85, 1), (96, 1)]


@virtually
async def test_a_task_past_its_timeout_is_told_of_once(clock):
    desk = Desk(clock)
    held = desk.hold()
    held.job, held.renew_until = desk.job(held), 60.0
    desk.leases.hold(held)
    await asyncio.sleep(2 * LEASE)
    assert desk.told(Name.TIMED_OUT, Name.LEASE_LOST) == [(Name.TIMED_OUT, 60), (Name.LEASE_LOST, 150)]
    timed_out = next(event for event in desk.log if event.name is Name.TIMED_OUT)
    assert (timed_out.detail, timed_out.attempt, timed_out.task) == ({"timeout": 300.0}, 3, "x")
    assert desk.log[-1].detail == {"running": 1}


# Settlements ------------------------------------------------------------------------------------------------------------------


@virtually
async def test_an_ack_without_an_answer_is_asked_for_again_with_growing_pauses(clock):
    desk = Desk(clock)
    desk.driver.script["ack"] = [[Settled.UNKNOWN]] * 9
    ends = desk.settle(desk.hold(), Ack())
    await asyncio.sleep(90)
    gaps = [round(b - a, 6) for a, b in pairwise(desk.driver.times("ack"))]
    assert gaps == [round(0.75 * pause, 6) for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0)]
    assert desk.told(Name.ACKED, Name.SETTLE_UNKNOWN) == [(Name.ACKED, 15.975)]
    assert desk.log[0].attempt == 0
    assert ends == [True]


@virtually
async def test_an_ack_that_is_never_answered_is_given_up_with_its_lease(clock):
    desk = Desk(clock)
    desk.driver.script["ack"] = [Unavailable("away")] * 1000
    ends = desk.settle(desk.hold(), Ack())
    await asyncio.sleep(10 * LEASE)
    # Its lease is renewed for five more, and then ends.
    assert desk.driver.times("extend")[-1] == 450
    (unknown, at), (lost, _) = desk.told(Name.SETTLE_UNKNOWN, Name.LEASE_LOST)
    assert (unknown, lost) == (Name.SETTLE_UNKNOWN, Name.LEASE_LOST)
    assert 550 <= at < 556
    assert ends == [False]
    assert not desk.settler.settling()


@virtually
async def test_an_answer_is_waited_for_a_quarter_of_a_lease(clock):
    desk = Desk(clock)
    desk.driver.script["ack"] = [SILENT]
    desk.settle(desk.hold(), Ack())
    await asyncio.sleep(50)
    assert desk.driver.times("ack") == [0, 25.075]


@virtually
async def test_a_settlement_that_comes_too_late_is_told_and_ends(clock):
    desk = Desk(clock)
    desk.driver.script["ack"] = [[Settled.LOST]]
    ends = desk.settle(desk.hold(), Ack())
    await asyncio.sleep(1)
    assert desk.told() == [(Name.SETTLE_LOST, 0)]
    assert ends == [False]


@virtually
async def test_what_is_lost_before_it_is_asked_for_is_not_asked_for(clock):
    desk = Desk(clock)
    held = desk.hold(kept=False)
    await asyncio.sleep(LEASE)
    ends = desk.settle(held, Ack())
    await asyncio.sleep(1)
    assert desk.driver.times("ack") == []
    assert desk.told() == [(Name.LEASE_LOST, LEASE)]
    assert ends == [False]


@pytest.mark.parametrize("tells", [True, False])
def test_an_ok_that_comes_after_the_lease_is_believed_only_from_who_would_say_otherwise(tells):
    @virtually
    async def play(clock):
        desk = Desk(clock, tells_lost=tells)
        real = desk.driver.ack

        async def slow(queue, batch):
            answer = await real(queue, batch)
            await asyncio.sleep(20)
            return answer

        desk.driver.ack = slow
        held = desk.hold(kept=False)
        await asyncio.sleep(90)
        ends = desk.settle(held, Ack())
        await asyncio.sleep(30)
        assert desk.told() == [(Name.ACKED if tells else Name.SETTLE_UNKNOWN, 110)]
        assert ends == [tells]

    play()


@virtually
async def test_settlements_linger_for_company_at_most_a_tenth_of_the_lease(clock):
    desk = Desk(clock, linger=60.0)
    for number in range(2):
        desk.settle(desk.hold(number), Ack())
    await asyncio.sleep(1)
    desk.settle(desk.hold(2), Ack())
    await asyncio.sleep(30)
    assert desk.driver.calls == [("ack", 10, 3)]
    desk.settle(desk.hold(3), Ack())
    desk.settler.hurry()
    await desk.settler.join()
    assert desk.driver.calls[1:] == [("ack", 31, 1)]


@virtually
async def test_a_release_has_its_delay_and_is_reported_with_it(clock):
    desk = Desk(clock)
    ends = desk.settle(desk.hold(), GiveBack(7.0))
    await asyncio.sleep(6.9)
    assert not desk.broker.take(desk.station.queue, 1)
    await asyncio.sleep(0.2)
    assert desk.broker.take(desk.station.queue, 1)[0].deliveries == 2
    assert desk.log[0].detail == {"delay": 7.0}
    assert ends == [True]


@virtually
async def test_a_burial_is_one_step_where_the_provider_has_one(clock):
    desk = Desk(clock)
    ends = desk.settle(desk.hold(), Bury(Kind.FAILED, "boom"))
    await asyncio.sleep(1)
    assert desk.driver.times("send") == []
    assert desk.log[0].detail == {"kind": "failed", "reason": "boom"}
    assert desk.broker.stats(desk.station.dead).ready == 1
    assert ends == [True]


COMPOSED = {"native_dead_letter": False, "send_delay": 0.0, "release_delay": 600.0}


@virtually
async def test_a_copy_is_confirmed_before_its_original_is_acked(clock):
    desk = Desk(clock, **COMPOSED)
    desk.driver.script["send"] = [Throttled(), Throttled()]
    ends = desk.settle(desk.hold(), Bury(Kind.FAILED, "boom"))
    await asyncio.sleep(20)
    assert [name for name, _, _ in desk.driver.calls] == ["send", "send", "send", "ack"]
    assert desk.told() == [(Name.DEAD_LETTERED, 0.1125), (Name.ACKED, 0.1125)]
    assert ends == [True]


@virtually
async def test_a_copy_that_cannot_be_sent_is_tried_for_a_lease_and_then_given_back(clock):
    desk = Desk(clock, **COMPOSED)
    desk.driver.script["send"] = [Unavailable("away")] * 1000
    ends = desk.settle(desk.hold(), Bury(Kind.FAILED, "boom"))
    await asyncio.sleep(2 * LEASE)
    unknown = desk.told(Name.SETTLE_UNKNOWN)
    # Each send is tried for some 5 s, and the pauses between them grow to 5 s too.
    gaps = [b - a for (_, a), (_, b) in pairwise(unknown)]
    assert all(7 < gap <= 9.5 for gap in gaps[-3:])
    # Each try of the sender ends at one of its own pauses before 5 s: what is added to it grows.
    assert gaps[5] - gaps[0] > 2.0
    ((_, at),) = desk.told(Name.RELEASED)
    assert LEASE - 10 < at <= LEASE
    assert desk.log[-1].detail == {"delay": 5.0}
    assert desk.driver.times("ack") == []
    assert ends == [True]
    assert desk.broker.stats(desk.station.queue).delayed in (0, 1)


@virtually
async def test_a_copy_that_is_not_confirmed_when_the_lease_ends_is_not_told_of(clock):
    desk = Desk(clock, **COMPOSED)
    desk.driver.script["send"] = [Unavailable("away")] * 1000
    held = desk.hold(kept=False)
    await asyncio.sleep(60)
    ends = desk.settle(held, Bury(Kind.FAILED, "boom"))
    await asyncio.sleep(LEASE)
    assert {name for name, _ in desk.told()} == {Name.SETTLE_UNKNOWN, Name.LEASE_LOST}
    assert ends == [False]
    assert desk.broker.stats(desk.station.dead).ready == 0


@virtually
async def test_ordered_work_does_not_linger(clock):
    desk = Desk(clock, linger=60.0)
    station = replace(desk.station, queue=replace(desk.station.queue, ordered=True))
    settler = Settler(station, desk.leases, clock, Events.only(desk.log.append), desk.spawn, Middle())
    held = desk.hold()
    held.finished = True
    settler.settle(held, Ack(), None)
    await asyncio.sleep(0.5)
    assert desk.driver.calls == [("ack", 0, 1)]


@virtually
async def test_a_copy_whose_original_is_lost_meanwhile_is_told_of_and_not_acked(clock):
    desk = Desk(clock, **COMPOSED)
    real = desk.driver.send

    async def slow(queue, batch):
        answer = await real(queue, batch)
        await asyncio.sleep(4)
        return answer

    desk.driver.send = slow
    held = desk.hold(kept=False)
    await asyncio.sleep(98)
    ends = desk.settle(held, Resend(900.0, 1))
    await asyncio.sleep(30)
    assert desk.told() == [(Name.RELEASED, 102), (Name.LEASE_LOST, 102)]
    assert desk.driver.times("ack") == []
    assert ends == [False]


@virtually
async def test_a_copy_that_cannot_be_made_is_tried_again_at_these_times(clock):
    class Lowest(random.Random):
        def uniform(self, a, b):
            return a

    desk = Desk(clock, **COMPOSED)
    desk.settler._draw = Lowest()
    tries = []

    async def refuses(queue, batch):
        tries.append(round(clock.monotonic(), 6))
        return dict.fromkeys(range(len(batch)), Refused("planned"))

    desk.driver.send = refuses
    began = clock.monotonic()
    desk.settle(desk.hold(), Resend(900.0, 1))
    await asyncio.sleep(LEASE)
    expected, pause, now = [], 0.1, 0.0
    while True:
        expected.append(round(now, 6))
        if now + pause >= LEASE:
            break
        now, pause = now + pause / 2, min(pause * 2, 5.0)
    assert [round(at - began, 6) for at in tries] == expected
    assert [round(at, 1) for at in desk.driver.times("release")] == [round(began + expected[-1], 1)]


@virtually
async def test_a_later_copy_goes_to_the_delay_part_one_generation_on(clock):
    desk = Desk(clock, **COMPOSED)
    desk.settle(desk.hold(), Resend(900.12345, 3))
    await asyncio.sleep(1)
    (copy,) = desk.broker.take(desk.station.delay, 1)
    fields = msgspec.json.decode(copy.body)
    assert copy.message_id == "t1:1"
    assert (fields["generation"], fields["attempts"], fields["due"]) == (1, 3, 1_700_000_900.123)
    assert desk.log[0].detail == {"delay": 900.12345}


@virtually
async def test_a_short_copy_goes_to_the_queue_itself(clock):
    desk = Desk(clock, native_dead_letter=False, send_delay=60.0, release_delay=0.0)
    desk.settle(desk.hold(), Resend(30.0, 1))
    await asyncio.sleep(29)
    assert not desk.broker.take(desk.station.queue, 1)
    await asyncio.sleep(2)
    assert desk.broker.take(desk.station.queue, 1)[0].message_id == "t1:1"


@virtually
async def test_a_foreign_message_is_buried_with_its_id_and_attributes(clock):
    desk = Desk(clock, **COMPOSED)
    held = desk.hold()
    held.job = desk.job(held)
    held.delivery = replace(held.delivery, message_id="m", attributes={"mine": "kept"})
    desk.settle(held, Bury(Kind.UNREADABLE, "no JSON"))
    await asyncio.sleep(1)
    (letter,) = desk.broker.take(desk.station.dead, 1)
    assert letter.message_id == "m"
    assert letter.attributes["mine"] == "kept"
