"""The Pub/Sub driver over the wire: what the conformance suite, which knows no provider, cannot ask."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
from dataclasses import replace

import pytest
from google.pubsub_v1 import PublisherAsyncClient, PublisherClient, SubscriberAsyncClient

from cloudq import CloudQ, EnqueueRejected, PartialEnqueueError
from cloudq.clock import SystemClock
from cloudq.driver import RECORD, Delivery, Outgoing, Part, Release, Settled, Stats
from cloudq.errors import AccessDenied, ConfigError, OutcomeUnknown, QueueNotFound, Refused, Throttled, Unavailable
from cloudq_pubsub.driver import LIMITS, PubSubDriver
from cloudq_pubsub.emulator import Fault, Plan
from cloudq_pubsub.opening import open_pubsub
from cloudq_pubsub.options import Options
from support.foreign import free_port
from support.proxy import FaultProxy
from support.pubsub import message


def subsets(count):
    return itertools.chain.from_iterable(itertools.combinations(range(count), size) for size in range(count + 1))


async def filled(pubsub, driver, count=10, **queue):
    made = await pubsub.queue(**queue)
    assert await driver.send(made, [message(number) for number in range(count)]) == {}
    return made


# Publishing -----------------------------------------------------------------------------------------------------------


async def test_a_batch_is_one_request(pubsub):
    async with pubsub.driver() as driver:
        await filled(pubsub, driver, 1000)
    assert pubsub.asked("Publish") == 1


async def test_a_batch_is_split_by_its_bytes(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        bodies = [bytes([65 + number]) * (LIMITS.send_bytes // 4) for number in range(5)]
        assert await driver.send(queue, [Outgoing(body, body[:1].decode()) for body in bodies]) == {}
        assert sorted(held.message.data for held in pubsub.held(queue)) == bodies
    assert pubsub.asked("Publish") == 2


async def test_each_ordering_key_has_requests_of_its_own(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue(ordered=True)
        batch = [message(number, group=f"k{number % 3}") for number in range(9)]
        assert await driver.send(queue, batch) == {}
        kept = pubsub.held(queue)
        for key in ("k0", "k1", "k2"):
            assert [json.loads(held.message.data)["number"] for held in kept if held.message.ordering_key == key] == [
                number for number in range(9) if f"k{number % 3}" == key
            ]
    assert pubsub.asked("Publish") == 3


async def test_what_stands_behind_a_failure_of_its_key_is_not_sent(pubsub):
    """Each of two keys needs two requests; the first of one fails: its second is told too, and the other key is not touched."""
    big = LIMITS.send_bytes // 2 - 200
    batch = [
        Outgoing(bytes([65 + number]) * big, f"m{number}", group=key)
        for number, key in enumerate(["a", "a", "a", "b", "b", "b"])
    ]
    async with pubsub.driver() as driver:
        queue = await pubsub.queue(ordered=True)
        pubsub.server.plan = Plan([Fault("Publish", code="RESOURCE_EXHAUSTED", times=1)])
        failures = await driver.send(queue, batch)
        assert set(failures) == {0, 1, 2}
        assert isinstance(failures[0], Throttled)
        assert isinstance(failures[2], Unavailable)
        assert {held.message.ordering_key for held in pubsub.held(queue)} == {"b"}
        assert len(pubsub.held(queue)) == 3


async def test_a_publish_that_was_broken_off_is_not_overtaken(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue(ordered=True)
        pubsub.server.plan = Plan([Fault("Publish", kind="slow", seconds=0.3, times=1)])
        first = asyncio.ensure_future(driver.send(queue, [message(0, group="k")]))
        await asyncio.to_thread(pubsub.until_asked, "Publish")
        first.cancel()
        await asyncio.wait([first])
        assert await driver.send(queue, [message(1, group="k")]) == {}
        assert [json.loads(held.message.data)["number"] for held in pubsub.held(queue)] == [0, 1]


async def test_two_that_wait_for_the_same_publish_take_their_turn(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue(ordered=True)
        assert await driver.send(queue, [message(9, group="other")]) == {}  # there is a connection: nobody waits for one
        pubsub.server.plan = Plan([Fault("Publish", kind="slow", seconds=0.3, times=2)])
        sends = [asyncio.ensure_future(driver.send(queue, [message(number, group="k")])) for number in range(3)]
        await asyncio.gather(*sends)
        assert [json.loads(held.message.data)["number"] for held in pubsub.held(queue)] == [9, 0, 1, 2]
        assert driver._publishing == {}


@pytest.mark.parametrize("silent", [False, True])
def test_a_producer_is_told_that_nothing_was_sent(silent):
    """By a port that refuses, and by one behind which nobody says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if silent:
            listening.listen(1)
        app = CloudQ(f"pubsub://test-project?endpoint=http://127.0.0.1:{listening.getsockname()[1]}")

        @app.task
        def mail() -> None: ...

        with pytest.raises(EnqueueRejected, match="surely not queued"):
            mail.enqueue()
        with pytest.raises(PartialEnqueueError) as raised:
            app.enqueue_many([mail.message(), mail.message()])
        assert all(isinstance(error, EnqueueRejected) for error in raised.value.failures.values())
        app.close()


