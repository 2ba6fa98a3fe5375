"""The SQS driver over the wire: what the conformance suite, which knows no provider, cannot ask."""

from __future__ import annotations

import asyncio
import itertools
import json
import os

import boto3
import pytest
from botocore.client import BaseClient

from cloudq import redrive
from cloudq.conformance.working import Watch
from cloudq.driver import RECORD, MovesDeadLetters, Outgoing, Part, Provisioner, Queue, Release, Settled
from cloudq.errors import ConfigError, Refused, Throttled, Unavailable, Unsupported
from cloudq.events import Name
from cloudq.worker.process import Plan as Work
from cloudq.worker.process import engine_of, working
from cloudq_sqs import messages
from cloudq_sqs.driver import LIMITS, SQSDriver
from cloudq_sqs.emulator import Fault, Plan
from cloudq_sqs.opening import open_sqs
from cloudq_sqs.options import Options, read
from support.sqs import message


async def filled(sqs, driver, count=10, **queue):
    made = await sqs.queue(**queue)
    assert await driver.send(made, [message(number) for number in range(count)]) == {}
    return made


# Batches --------------------------------------------------------------------------------------------------------------


async def test_a_send_reports_every_way_in_which_ten_entries_can_fail(sqs):
    """Exhaustively: each of the 1,024 subsets of a batch fails, exactly it is told, and exactly the others are there."""
    async with sqs.driver() as driver:
        queue = await sqs.queue()
        for failing in subsets(10):
            sqs.server.plan = Plan(
                [Fault("SendMessageBatch", code="InternalError", entries=failing, times=1)] if failing else []
            )
            failures = await driver.send(queue, [message(number) for number in range(10)])
            assert set(failures) == set(failing)
            assert all(isinstance(error, Unavailable) for error in failures.values())
            held = sqs.server.service.queues[queue.physical]
            assert sorted(json.loads(each.body)["number"] for each in held.messages.values()) == sorted(
                set(range(10)) - set(failing)
            )
            for each in list(held.messages.values()):
                held.remove(each)


@pytest.mark.parametrize("what", ["ack", "extend", "release"])
async def test_a_settlement_answers_for_every_subset_of_ten(sqs, what):
    async with sqs.driver() as driver:
        queue = await filled(sqs, driver)
        held = await driver.receive(queue, 10, 1.0)
        action = "DeleteMessageBatch" if what == "ack" else "ChangeMessageVisibilityBatch"

        async def settle():
            if what == "ack":
                return await driver.ack(queue, held)
            if what == "extend":
                return await driver.extend(queue, held, 30.0)
            return await driver.release(queue, [Release(delivery, 60.0) for delivery in held])

        for failing in subsets(10):
            for code, told in (("InternalError", Settled.UNKNOWN), ("ReceiptHandleIsInvalid", Settled.LOST)):
                sqs.server.plan = Plan([Fault(action, code=code, entries=failing, times=1)] if failing else [])
                answers = await settle()
                assert answers == [told if position in failing else Settled.OK for position in range(10)]


@pytest.mark.parametrize(("code", "raised"), [("RequestThrottled", Throttled), ("InternalError", Unavailable)])
async def test_the_sender_repeats_only_what_failed(sqs, code, raised):
    app = sqs.app(clock=False, mail={})
    await sqs.create()

    @app.task(queue="mail")
    def mail(number: int) -> None: ...

    await mail.aenqueue(0)
    sqs.server.plan = Plan([Fault("SendMessageBatch", code=code, entries=(1, 4, 8), times=2)])
    before = sqs.server.requests.by_action["SendMessageBatch"]
    await app.aenqueue_many([mail.message(number) for number in range(10)])
    # Ten; the three that failed; of those, position 1 again; and then that one.
    assert sqs.server.requests.by_action["SendMessageBatch"] - before == 3
    assert len(sqs.server.service.queues[f"{app.settings.namespace}-mail"].messages) == 11
    app.close()


