"""The driver over the wire: errors, connections that go, settlements that get no answer, sessions, dead letters."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage

from cloudq.driver import RECORD, Burial, Part, Queue, Release, Settled
from cloudq.errors import AccessDenied, OutcomeUnknown, QueueNotFound, Refused, Throttled, Unavailable
from cloudq_servicebus import links
from support.processes import until
from support.servicebus import message, need_proton

need_proton()
from cloudq_servicebus.emulator import Fault, Plan  # noqa: E402  needs proton

MISSING = Queue("main", "not-there", lease=30.0)


def plan(bus, *faults):
    bus.server.plan = Plan(faults)


def break_links(bus, condition="amqp:link:detach-forced"):
    """What the service does to links that were idle for ten minutes."""

    def detach():
        for connection in list(bus.server.connections):
            link = connection._connection.link_head(0)
            while link is not None:
                if getattr(link, "queue", None) is not None:
                    connection._refuse_open(link, Fault(condition=condition))
                link = link.next(0)
            connection.work()

    bus.server.ask(detach)


def drop_connections(bus):
    bus.server.ask(lambda: [connection.cut() for connection in list(bus.server.connections)])


# Errors ---------------------------------------------------------------------------------------------------------------

#: AMQP condition, and what it means to whoever sends and to whoever receives.
CONDITIONS = {
    "amqp:unauthorized-access": (AccessDenied, AccessDenied),
    "com.microsoft:auth-failed": (AccessDenied, AccessDenied),
    "com.microsoft:server-busy": (Throttled, Throttled),
    "amqp:resource-limit-exceeded": (Throttled, Throttled),
    "com.microsoft:entity-disabled": (Refused, Refused),
    "com.microsoft:timeout": (OutcomeUnknown, Unavailable),
    "amqp:internal-error": (OutcomeUnknown, Unavailable),
}


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_a_condition_becomes_a_portable_error(bus, condition):
    queue = await bus.queue()
    sent, received = CONDITIONS[condition]
    async with bus.driver() as driver:
        plan(bus, Fault("send", condition=condition, times=1))
        with pytest.raises(sent) as raised:
            await driver.send(queue, [message()])
        assert raised.value.__cause__ is not None
        assert queue.physical in str(raised.value)
        plan(bus, Fault("attach", condition=condition, times=1))
        with pytest.raises(received) as raised:
            await driver.receive(queue, 1, 0.0)
        assert raised.value.__cause__ is not None
        plan(bus)
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        assert delivery.body == message().body


async def test_what_is_not_there_is_named(bus):
    async with bus.driver() as driver:
        for ask in (
            lambda: driver.send(MISSING, [message()]),
            lambda: driver.receive(MISSING, 1, 0.0),
            lambda: driver.peek(MISSING, 1),
            lambda: driver.stats(MISSING),
        ):
            with pytest.raises(QueueNotFound, match=r"not-there.* Are the namespace .*cloudq queues create"):
                await ask()


async def test_no_server_is_told_and_nothing_was_sent(bus):
    queue = await bus.queue()
    bus.server.stop()
    async with bus.driver() as driver:
        with pytest.raises(Unavailable):
            await driver.send(queue, [message()])
        with pytest.raises(Unavailable):
            await driver.receive(queue, 1, 0.0)


@pytest.mark.parametrize("kind", ["lost", "drop"])
async def test_a_send_without_an_answer_may_have_arrived(bus, kind):
    queue = await bus.queue()
    async with bus.driver() as driver:
        plan(bus, Fault("send", kind=kind, times=1))
        with pytest.raises(OutcomeUnknown):
            await driver.send(queue, [message()])
        assert len(bus.held(queue)) == (1 if kind == "lost" else 0)
        await driver.send(queue, [message()])  # duplicate detection drops it where it did arrive
        assert len(bus.held(queue)) == 1


async def test_one_message_that_is_too_large_fails_alone(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        large = replace(message(1), body=b"x" * 262_100)
        failures = await driver.send(queue, [message(0), large, message(2)])
        assert list(failures) == [1]
        assert isinstance(failures[1], Refused)
    assert {stored.message.id for stored in bus.held(queue)} == {"id-0", "id-2"}


async def test_a_lock_shorter_than_the_lease_is_refused(bus):
    queue = await bus.queue(lease=10.0)
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        with pytest.raises(Refused, match="LockDuration PT60S"):
            await driver.receive(replace(queue, lease=60.0), 1, 5.0)
    async with bus.driver() as driver:
        (delivery,) = await driver.receive(queue, 1, 5.0)  # it was given back
        assert await driver.ack(queue, [delivery]) == [Settled.OK]


async def test_a_dead_part_takes_nothing_that_is_sent(bus):
    queue = await bus.queue(Part.DEAD)
    async with bus.driver() as driver:
        with pytest.raises(Refused):
            await driver.send(queue, [message()])


async def test_after_a_fork_it_is_opened_anew(bus, monkeypatch):
    async with bus.driver() as driver:
        monkeypatch.setattr(driver, "_pid", os.getpid() + 1)
        with pytest.raises(Unavailable, match="fork"):
            await driver.receive(MISSING, 1, 0.0)
        monkeypatch.undo()


async def test_it_unwraps_to_the_client(bus):
    async with bus.driver() as driver:
        assert driver.unwrap(ServiceBusClient) is driver.unwrap(ServiceBusClient)
        with pytest.raises(TypeError, match=r"azure\.servicebus\.aio"):
            driver.unwrap(int)


# Connections that go --------------------------------------------------------------------------------------------------


async def test_idle_links_are_detached_and_nobody_notices(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message(0)])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        await driver.ack(queue, [delivery])
        assert await driver.receive(queue, 1, 0.0) == []
        before = bus.asked("attach")
        bus.advance(600)
        break_links(bus)
        await driver.send(queue, [message(1)])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        assert delivery.body == message(1).body
        assert bus.asked("attach") == before + 2  # a sender and a receiver


async def test_a_receive_that_waits_outlives_its_connection(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        assert await driver.receive(queue, 1, 0.0) == []
        waiting = asyncio.ensure_future(driver.receive(queue, 1, 20.0))
        await asyncio.sleep(0)
        drop_connections(bus)
        await driver.send(queue, [message()])
        assert len(await waiting) == 1


async def test_a_settlement_outlives_the_connection_of_its_receive(bus):
    """A lock is not bound to its link: where that is gone, another settles by its token."""
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message(number) for number in range(3)])
        held = [delivery for _ in range(3) for delivery in await driver.receive(queue, 1, 5.0)]
        drop_connections(bus)
        wishes = [driver.ack, lambda q, b: driver.release(q, [Release(b[0])]), driver.ack]
        for delivery, wish in zip(held, wishes, strict=True):
            answers = []
            async with asyncio.timeout(20):
                while answers in ([], [Settled.UNKNOWN]):  # the first finds out
                    answers = await wish(queue, [delivery])
            assert answers == [Settled.OK]
        assert [stored.message.id for stored in bus.held(queue)] == [held[1].message_id]
        (again,) = await driver.receive(queue, 1, 5.0)
        assert again.deliveries == 2


async def test_a_settlement_without_an_answer_is_asked_for_again(bus, monkeypatch):
    monkeypatch.setattr(links, "ANSWER", 0.5)
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        plan(bus, Fault("complete", kind="silent", times=1))
        assert await driver.ack(queue, [delivery]) == [Settled.UNKNOWN]
        assert bus.held(queue) == []
        # It was done, and the service says only that the lock is not good any more.
        assert await driver.ack(queue, [delivery]) == [Settled.LOST]


async def test_a_throttled_settlement_keeps_its_connection(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        before = bus.server.requests.connections
        plan(bus, Fault("complete", condition="com.microsoft:server-busy", times=1))
        assert await driver.ack(queue, [delivery]) == [Settled.UNKNOWN]
        assert await driver.ack(queue, [delivery]) == [Settled.OK]
        assert bus.server.requests.connections == before


async def test_what_is_settled_stays_settled(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message(0), message(1)])
        first, second = [delivery for _ in range(2) for delivery in await driver.receive(queue, 1, 5.0)]
        assert await asyncio.gather(driver.ack(queue, [first]), driver.ack(queue, [first])) == [[Settled.OK], [Settled.OK]]
        assert await driver.ack(queue, [first]) == [Settled.OK]
        assert await driver.release(queue, [Release(second)]) == [Settled.OK]
        assert await driver.ack(queue, [second]) == [Settled.LOST]
        assert await driver.extend(queue, [first, second], 30.0) == [Settled.LOST, Settled.LOST]
        assert bus.asked("complete") == 1


async def test_a_cancelled_settlement_is_carried_out(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        bus.server.latency = 0.2
        asking = asyncio.ensure_future(driver.ack(queue, [delivery]))
        await asyncio.to_thread(bus.until_asked, "complete")
        asking.cancel()
        assert await driver.ack(queue, [delivery]) == [Settled.OK]
        assert bus.asked("complete") == 1


# Receivers ------------------------------------------------------------------------------------------------------------


async def test_connections_are_bounded(bus):
    queue = await bus.queue()
    async with bus.driver(receivers="3") as driver:
        await driver.send(queue, [message(number) for number in range(20)])
        held = []
        while len(held) < 20:
            found = await asyncio.gather(*(driver.receive(queue, 1, 5.0) for _ in range(5)))
            held += [delivery for deliveries in found for delivery in deliveries]
        assert len({delivery.message_id for delivery in held}) == 20
        await driver.extend(queue, held, 30.0)
        assert len(bus.server.connections) == 5  # three that receive, one that renews, one that sends
        assert await driver.ack(queue, held) == [Settled.OK] * 20
    until(lambda: not bus.server.connections, "connections stay")


async def test_a_settlement_does_not_wait_for_a_long_receive(bus, report):
    """As in a worker: there is always a receive that waits, and what it brings is settled while the next one does."""
    queue = await bus.queue()
    took = []

    async def settle(driver, delivery, after):
        await asyncio.sleep(after)
        began = time.perf_counter()
        assert await driver.ack(queue, [delivery]) == [Settled.OK]
        took.append(time.perf_counter() - began)

    async def work(driver):
        async with asyncio.TaskGroup() as settling:
            received = 0
            while received < 200:
                for delivery in await driver.receive(queue, 10, 10.0):
                    received += 1
                    settling.create_task(settle(driver, delivery, 0.01 * (received % 7)))

    async with bus.driver() as driver:
        working = asyncio.ensure_future(work(driver))
        for number in range(200):
            await driver.send(queue, [message(number)])
            await asyncio.sleep(0.02)  # the rate: what comes one by one is settled one by one
        await working
    took.sort()
    report(f"Service Bus: a settlement beside a long receive takes {took[100] * 1000:.1f} ms, p99 {took[197] * 1000:.1f} ms")
    assert took[197] < 0.2


async def test_a_receiver_that_holds_messages_receives_for_moments_only(bus):
    """With one receiver for all, its settlements come in between."""
    queue = await bus.queue()
    async with bus.driver(receivers="1") as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        waiting = asyncio.ensure_future(driver.receive(queue, 1, 10.0))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(1.0):
            assert await driver.ack(queue, [delivery]) == [Settled.OK]
        waiting.cancel()


async def test_what_a_receiver_did_not_get_is_not_sent_to_it_later(bus):
    """A batch came back short: its link has credit left, and is the one that receives next."""
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message(number) for number in range(4)])
        held = [*await driver.receive(queue, 1, 5.0), *await driver.receive(queue, 100, 5.0)]
        assert len(held) == 4
        for number in range(4, 9):
            began = time.perf_counter()
            await driver.send(queue, [message(number)])
            assert len(await driver.receive(queue, 100, 5.0)) == 1
            assert time.perf_counter() - began < 2.0  # the SDK would give a stray one back after 5 s


async def test_a_renewal_does_not_wait_for_its_receiver(bus):
    queue = await bus.queue()
    async with bus.driver(receivers="1") as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        bus.advance(20)
        assert await driver.extend(queue, [delivery], 30.0) == [Settled.OK]
        bus.advance(20)
        assert await driver.ack(queue, [delivery]) == [Settled.OK]


async def test_a_lost_lock_is_told_and_its_neighbours_are_renewed(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message(0)])
        (late,) = await driver.receive(queue, 1, 5.0)
        bus.advance(31)
        await driver.send(queue, [message(1)])
        fresh = [*await driver.receive(queue, 1, 5.0), *await driver.receive(queue, 1, 5.0)]
        assert await driver.extend(queue, [fresh[0], late, fresh[1]], 30.0) == [Settled.OK, Settled.LOST, Settled.OK]


async def test_what_waited_in_the_socket_is_not_taken_for_a_short_lock(bus):
    """A receive that found nothing leaves credit: what comes then is locked at once, and looked at later."""
    queue = await bus.queue(lease=10.0)
    async with bus.driver() as driver:
        assert await driver.receive(queue, 1, 0.0) == []
        await driver.send(queue, [message()])
        await asyncio.sleep(2 * links._FRESH)  # nobody looks at the socket
        bus.advance(4)
        (delivery,) = await driver.receive(queue, 1, 5.0)
        assert await driver.ack(queue, [delivery]) == [Settled.OK]


async def test_a_short_lock_costs_few_attempts(bus):
    queue = await bus.queue(lease=10.0)
    believed = replace(queue, lease=60.0)
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        for _ in range(5):
            with pytest.raises(Refused, match="10 s, and the queue's lease is 60 s"):  # each time, with the numbers
                await driver.receive(believed, 10, 1.0)
        assert bus.held(queue)[0].count == 1
        bus.advance(61)
        with pytest.raises(Refused, match="LockDuration"):
            await driver.receive(believed, 10, 1.0)
        assert bus.held(queue)[0].count == 2


async def test_a_cancelled_receive_that_waits_for_a_receiver_ends(bus):
    queue = await bus.queue()
    async with bus.driver(receivers="1") as driver:
        first = asyncio.ensure_future(driver.receive(queue, 1, 10.0))
        second = asyncio.ensure_future(driver.receive(queue, 1, 10.0))
        await asyncio.sleep(0.8)
        began = time.perf_counter()
        for each in (first, second):
            each.cancel()
        await driver.aclose()
        assert time.perf_counter() - began < 5


async def test_renewals_without_an_answer_are_given_up_together(bus):
    queue = await bus.queue(lease=8.0)
    async with bus.driver() as driver:
        await driver.send(queue, [message(number) for number in range(4)])
        held = [delivery for _ in range(4) for delivery in await driver.receive(queue, 1, 5.0)]
        plan(bus, Fault("renew-lock", kind="silent"))
        began = time.perf_counter()
        assert await driver.extend(queue, held, 8.0) == [Settled.UNKNOWN] * 4
        assert time.perf_counter() - began < 6
        plan(bus)
        assert await driver.extend(queue, held, 8.0) == [Settled.OK] * 4


async def test_a_delivery_twice_in_a_batch_is_settled_once(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        assert await driver.ack(queue, [delivery, delivery]) == [Settled.OK] * 2
        assert bus.asked("complete") == 1
    with pytest.raises(Unavailable, match="closed"):
        await driver.ack(queue, [delivery])


async def test_a_cancellation_without_an_answer_may_have_been_done(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        token = await driver.schedule(queue, message(delay=60.0))
        plan(bus, Fault("cancel-scheduled-message", kind="lost", times=1))
        with pytest.raises(OutcomeUnknown):
            await driver.cancel(queue, token)
        assert bus.held(queue) == []


# Sessions -------------------------------------------------------------------------------------------------------------


async def test_a_session_is_kept_while_its_head_waits(bus):
    queue = await bus.queue(ordered=True)
    async with bus.driver() as driver, bus.driver() as other:
        await driver.send(queue, [message(number, group="a") for number in range(2)])
        (head,) = await driver.receive(queue, 10, 5.0)
        await driver.release(queue, [Release(head, 20.0)])
        assert await other.receive(queue, 10, 1.0) == []
        bus.advance(21)
        (again,) = await driver.receive(queue, 10, 5.0)
        assert (again.message_id, again.deliveries) == ("id-0", 2)


async def test_a_session_is_kept_for_a_whole_delay_however_old_its_lock_is(bus):
    queue = await bus.queue(ordered=True, lease=12.0)
    async with bus.driver() as driver, bus.driver() as other:
        await driver.send(queue, [message(number, group="a") for number in range(2)])
        (head,) = await driver.receive(queue, 10, 5.0)
        bus.advance(10)
        assert await driver.release(queue, [Release(head, 4.0)]) == [Settled.OK]
        await asyncio.to_thread(bus.until_asked, "renew-session-lock")
        bus.advance(3)  # past the end of the first lock
        assert await other.receive(queue, 10, 1.0) == []


async def test_a_busy_session_gives_each_message_most_of_a_lock(bus):
    queue = await bus.queue(ordered=True, lease=30.0)
    async with bus.driver() as driver:
        await driver.send(queue, [message(number, group="a") for number in range(4)])
        for _ in range(4):
            (delivery,) = await driver.receive(queue, 10, 5.0)
            assert delivery.leased_for > 18
            bus.advance(8)  # less than a third: what the next one has is neither new nor renewed
            assert await driver.ack(queue, [delivery]) == [Settled.OK]


async def test_a_session_with_a_short_lock_is_refused(bus):
    queue = await bus.queue(ordered=True, lease=10.0)
    async with bus.driver() as driver:
        await driver.send(queue, [message(0, group="a")])
        with pytest.raises(Refused, match="LockDuration PT60S"):
            await driver.receive(replace(queue, lease=60.0), 10, 5.0)
        assert bus.held(queue)[0].count == 0


async def test_what_rests_keeps_others_neither_out_nor_waiting_at_the_end(bus):
    queue = await bus.queue(ordered=True)
    async with bus.driver(sessions="1") as driver:
        await driver.send(queue, [message(number, group=f"key-{number}") for number in range(2)])
        (first,) = await driver.receive(queue, 10, 5.0)
        await driver.release(queue, [Release(first, 20.0)])
        (second,) = await driver.receive(queue, 10, 5.0)
        assert {first.message_id, second.message_id} == {"id-0", "id-1"}
        await driver.ack(queue, [second])
        began = time.perf_counter()
    assert time.perf_counter() - began < 6


async def test_a_session_that_nobody_turns_to_is_left_to_others(bus):
    queue = await bus.queue(ordered=True)
    async with bus.driver() as driver, bus.driver() as other:
        await driver.send(queue, [message(number, group="a") for number in range(2)])
        (head,) = await driver.receive(queue, 10, 5.0)
        await driver.ack(queue, [head])
        (following,) = await other.receive(queue, 10, 10.0)
        assert following.message_id == "id-1"


async def test_sessions_are_bounded_and_all_come(bus):
    queue = await bus.queue(ordered=True)
    async with bus.driver(sessions="2") as driver:
        await driver.send(queue, [message(number, group=f"key-{number % 5}") for number in range(10)])
        seen = []
        while len(seen) < 10:
            for delivery in await driver.receive(queue, 10, 10.0):
                seen.append(delivery.message_id)
                assert await driver.ack(queue, [delivery]) == [Settled.OK]
            assert len(bus.server.connections) <= 2 + 1 + 2  # sessions, the sender, and those that are closing
        assert len(set(seen)) == 10


async def test_a_session_whose_connection_went_is_lost(bus):
    queue = await bus.queue(ordered=True)
    async with bus.driver() as driver:
        await driver.send(queue, [message(0, group="a")])
        (delivery,) = await driver.receive(queue, 10, 5.0)
        drop_connections(bus)
        answers = set()
        async with asyncio.timeout(20):
            while Settled.LOST not in answers:
                answers |= {*await driver.ack(queue, [delivery])}
        assert Settled.OK not in answers
        (again,) = await driver.receive(queue, 10, 10.0)
        assert again.message_id == "id-0"


async def test_a_message_without_a_key_is_a_session_of_its_own(bus):
    queue = await bus.queue(ordered=True)
    async with bus.driver() as driver:
        await driver.send(queue, [message(0), message(1)])
        assert {stored.session for stored in bus.held(queue)} == {"id-0", "id-1"}


# Dead letters, and messages of others ---------------------------------------------------------------------------------


async def test_the_dead_part_is_that_of_every_priority(bus):
    high, normal = await bus.queue(), await bus.queue()
    dead = replace(bus.dead(normal), mains=(high.physical, normal.physical))
    async with bus.driver() as driver:
        for queue in (high, normal):
            await driver.send(queue, [replace(message(), attributes={"from": queue.physical})])
            (delivery,) = await driver.receive(queue, 1, 5.0)
            await driver.dead_letter(
                queue, dead, [Burial(delivery, "failed", f'{{"kind": "failed", "reason": "{queue.physical}"}}')]
            )
        letters = [*await driver.receive(dead, 10, 5.0), *await driver.receive(dead, 10, 5.0)]
        assert [letter.attributes for letter in letters] == [
            {"from": queue.physical, RECORD: f'{{"kind": "failed", "reason": "{queue.physical}"}}'} for queue in (high, normal)
        ]
        assert await driver.extend(dead, letters, 30.0) == [Settled.OK] * 2
        assert len(await driver.peek(dead, 10)) == 2
        assert (await driver.stats(dead)).unsettled == 2
        assert await driver.ack(dead, letters) == [Settled.OK] * 2
        assert (await driver.stats(dead)).left == 0


async def test_a_letter_without_room_for_a_record_is_still_ours(bus):
    queue = await bus.queue()
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        await driver.dead_letter(queue, bus.dead(queue), [Burial(delivery, "unreadable", "")])
        (letter,) = await driver.receive(bus.dead(queue), 1, 5.0)
        assert letter.attributes == {RECORD: ""}


async def test_a_letter_of_the_service_keeps_its_reason(bus):
    queue = await bus.queue()
    dead = bus.dead(queue)
    bus.server.ask(lambda: setattr(bus.server.queues[queue.physical].settings, "most_deliveries", 1))
    async with bus.driver() as driver:
        await driver.send(queue, [message()])
        (delivery,) = await driver.receive(queue, 1, 5.0)
        await driver.release(queue, [Release(delivery)])
        (letter,) = await driver.receive(dead, 1, 5.0)
        assert letter.attributes["DeadLetterReason"] == "MaxDeliveryCountExceeded"
        assert RECORD not in letter.attributes
        # Sent back, it is not one any more.
        await driver.send(queue, [replace(message(1), attributes=letter.attributes)])
        assert "DeadLetterReason" not in (bus.held(queue)[-1].message.properties or {})


async def test_messages_of_other_producers_arrive(bus):
    queue = await bus.queue()
    async with (
        bus.driver() as driver,
        ServiceBusClient.from_connection_string(bus.server.connection_string) as client,
        client.get_queue_sender(queue.physical) as sender,
    ):
        await sender.send_messages(ServiceBusMessage("plain", application_properties={"number": 7}))
        await sender.send_messages(AmqpAnnotatedMessage(value_body={"a": [1, 2]}))
        await sender.send_messages(AmqpAnnotatedMessage(data_body=[b"in ", b"pieces"]))
        found = [delivery for _ in range(3) for delivery in await driver.receive(queue, 1, 5.0)]
        assert {delivery.body for delivery in found} == {b"pieces", b"plain", b"{b'a': [1, 2]}"}
        plain = next(delivery for delivery in found if delivery.body == b"plain")
        assert plain.attributes == {"number": "7"}


async def test_what_is_made_is_as_it_should_be(bus):
    queue = Queue("main", "made", lease=45.0, dedup=120.0, ordered=True)
    async with bus.driver() as driver:
        assert [made.physical for made in await driver.create([queue, bus.dead(queue)])] == ["made"]
        assert await driver.create([queue]) == []
    settings = bus.server.queues["made"].settings
    assert (settings.lock, settings.sessions, settings.dedup, settings.window) == (45.0, True, True, 120.0)
    assert settings.most_deliveries > 40
    assert settings.dead_letter_expired