def test_a_producer_without_credentials_is_told(monkeypatch):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "PUBSUB_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    app = CloudQ("pubsub://test-project")

    @app.task
    def mail() -> None: ...

    with pytest.raises(EnqueueRejected, match="application-default login"):
        mail.enqueue()
    with pytest.raises(PartialEnqueueError, match="application-default login"):
        app.enqueue_many([mail.message()])


async def test_a_publish_without_an_answer_may_have_arrived(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        pubsub.server.plan = Plan([Fault("Publish", kind="lost", times=1)])
        with pytest.raises(OutcomeUnknown):
            await driver.send(queue, [message()])
        assert len(pubsub.held(queue)) == 1


async def test_without_a_connection_nothing_was_sent(pubsub):
    queue = await pubsub.queue()
    async with pubsub.driver(endpoint=f"127.0.0.1:{free_port()}") as driver:
        with pytest.raises(Unavailable, match="no connection"):
            await driver.send(queue, [message()])
    assert pubsub.asked("Publish") == 0


async def test_the_connection_comes_back_by_itself(pubsub):
    queue = await pubsub.queue()
    with FaultProxy(pubsub.server.port, random.Random(1)) as proxy:
        async with pubsub.driver(endpoint=f"127.0.0.1:{proxy.port}") as driver:
            assert await driver.send(queue, [message(0)]) == {}
            proxy.faults.refuse = True
            with pytest.raises((OutcomeUnknown, Unavailable)):
                await driver.send(queue, [message(9)])
            proxy.faults.refuse = False
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert await driver.send(queue, [message(1)]) == {}
                        break
                    except (OutcomeUnknown, Unavailable):
                        pass
            assert {0, 1} <= {json.loads(held.message.data)["number"] for held in pubsub.held(queue)}


# What travels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b"{}", "größe".encode()])
async def test_a_body_arrives_byte_for_byte(pubsub, body):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        assert await driver.send(queue, [Outgoing(body, "m")]) == {}
        (delivery,) = await driver.receive(queue, 1, 5.0)
        assert (delivery.body, delivery.attributes) == (body, {})


async def test_a_message_with_a_hundred_attributes_can_die(pubsub):
    attributes = {f"a{number}": str(number) for number in range(100)}
    async with pubsub.driver() as driver:
        queue = await pubsub.queue(Part.DEAD)
        assert await driver.send(queue, [Outgoing(b"x", "m", attributes={**attributes, RECORD: "why"})]) == {}
        (delivery,) = await driver.receive(queue, 1, 5.0)
        assert delivery.attributes == attributes


# Settling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["ack", "extend", "release"])
async def test_a_settlement_answers_for_every_subset_of_ten(pubsub, what):
    """Exhaustively, as exactly-once delivery tells it: exactly those of the subset are unknown, and nothing else is changed."""
    async with pubsub.driver(exactly_once=True) as driver:
        queue = await filled(pubsub, driver, exactly_once=True)
        for failing in subsets(10):
            taken = list(await driver.receive(queue, 10, 5.0))
            assert len(taken) == 10
            method = "Acknowledge" if what == "ack" else "ModifyAckDeadline"
            pubsub.server.plan = Plan([Fault(method, ids=failing, times=1)] if failing else [])
            settle = {
                "ack": lambda batch: driver.ack(queue, batch),
                "extend": lambda batch: driver.extend(queue, batch, 60.0),
                "release": lambda batch: driver.release(queue, [Release(delivery, 20.0) for delivery in batch]),
            }[what]
            answers = await settle(taken)
            # An answer that names some says nothing for sure of the others: all of it is asked for again.
            assert answers == [Settled.UNKNOWN if failing else Settled.OK] * 10
            held = pubsub.held(queue)
            now = pubsub.clock.time()
            if what == "ack":
                assert len(held) == len(failing)
            else:
                assert sum(29 < each.due - now <= 30 for each in held) == len(failing)
            await settle(taken)  # and once more: what was done then is invalid now, beside what is done now
            assert await settle(taken) == [Settled.OK] * 10
            await driver.ack(queue, taken)
            assert await driver.send(queue, [message(number) for number in range(10)]) == {}


async def test_with_exactly_once_a_late_settlement_is_told(pubsub):
    async with pubsub.driver(exactly_once=True) as driver:
        assert driver.limits.tells_lost
        queue = await filled(pubsub, driver, 2, exactly_once=True)
        late = list(await driver.receive(queue, 10, 5.0))
        pubsub.advance(31)
        again = list(await driver.receive(queue, 10, 5.0))
        assert await driver.ack(queue, late) == [Settled.LOST, Settled.LOST]
        assert await driver.extend(queue, late, 30.0) == [Settled.LOST, Settled.LOST]
        assert await driver.ack(queue, again) == [Settled.OK, Settled.OK]
    async with pubsub.driver() as plain:
        assert not plain.limits.tells_lost


@pytest.mark.parametrize("what", ["ack", "extend", "release"])
@pytest.mark.parametrize(("code", "error"), [("RESOURCE_EXHAUSTED", Throttled), ("PERMISSION_DENIED", AccessDenied)])
async def test_details_of_other_errors_say_nothing_of_single_ids(pubsub, what, code, error):
    async with pubsub.driver() as driver:
        queue = await filled(pubsub, driver, 2)
        taken = list(await driver.receive(queue, 10, 5.0))
        pubsub.server.plan = Plan([Fault(code=code, info={"service": "pubsub.googleapis.com"}, times=1)])
        with pytest.raises(error):
            await {
                "ack": lambda: driver.ack(queue, taken),
                "extend": lambda: driver.extend(queue, taken, 60.0),
                "release": lambda: driver.release(queue, [Release(delivery, 20.0) for delivery in taken]),
            }[what]()
        assert await driver.ack(queue, taken) == [Settled.OK, Settled.OK]


async def test_an_ack_whose_answer_was_lost_is_no_lost_lease(pubsub):
    async with pubsub.driver(exactly_once=True) as driver:
        queue = await filled(pubsub, driver, 2, exactly_once=True)
        taken = list(await driver.receive(queue, 10, 5.0))
        pubsub.server.plan = Plan([Fault("Acknowledge", kind="lost", times=1)])
        with pytest.raises(Unavailable):
            await driver.ack(queue, taken)
        assert await driver.ack(queue, taken) == [Settled.OK, Settled.OK]
        assert pubsub.held(queue) == []


async def test_a_thousand_ids_can_fail_one_by_one(pubsub):
    """The trailer that tells of them is larger than gRPC takes by itself."""
    async with pubsub.driver(exactly_once=True) as driver:
        queue = await filled(pubsub, driver, 1000, exactly_once=True)
        late: list[Delivery] = []
        while len(late) < 1000:
            late += await driver.receive(queue, 1000 - len(late), 5.0)
        pubsub.advance(31)
        assert await driver.ack(queue, late) == [Settled.LOST] * 1000


async def test_releases_with_the_same_delay_share_a_call(pubsub):
    async with pubsub.driver() as driver:
        queue = await filled(pubsub, driver)
        taken = list(await driver.receive(queue, 10, 5.0))
        await driver.release(queue, [Release(delivery, number % 2 * 7.2) for number, delivery in enumerate(taken)])
        assert pubsub.asked("ModifyAckDeadline") == 2
        assert len(await driver.receive(queue, 10, 5.0)) == 5
        pubsub.advance(6.4)
        assert not await driver.receive(queue, 10, 1.0)  # until 7.4
        pubsub.advance(0.7)  # it was rounded up to 8
        assert len(await driver.receive(queue, 10, 5.0)) == 5


async def test_attempts_are_nacks_and_expiries(pubsub):
    async with pubsub.driver() as driver:
        queue = await filled(pubsub, driver, 1)
        (first,) = await driver.receive(queue, 1, 5.0)
        await driver.release(queue, [Release(first)])
        (second,) = await driver.receive(queue, 1, 5.0)
        pubsub.advance(31)
        (third,) = await driver.receive(queue, 1, 5.0)
        assert [delivery.deliveries for delivery in (first, second, third)] == [1, 2, 3]


async def test_a_subscription_with_a_shorter_deadline_is_no_shorter_lease(pubsub, caplog):
    async with pubsub.driver() as driver:
        queue = await filled(pubsub, driver, 1, lease=10.0)
        longer = replace(queue, lease=60.0)
        assert len(await driver.receive(longer, 10, 5.0)) == 1
        pubsub.advance(50)
        assert await driver.receive(longer, 10, 1.0) == []
    assert "its ack_deadline_seconds is 10, and the queue's lease 60 s" in caplog.text


async def test_a_worker_that_may_not_see_the_deadline_extends_after_each_pull(pubsub):
    async with pubsub.driver() as driver:
        queue = await filled(pubsub, driver, 1)
        pubsub.server.plan = Plan([Fault("GetSubscription", code="PERMISSION_DENIED")])
        assert len(await driver.receive(queue, 10, 5.0)) == 1
    assert (pubsub.asked("GetSubscription"), pubsub.asked("ModifyAckDeadline")) == (1, 1)


async def test_where_the_extension_fails_the_short_lease_is_told(pubsub):
    async with pubsub.driver() as driver:
        queue = await filled(pubsub, driver, 1, lease=10.0)
        pubsub.server.plan = Plan([Fault("ModifyAckDeadline", code="UNAVAILABLE", times=1)])
        (taken,) = await driver.receive(replace(queue, lease=60.0), 10, 5.0)
        assert taken.leased_for <= 10.0


async def test_a_missing_subscription_has_no_counts(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        assert await driver.stats(queue) == Stats()
        with pytest.raises(QueueNotFound):
            await driver.stats(replace(queue, physical="t-missing"))


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("NOT_FOUND", QueueNotFound, "cloudq queues create"),
        ("PERMISSION_DENIED", AccessDenied, "roles/pubsub.publisher on that topic"),
        ("UNAUTHENTICATED", AccessDenied, "roles/pubsub.publisher"),
        ("RESOURCE_EXHAUSTED", Throttled, "quota"),
        ("INVALID_ARGUMENT", Refused, "INVALID_ARGUMENT"),
        ("DEADLINE_EXCEEDED", OutcomeUnknown, "DEADLINE_EXCEEDED"),
        ("UNAVAILABLE", OutcomeUnknown, "UNAVAILABLE"),
        ("INTERNAL", OutcomeUnknown, "INTERNAL"),
        ("ABORTED", OutcomeUnknown, "ABORTED"),
        ("CANCELLED", OutcomeUnknown, "CANCELLED"),
    ],
)
async def test_what_a_status_means_for_a_publish(pubsub, code, error, says):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        pubsub.server.plan = Plan([Fault("Publish", code=code, times=1)])
        with pytest.raises(error, match=says) as raised:
            await driver.send(queue, [message()])
        assert raised.value.__cause__ is not None
        assert await driver.send(queue, [message()]) == {}


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("NOT_FOUND", QueueNotFound, "cloudq queues create"),
        ("PERMISSION_DENIED", AccessDenied, "roles/pubsub.subscriber on that subscription"),
        ("RESOURCE_EXHAUSTED", Throttled, "quota"),
        ("UNAVAILABLE", Unavailable, "UNAVAILABLE"),
        ("INTERNAL", Unavailable, "INTERNAL"),
    ],
)
async def test_what_a_status_means_for_a_pull(pubsub, code, error, says):
    async with pubsub.driver() as driver:
        queue = await filled(pubsub, driver, 1)
        pubsub.server.plan = Plan([Fault("Pull", code=code, times=1)])
        with pytest.raises(error, match=says):
            await driver.receive(queue, 1, 5.0)
        assert len(await driver.receive(queue, 1, 5.0)) == 1