async def test_a_batch_is_packed_by_bytes_with_its_attributes(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue()
        attributes = {"a" * 100: "x" * 100_000}
        size = messages.size("y" * 5000, messages.to_attributes(attributes, encoded=False))
        assert size == 5000 + 100 + len("String") + 100_000
        before = sqs.server.requests.by_action["SendMessageBatch"]
        assert await driver.send(queue, [Outgoing(b"y" * 5000, str(n), attributes=attributes) for n in range(10)]) == {}
        assert sqs.server.requests.by_action["SendMessageBatch"] - before == 2  # nine fit into 1 MiB, as the emulator counts it
        for place in (0, 1):  # one that is too large fails alone
            batch = [message(1)]
            batch.insert(place, Outgoing(b"z" * (LIMITS.message_bytes + 1), "large"))
            failures = await driver.send(queue, batch)
            assert list(failures) == [place]
            assert isinstance(failures[place], Refused)
            assert "1048576 bytes" in str(failures[place])


def subsets(count):
    return itertools.chain.from_iterable(itertools.combinations(range(count), size) for size in range(count + 1))


# What stands in a message ---------------------------------------------------------------------------------------------

BODIES = [b"{}", b"", b"\x00\xff\xfe", "größe ✓ \U0001f600".encode(), "\ufffe".encode(), b"\x1b[31m", b"\r\n\t ", b'"\x7f"']


@pytest.mark.parametrize("body", BODIES, ids=repr)
async def test_any_bytes_arrive_as_they_were_sent(sqs, body):
    async with sqs.driver() as driver:
        queue = await sqs.queue()
        assert await driver.send(queue, [Outgoing(body, "one", attributes={"kind": "a", "empty": ""})]) == {}
        (delivery,) = await driver.receive(queue, 1, 1.0)
        assert delivery.body == body
        assert dict(delivery.attributes) == {"kind": "a", "empty": ""}


async def test_the_attributes_of_a_foreign_message_outlive_its_dead_lettering(sqs):
    """Ten of its own, of every type, and the record beside them."""
    async with sqs.driver() as driver:
        queue, dead = await sqs.queue(), await sqs.queue(Part.DEAD)
        client = driver.unwrap(BaseClient)
        foreign = {f"s{n}": {"DataType": "String", "StringValue": "x"} for n in range(7)} | {
            "n": {"DataType": "Number.int", "StringValue": "42"},
            "b": {"DataType": "Binary.png", "BinaryValue": b"\x89PNG\x00"},
            "c": {"DataType": "String.custom", "StringValue": "y"},
        }
        url = client.get_queue_url(QueueName=queue.physical)["QueueUrl"]
        client.send_message(QueueUrl=url, MessageBody="not ours", MessageAttributes=foreign)
        (delivery,) = await driver.receive(queue, 1, 1.0)
        copied = Outgoing(delivery.body, delivery.message_id, attributes={**delivery.attributes, RECORD: "why"})
        assert await driver.send(dead, [copied]) == {}
        (letter,) = await driver.receive(dead, 1, 1.0)
        assert letter.attributes[RECORD] == "why"
        again = messages.to_attributes({k: v for k, v in letter.attributes.items() if k != RECORD}, encoded=False)
        assert again == foreign  # sent back, it is what it was


async def test_a_tenant_is_the_group_of_a_standard_queue(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue()
        assert await driver.send(queue, [message(1, group="acme corp ✓"), message(2, group="b")]) == {}
        groups = [each.group for each in sqs.server.service.queues[queue.physical].messages.values()]
        assert groups == [messages.token("acme corp ✓"), "b"]
        assert groups[0].startswith("sha256-")
        assert messages.token(groups[0]) == groups[0]


# Order ----------------------------------------------------------------------------------------------------------------


async def test_an_entry_that_fails_is_not_overtaken_by_its_group(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue(ordered=True)
        batch = [message(number, group="a" if number != 2 else "b") for number in range(4)]
        sqs.server.plan = Plan([Fault("SendMessageBatch", code="InternalError", entries=(0,), times=1)])
        failures = await driver.send(queue, batch)
        assert sorted(failures) == [0, 1, 3]  # 1 and 3 stand behind 0; 2 is of another key
        assert await driver.send(queue, [batch[position] for position in sorted(failures)]) == {}
        bodies = []
        while len(bodies) < 4:
            found = await driver.receive(queue, 1, 1.0)
            bodies += [json.loads(each.body)["number"] for each in found]
            await driver.ack(queue, found)
        assert [number for number in bodies if number != 2] == [0, 1, 3]


async def test_a_repeated_send_to_an_ordered_queue_is_dropped(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue(ordered=True)
        for _ in range(2):
            assert await driver.send(queue, [message(1, group="a")]) == {}
        assert len(sqs.server.service.queues[f"{queue.physical}.fifo"].messages) == 1


# Leases ---------------------------------------------------------------------------------------------------------------


async def test_a_lease_that_was_given_during_a_poll_is_as_old_as_the_poll(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue(lease=60.0)
        polling = asyncio.ensure_future(driver.receive(queue, 1, 20.0))
        await asyncio.to_thread(sqs.until_asked, "ReceiveMessage")
        sqs.clock.advance(12.0)
        assert await driver.send(queue, [message()]) == {}
        (delivery,) = await polling
        assert 47.0 < delivery.leased_for <= 48.0


async def test_a_poll_uses_up_a_third_of_a_lease_at_the_most(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue(lease=3.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await driver.receive(queue, 1, 20.0) == []
        assert loop.time() - began < 3.0


async def test_twelve_hours_after_the_receive_an_extension_is_lost(sqs):
    async with sqs.driver() as driver:
        queue = await filled(sqs, driver, 1)
        (delivery,) = await driver.receive(queue, 1, 1.0)
        for _ in range(24):  # the last one from 41,170 s to 42,970 s
            assert await driver.extend(queue, [delivery], 1800) == [Settled.OK]
            sqs.advance(1790)
        assert await driver.extend(queue, [delivery], 1800) == [Settled.LOST]


async def test_a_cancelled_poll_gives_back_what_it_brings(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue(lease=60.0)
        polling = asyncio.ensure_future(driver.receive(queue, 1, 20.0))
        await asyncio.to_thread(sqs.until_asked, "ReceiveMessage")
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        assert await driver.send(queue, [message()]) == {}
    # The close waited for it.
    assert sqs.server.requests.by_action["ChangeMessageVisibilityBatch"] == 1
    async with sqs.driver() as driver:
        (delivery,) = await driver.receive(queue, 1, 1.0)
        assert delivery.deliveries == 2


# The rest -------------------------------------------------------------------------------------------------------------


async def test_create_makes_what_is_documented(sqs):
    main = Queue("mail", "shop-mail", lease=45.0, retention=604_800)
    dead, delay = Queue("mail", "shop-mail-dlq", Part.DEAD), Queue("mail", "shop-mail-delay", Part.DELAY)
    async with sqs.driver() as driver:
        assert isinstance(driver, Provisioner)
        assert isinstance(driver, MovesDeadLetters)
        assert {queue.physical for queue in await driver.create([main, delay, dead])} == {
            "shop-mail",
            "shop-mail-delay",
            "shop-mail-dlq",
        }
        assert await driver.create([main, delay, dead]) == []
        client = driver.unwrap(BaseClient)
        found = {
            name: client.get_queue_attributes(
                QueueUrl=client.get_queue_url(QueueName=name)["QueueUrl"], AttributeNames=["All"]
            )["Attributes"]
            for name in ("shop-mail", "shop-mail-delay", "shop-mail-dlq")
        }
    assert found["shop-mail"]["VisibilityTimeout"] == "45"
    assert found["shop-mail"]["MessageRetentionPeriod"] == "604800"
    assert found["shop-mail"]["SqsManagedSseEnabled"] == "true"
    policy = json.loads(found["shop-mail"]["RedrivePolicy"])
    assert policy == {"deadLetterTargetArn": found["shop-mail-dlq"]["QueueArn"], "maxReceiveCount": 45}
    assert "RedrivePolicy" not in found["shop-mail-delay"]
    assert found["shop-mail-delay"]["MessageRetentionPeriod"] == "1209600"


async def test_the_options_of_the_url_reach_the_queues(sqs):
    main = Queue("mail", "shop-mail", ordered=True, of_ordered=True)
    dead = Queue("mail", "shop-mail-dlq", Part.DEAD, of_ordered=True)
    async with sqs.driver(fifo_throughput="high", sse="alias/shop", prefix="eu-") as driver:
        await driver.create([main, dead])
    held = sqs.server.service.queues
    found = {"shop-mail": held["eu-shop-mail.fifo"].attributes}
    assert set(held) == {"eu-shop-mail.fifo", "eu-shop-mail-dlq.fifo"}
    assert found["shop-mail"]["FifoThroughputLimit"] == "perMessageGroupId"
    assert found["shop-mail"]["DeduplicationScope"] == "messageGroup"
    assert found["shop-mail"]["KmsMasterKeyId"] == "alias/shop"
    async with sqs.driver(urls={"shop-mail": f"{sqs.endpoint}/000000000000/eu-shop-mail.fifo"}) as driver:
        assert await driver.send(main, [message(group="a")]) == {}
    async with sqs.driver(account="000000000000", prefix="eu-") as driver:
        before = sqs.server.requests.by_action["GetQueueUrl"]
        assert (await driver.stats(main)).ready == 1
        assert sqs.server.requests.by_action["GetQueueUrl"] == before


async def test_the_region_comes_from_the_environment_and_must_be_somewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="without a region"):
        SQSDriver(read("", {}), clock=None)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    driver = SQSDriver(read("", {}), clock=None)
    assert driver.region == "eu-central-1"
    await driver.aclose()


async def test_the_endpoint_of_the_environment_is_honoured(sqs, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", sqs.endpoint)
    queue = await sqs.queue()
    driver = open_sqs("us-east-1", {}, sqs.clock)
    assert (await driver.stats(queue)).ready == 0
    await driver.aclose()


async def test_the_native_client_is_at_hand_and_a_wrong_type_says_which_there_is(sqs):
    async with sqs.driver() as driver:
        assert "amazonaws" not in driver.unwrap(BaseClient).meta.endpoint_url
        with pytest.raises(TypeError, match=r"botocore\.client\.BaseClient"):
            driver.unwrap(boto3.Session)


async def test_a_driver_does_not_cross_a_fork_nor_outlive_its_close(sqs, monkeypatch):
    queue = await sqs.queue()
    async with sqs.driver() as driver:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(Unavailable, match="before a fork"):
            await driver.stats(queue)
        monkeypatch.undo()
    with pytest.raises(Unavailable, match="closed"):
        await driver.stats(queue)


async def test_a_single_message_is_not_moved_natively(sqs):
    async with sqs.driver() as driver:
        with pytest.raises(Refused):
            await driver.dead_letter(await sqs.queue(), await sqs.queue(Part.DEAD), [])


def test_an_ordered_queue_has_the_suffix_of_its_kind():
    assert Options(region="eu-west-1").name(Queue("m", "shop-m", ordered=True)) == "shop-m.fifo"


# What must not hurt ----------------------------------------------------------------------------------------------------


async def test_a_record_without_room_does_not_keep_a_message_from_the_dead_part(sqs):
    async with sqs.driver() as driver:
        dead = await sqs.queue(Part.DEAD)
        assert await driver.send(dead, [Outgoing(b"foreign", "one", attributes={RECORD: ""})]) == {}
        (letter,) = await driver.receive(dead, 1, 1.0)
        assert RECORD not in letter.attributes


@pytest.mark.parametrize(
    "packed", ["[" * 100_000, '{"a": ["Binary", "!"]}', '{"a": ["String", "\\ud800"]}', '{"a": 1}', "[]", '{"a": [1, 2]}']
)
async def test_an_attribute_that_only_looks_packed_stays_as_it_is(sqs, packed):
    async with sqs.driver() as driver:
        queue = await sqs.queue()
        client = driver.unwrap(BaseClient)
        url = client.get_queue_url(QueueName=queue.physical)["QueueUrl"]
        attributes = {messages.PACKED: {"DataType": "String", "StringValue": packed}}
        client.send_message(QueueUrl=url, MessageBody="x", MessageAttributes=attributes)
        (delivery,) = await driver.receive(queue, 1, 1.0)
        assert dict(delivery.attributes) == {messages.PACKED: packed}
        assert await driver.send(queue, [Outgoing(delivery.body, "copy", attributes=delivery.attributes)]) == {}


async def test_asking_for_a_url_without_an_answer_says_that_nothing_was_sent(sqs):
    queue = await sqs.queue()
    sqs.server.plan = Plan([Fault("GetQueueUrl", kind="lost")])
    async with sqs.driver() as driver:
        with pytest.raises(Unavailable):
            await driver.send(queue, [message()])


async def test_a_cancelled_send_of_an_ordered_queue_is_not_overtaken(sqs):
    async with sqs.driver() as driver:
        queue = await sqs.queue(ordered=True)
        assert await driver.send(queue, [message(0, group="a")]) == {}
        sqs.server.plan = Plan([Fault("SendMessageBatch", kind="slow", seconds=0.5, times=1)])
        answered = asyncio.get_running_loop().time() + 0.5
        first = asyncio.ensure_future(driver.send(queue, [message(1, group="a")]))
        await asyncio.to_thread(sqs.until_asked, "SendMessageBatch", 2)
        first.cancel()
        assert await driver.send(queue, [message(2, group="a")]) == {}
        assert asyncio.get_running_loop().time() >= answered
        held = sqs.server.service.queues[f"{queue.physical}.fifo"]
        assert [json.loads(each.body)["number"] for each in held.messages.values()] == [0, 1, 2]


async def test_a_delayed_task_without_a_key_reaches_its_ordered_queue(sqs):
    app = sqs.app(mail={"ordered": True})
    await sqs.create()
    ran = []

    @app.task(queue="mail")
    def mail(number: int) -> None:
        ran.append(number)

    for number, delay in enumerate((60, 1200)):
        await mail.options(delay=delay).aenqueue(number)
    watch = Watch(app)
    async with engine_of(app, Work(queues=["mail"])) as pumping:
        for _ in range(8):
            sqs.advance(300)
            await pumping.pump_once()
    async with working(app, Work(queues=["mail"], grace=6.0)):
        await watch.until(Name.ACKED, 2)
    assert sorted(ran) == [0, 1]
    app.close()


async def test_an_ordered_queue_is_not_moved_by_the_provider(sqs):
    app = sqs.app(mail={"ordered": True})
    await sqs.create()
    with pytest.raises(Unsupported, match="without --bulk"):
        await redrive.move(app, "mail")
    app.close()


async def test_what_becomes_visible_sooner_ends_a_poll_that_waits(sqs):
    """As the service has it; an emulator that reckons with the old time lets a retry wait for the end of the poll."""
    async with sqs.driver() as driver:
        queue = await filled(sqs, driver, 1)
        (taken,) = await driver.receive(queue, 1, 5.0)
        waiting = asyncio.ensure_future(driver.receive(queue, 1, 20.0))
        await asyncio.to_thread(sqs.until_asked, "ReceiveMessage", 2)
        await driver.release(queue, [Release(taken, 1.0)])
        async with asyncio.timeout(5):
            assert len(await waiting) == 1
