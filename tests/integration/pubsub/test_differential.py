"""One script, on the emulator and on Google's own: every difference is listed here, with the page that says who is right.

The script drives the vendor's clients at both levels, sync and async. What is compared is what a client can see: that it was
done, or the status of the error, and figures that do not vary. Both run in real time, the steps at the same time.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import DeadlineExceeded, GoogleAPICallError
from google.cloud import pubsub_v1
from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
from google.pubsub_v1 import PublisherAsyncClient, PublisherClient, SubscriberAsyncClient, SubscriberClient, types
from google.pubsub_v1.services.publisher import transports as publishing
from google.pubsub_v1.services.subscriber import transports as subscribing

from cloudq_pubsub.emulator import Server
from conftest import missing
from support.foreign import google_pubsub, google_pubsub_jar

#: By step, where Google's emulator differs, and why. "API" is google.pubsub.v1, "docs" docs.cloud.google.com/pubsub.
DIFFERENCES: dict[str, str] = {
    "a deadline of 9 s": "Google's takes it: API, Subscription.ack_deadline_seconds: 10 at least",
    "a deadline of 601 s": "Google's takes it: API, ModifyAckDeadlineRequest: 600 at most",
    "a retention of 31 days": "Google's refuses it: API, Subscription.message_retention_duration: 31 days at most",
    "a nacked head comes first again": "Google's sends the second message: docs, ordering: the head, and then what follows it",
    "a filter": "Google's does not apply it: docs, filters",
    "a filter that cannot be read": "Google's does not read it: docs, filters",
}

PROJECT = "test-project"


class Script:
    """The steps, in order. Each returns what is compared."""

    def __init__(self, host: str) -> None:
        self.host = host
        channel = grpc.insecure_channel(host, options=[("grpc.max_send_message_length", -1)])
        self.publisher = PublisherClient(transport=publishing.PublisherGrpcTransport(channel=channel))
        self.subscriber = SubscriberClient(transport=subscribing.SubscriberGrpcTransport(channel=channel))

    def run(self) -> dict[str, Any]:
        with ThreadPoolExecutor(16) as pool:
            found = {name: pool.submit(self.outcome, name, step) for name, step in STEPS.items()}
        return {name: outcome.result() for name, outcome in found.items()}

    def outcome(self, name: str, step: Callable[[Place], Any]) -> Any:
        try:
            return step(Place(self, f"d{list(STEPS).index(name)}"))
        except GoogleAPICallError as error:
            return f"refused: {error.grpc_status_code.name}"
        except ValueError:  # of the one message that was to be received
            return "nothing was received"


class Place:
    """A topic with a subscription for one step."""

    def __init__(self, script: Script, name: str) -> None:
        self.publisher, self.subscriber, self.host = script.publisher, script.subscriber, script.host
        self.name = name
        self.topic = f"projects/{PROJECT}/topics/{name}"
        self.subscription = f"projects/{PROJECT}/subscriptions/{name}"

    def make(self, **settings: Any) -> None:
        self.publisher.create_topic(name=self.topic)
        self.subscriber.create_subscription(types.Subscription(name=self.subscription, topic=self.topic, **settings))

    def dead(self) -> types.DeadLetterPolicy:
        dead = f"{self.topic}-dead"
        self.publisher.create_topic(name=dead)
        self.subscriber.create_subscription(name=f"{self.subscription}-dead", topic=dead)
        return types.DeadLetterPolicy(dead_letter_topic=dead, max_delivery_attempts=5)

    def publish(self, *bodies: bytes, key: str = "", **attributes: str) -> list[str]:
        messages = [types.PubsubMessage(data=body, ordering_key=key, attributes=attributes) for body in bodies]
        return list(self.publisher.publish(topic=self.topic, messages=messages).message_ids)

    def pull(self, most: int = 10, subscription: str = "") -> list[types.ReceivedMessage]:
        """What comes first, within 3 s."""
        wanted = subscription or self.subscription
        try:
            answer = self.subscriber.pull(subscription=wanted, max_messages=most, timeout=3, retry=None)
        except DeadlineExceeded:
            return []
        return list(answer.received_messages)

    def ack(self, *received: types.ReceivedMessage) -> None:
        self.subscriber.acknowledge(subscription=self.subscription, ack_ids=[each.ack_id for each in received])

    def modify(self, seconds: int, *received: types.ReceivedMessage) -> None:
        self.subscriber.modify_ack_deadline(
            subscription=self.subscription, ack_ids=[each.ack_id for each in received], ack_deadline_seconds=seconds
        )


STEPS: dict[str, Callable[[Place], Any]] = {}


def step(name: str) -> Callable[[Callable[[Place], Any]], Callable[[Place], Any]]:
    def add(function: Callable[[Place], Any]) -> Callable[[Place], Any]:
        STEPS[name] = function
        return function

    return add


def bodies(received: list[types.ReceivedMessage]) -> list[bytes]:
    return sorted(each.message.data for each in received)


@step("publish and pull")
def _(p: Place) -> Any:
    p.make()
    ids = p.publish(b"\x00\xff", colour="red")
    (got,) = p.pull()
    return got.message.data, dict(got.message.attributes), [got.message.message_id] == ids, got.delivery_attempt


@step("a message of nothing")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"")


@step("no messages")
def _(p: Place) -> Any:
    p.make()
    p.publish()


@step("1,001 messages")
def _(p: Place) -> Any:
    p.make()
    p.publish(*[b"x"] * 1001)


@step("more than 10 MB")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x" * 10_000_001)


@step("an attribute of 1,025 bytes")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x", long="y" * 1025)


@step("a key of 257 bytes")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x", **{"k" * 257: "y"})


@step("101 attributes")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x", **{f"k{number}": "y" for number in range(101)})


@step("a reserved attribute")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x", google="y")


@step("two ordering keys in one request")
def _(p: Place) -> Any:
    p.make(enable_message_ordering=True)
    messages = [types.PubsubMessage(data=b"x", ordering_key=key) for key in "ab"]
    p.publisher.publish(topic=p.topic, messages=messages)


@step("a topic that is not there")
def _(p: Place) -> Any:
    p.publish(b"x")


@step("a subscription that is not there")
def _(p: Place) -> Any:
    p.pull()


@step("a topic twice")
def _(p: Place) -> Any:
    p.make()
    p.publisher.create_topic(name=p.topic)


@step("a subscription twice")
def _(p: Place) -> Any:
    p.make()
    p.subscriber.create_subscription(name=p.subscription, topic=p.topic)


@step("a bad name")
def _(p: Place) -> Any:
    p.publisher.create_topic(name=f"projects/{PROJECT}/topics/1")


@step("a reserved name")
def _(p: Place) -> Any:
    p.publisher.create_topic(name=f"projects/{PROJECT}/topics/google-x")


@step("a deadline of 9 s")
def _(p: Place) -> Any:
    p.make(ack_deadline_seconds=9)


@step("the deadline when none is given")
def _(p: Place) -> Any:
    p.make()
    return p.subscriber.get_subscription(subscription=p.subscription).ack_deadline_seconds


@step("a retention of 31 days")
def _(p: Place) -> Any:
    p.make(message_retention_duration=duration_pb2.Duration(seconds=31 * 86_400))


@step("a retention of 9 min")
def _(p: Place) -> Any:
    p.make(message_retention_duration=duration_pb2.Duration(seconds=540))


@step("four delivery attempts")
def _(p: Place) -> Any:
    policy = p.dead()
    policy.max_delivery_attempts = 4
    p.make(dead_letter_policy=policy)


@step("a nack")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x")
    (first,) = p.pull()
    p.modify(0, first)
    (again,) = p.pull()
    return first.ack_id != again.ack_id, again.delivery_attempt


@step("a leased message is hidden")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x")
    p.pull()
    return bodies(p.pull())


@step("an acknowledged message is gone")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x")
    p.ack(*p.pull())
    return bodies(p.pull())


@step("a deadline that ends")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x")
    (first,) = p.pull()
    p.modify(1, first)
    (again,) = p.pull()
    p.ack(first)  # too late
    p.modify(0, again)
    return first.ack_id != again.ack_id, bodies(p.pull())


@step("a deadline of 601 s")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x")
    p.modify(601, *p.pull())


@step("an id that never was")
def _(p: Place) -> Any:
    p.make()
    p.subscriber.acknowledge(subscription=p.subscription, ack_ids=["projects/x:1"])


@step("attempts are counted with a policy")
def _(p: Place) -> Any:
    p.make(dead_letter_policy=p.dead())
    p.publish(b"x")
    (first,) = p.pull()
    p.modify(0, first)
    (again,) = p.pull()
    return first.delivery_attempt, again.delivery_attempt


@step("the fifth attempt is the last")
def _(p: Place) -> Any:
    p.make(dead_letter_policy=p.dead())
    p.publish(b"x", colour="red")
    for _ in range(5):
        p.modify(0, *p.pull())
    # Google's forwards when it is next asked for messages.
    left = bodies(p.pull())
    (dead,) = p.pull(subscription=f"{p.subscription}-dead")
    attributes = dict(dead.message.attributes)
    attributes.pop("CloudPubSubDeadLetterSourceTopicPublishTime")
    return dead.message.data, attributes, left


@step("a retry policy delays the second redelivery")
def _(p: Place) -> Any:
    backoff = duration_pb2.Duration(seconds=2)
    p.make(retry_policy=types.RetryPolicy(minimum_backoff=backoff, maximum_backoff=backoff))
    p.publish(b"x")
    p.modify(0, *p.pull())
    (again,) = p.pull()  # Google's sends the first one back at once; the curve is a best effort (API RetryPolicy)
    began = time.monotonic()  # noqa: TID251  the other server has no other clock
    p.modify(0, again)
    p.pull()
    return time.monotonic() - began > 1.5  # noqa: TID251  as above


@step("a key in order, one at a time")
def _(p: Place) -> Any:
    p.make(enable_message_ordering=True)
    p.publish(b"1", b"2", b"3", key="k")
    (first,) = p.pull(1)
    held = bodies(p.pull())
    p.ack(first)
    return first.message.data, held, [each.message.data for each in p.pull()]


@step("a nacked head comes first again")
def _(p: Place) -> Any:
    p.make(enable_message_ordering=True)
    p.publish(b"1", b"2", key="k")
    (first,) = p.pull(1)
    p.modify(0, first)
    return [each.message.data for each in p.pull(1)]


@step("a filter")
def _(p: Place) -> Any:
    p.make(filter='attributes.colour = "red" OR hasPrefix(attributes.colour, "bl")')
    for colour in ("red", "blue", "green"):
        p.publish(colour.encode(), colour=colour)
    return bodies(p.pull())


@step("a filter that cannot be read")
def _(p: Place) -> Any:
    p.make(filter="colour == red")


@step("exactly once: an old id")
def _(p: Place) -> Any:
    p.make(enable_exactly_once_delivery=True)
    p.publish(b"x")
    (first,) = p.pull()
    p.modify(0, first)
    p.pull()
    p.ack(first)


@step("seek to a time")
def _(p: Place) -> Any:
    p.make(retain_acked_messages=True)
    start = timestamp_pb2.Timestamp()
    start.FromSeconds(int(time.time()) - 60)  # noqa: TID251  as above
    p.publish(b"x")
    p.ack(*p.pull())
    p.subscriber.seek(types.SeekRequest(subscription=p.subscription, time=start))
    return bodies(p.pull())


@step("seek to a snapshot")
def _(p: Place) -> Any:
    p.make(retain_acked_messages=True)
    p.publish(b"x")
    snapshot = f"projects/{PROJECT}/snapshots/{p.name}"
    p.subscriber.create_snapshot(name=snapshot, subscription=p.subscription)
    p.ack(*p.pull())
    p.subscriber.seek(types.SeekRequest(subscription=p.subscription, snapshot=snapshot))
    return bodies(p.pull())


@step("an update")
def _(p: Place) -> Any:
    p.make()
    wanted = types.Subscription(name=p.subscription, ack_deadline_seconds=77)
    p.subscriber.update_subscription(subscription=wanted, update_mask=field_mask_pb2.FieldMask(paths=["ack_deadline_seconds"]))
    return p.subscriber.get_subscription(subscription=p.subscription).ack_deadline_seconds


@step("lists")
def _(p: Place) -> Any:
    p.make()
    topics = {topic.name for topic in p.publisher.list_topics(project=f"projects/{PROJECT}")}
    subscriptions = {each.name for each in p.subscriber.list_subscriptions(project=f"projects/{PROJECT}")}
    return p.topic in topics, p.subscription in subscriptions, list(p.publisher.list_topic_subscriptions(topic=p.topic))


@step("a topic is deleted")
def _(p: Place) -> Any:
    p.make()
    p.publish(b"x")
    p.publisher.delete_topic(topic=p.topic)
    return p.subscriber.get_subscription(subscription=p.subscription).topic, bodies(p.pull())


@step("a subscription is deleted")
def _(p: Place) -> Any:
    p.make()
    p.subscriber.delete_subscription(subscription=p.subscription)
    p.pull()


@step("high level: publish in batches, stream, nack once, ack")
def _(p: Place) -> Any:
    p.make()
    options = {"api_endpoint": p.host}
    publisher = pubsub_v1.PublisherClient(
        transport=publishing.PublisherGrpcTransport(channel=grpc.insecure_channel(p.host)), client_options=options
    )
    ids = {publisher.publish(p.topic, str(number).encode()).result(10) for number in range(50)}
    subscriber = pubsub_v1.SubscriberClient(
        transport=subscribing.SubscriberGrpcTransport(channel=grpc.insecure_channel(p.host))
    )
    nacked, acked = set(), []

    def callback(message: Any) -> None:
        if message.message_id not in nacked and message.data == b"7":
            nacked.add(message.message_id)
            message.nack()
        else:
            message.ack()
            acked.append(message.message_id)

    stream = subscriber.subscribe(p.subscription, callback)
    until = time.monotonic() + 10  # noqa: TID251  as above
    while len(acked) < 50 and time.monotonic() < until:  # noqa: TID251  as above
        time.sleep(0.01)
    stream.cancel()
    stream.result(10)
    subscriber.close()
    return set(acked) == ids, len(acked), len(nacked)


@step("high level: flow control")
def _(p: Place) -> Any:
    p.make()
    p.publish(*[b"x"] * 20)
    subscriber = pubsub_v1.SubscriberClient(
        transport=subscribing.SubscriberGrpcTransport(channel=grpc.insecure_channel(p.host))
    )
    held: list[Any] = []
    stream = subscriber.subscribe(p.subscription, held.append, flow_control=pubsub_v1.types.FlowControl(max_messages=3))
    time.sleep(1.0)  # what is measured is that no more come
    most = len(held)
    for message in held:
        message.ack()
    stream.cancel()
    stream.result(10)
    subscriber.close()
    return most


@step("async clients")
def _(p: Place) -> Any:
    async def use() -> Any:
        channel = grpc.aio.insecure_channel(p.host)
        publisher = PublisherAsyncClient(transport=publishing.PublisherGrpcAsyncIOTransport(channel=channel))
        subscriber = SubscriberAsyncClient(transport=subscribing.SubscriberGrpcAsyncIOTransport(channel=channel))
        await publisher.publish(topic=p.topic, messages=[types.PubsubMessage(data=b"x")])
        got = (await subscriber.pull(subscription=p.subscription, max_messages=1)).received_messages
        await subscriber.acknowledge(subscription=p.subscription, ack_ids=[each.ack_id for each in got])
        await channel.close()
        return [each.message.data for each in got]

    p.make()
    return asyncio.run(use())


@pytest.fixture(scope="module")
def expected():
    server = Server().start()
    yield Script(server.endpoint).run()
    server.stop()


def test_the_script_says_what_the_api_does(expected):
    """What stands in the pages: a server that agrees with another could be wrong with it."""
    wanted = {
        "a message of nothing": "refused: INVALID_ARGUMENT",
        "a topic that is not there": "refused: NOT_FOUND",
        "a topic twice": "refused: ALREADY_EXISTS",
        "the deadline when none is given": 10,
        "attempts are counted with a policy": (1, 2),
        "a deadline that ends": (True, [b"x"]),
        "a filter": [b"blue", b"red"],
        "high level: flow control": 3,
        "async clients": [b"x"],
    }
    assert {name: expected[name] for name in wanted} == wanted
    assert len(STEPS) > 40


@pytest.mark.timeout(240)
def test_every_difference_is_known(expected, report):
    if not (google_pubsub_jar() or os.environ.get("PUBSUB_EMULATOR_HOST")):
        missing("google-pubsub", "it comes with the Google Cloud CLI and needs Java", installable=False)
    with google_pubsub() as host:
        found = Script(host).run()
    different = {step for step in STEPS if found[step] != expected[step]}
    report(f"Pub/Sub: {len(STEPS)} steps, Google's emulator differs in {len(different)}: {', '.join(sorted(different))}")
    assert different == set(DIFFERENCES), {step: (expected[step], found[step]) for step in different ^ set(DIFFERENCES)}