async def test_a_pull_in_which_nothing_came_is_empty(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        pubsub.server.plan = Plan([Fault("Pull", code="DEADLINE_EXCEEDED", times=1)])
        assert await driver.receive(queue, 1, 1.0) == []


async def test_credentials_that_were_revoked_are_told_as_that(pubsub, tmp_path, monkeypatch):
    """gRPC says UNAVAILABLE for them as for a network that is down: the driver looks."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with TokenServer() as tokens:
        account = {
            "type": "service_account",
            "project_id": "test-project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "worker@test-project.iam.gserviceaccount.com",
            "token_uri": tokens.url,
        }
        (tmp_path / "key.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        queue = await pubsub.queue()
        driver = PubSubDriver(Options(endpoint=pubsub.endpoint, plain=False), pubsub.clock)
        try:
            assert driver.project == "test-project"
            with pytest.raises(AccessDenied, match=r"could not be renewed.*revoked"):
                await driver.receive(queue, 1, 1.0)
        finally:
            await driver.aclose()


async def test_no_credentials_and_no_project_are_told(monkeypatch):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "PUBSUB_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(AccessDenied, match="gcloud auth application-default login"):
        open_pubsub("my-project", {}, SystemClock())
    with pytest.raises(ConfigError, match="GOOGLE_CLOUD_PROJECT"):
        open_pubsub("", {"endpoint": "http://127.0.0.1:1"}, SystemClock())


# Life -----------------------------------------------------------------------------------------------------------------


async def test_the_usual_variables_are_honoured(pubsub, monkeypatch):
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.endpoint)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test-project")
    queue = await pubsub.queue()
    driver = open_pubsub("", {"region": "europe-west1"}, pubsub.clock)  # the region of the service, which this is not
    try:
        assert await driver.send(queue, [message()]) == {}
    finally:
        await driver.aclose()
    assert len(pubsub.held(queue)) == 1


async def test_a_driver_does_not_cross_a_fork(pubsub, monkeypatch):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(Unavailable, match="before a fork"):
            await driver.send(queue, [message()])
        monkeypatch.undo()


async def test_the_native_clients_can_be_had(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue()
        publisher = driver.unwrap(PublisherAsyncClient)
        topic = await publisher.get_topic(topic=f"projects/test-project/topics/{queue.physical}")
        assert topic.name.endswith(queue.physical)
        assert driver.unwrap(SubscriberAsyncClient) is not None
        with pytest.raises(TypeError, match="PublisherAsyncClient"):
            driver.unwrap(PublisherClient)


async def test_subscriptions_are_made_as_the_design_has_them(pubsub):
    async with pubsub.driver() as driver:
        queue = await pubsub.queue(lease=60.0)
        weekly = replace(queue, physical="t-weekly", retention=7 * 86_400.0)
        await driver.create([weekly])
        subscriber = driver.unwrap(SubscriberAsyncClient)
        kept = await subscriber.get_subscription(subscription="projects/test-project/subscriptions/t-weekly")
        made = await subscriber.get_subscription(subscription=f"projects/test-project/subscriptions/{queue.physical}")
    assert made.ack_deadline_seconds == 60
    assert "retry_policy" not in made
    assert made.dead_letter_policy.dead_letter_topic.endswith(f"{queue.physical}-dlq")
    assert (kept.message_retention_duration.days, made.message_retention_duration.days) == (7, 31)
    assert "expiration_policy" in made
    assert not made.expiration_policy.ttl


class TokenServer:
    """Answers every request for a token as Google does for a key that was revoked (RFC 6749, invalid_grant)."""

    def __enter__(self):
        import http.server
        import threading

        class Refuses(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
                self.send_response(400)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
