"""The methods of google.pubsub.v1 on the topics and subscriptions of `broker`: what is asked, checked and answered.

Works on the raw protocol buffers inside the SDK's types, because what is measured with it is the client. Sources as in
`broker`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
from google.iam.v1 import policy_pb2  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  has none
from google.protobuf import empty_pb2, field_mask_pb2
from google.pubsub_v1 import types
from google.rpc import code_pb2, error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]  has none

from cloudq.clock import Clock
from cloudq_pubsub.emulator.broker import DEADLINE, DEADLINES, RETENTIONS, Held, Snapshot, Subscription
from cloudq_pubsub.emulator.faults import SMALLEST, Requests

#: docs, quotas, resource limits: a publish request, a message, its attributes.
BATCH, BATCH_BYTES, ATTRIBUTES, KEY_BYTES, VALUE_BYTES, ORDERING_BYTES = 1000, 10_000_000, 100, 256, 1024, 1024
#: API PullRequest: an empty pull ends after a bounded time. That it is these seconds was chosen.
PULL_WAIT = 5.0
#: docs, pubsub-basics, resource names: 3 to 255 characters, a letter first, and not "goog".
_NAME = re.compile(r"(?!goog)[A-Za-z][\w\-.~+%]{2,254}", re.ASCII)
_PATH = re.compile(r"projects/([^/]+)/(topics|subscriptions|snapshots)/([^/]+)")
_ACK_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_INVALID_ID = "PERMANENT_FAILURE_INVALID_ACK_ID"
#: How many messages one response of a stream carries at the most; chosen.
_STREAMED = 100

Empty = empty_pb2.Empty


def raw(kind: Any) -> Any:
    """Return the protocol buffer class inside one of the SDK's types; those of IAM are such classes themselves."""
    return kind.pb() if hasattr(kind, "pb") else kind


_Received, _Pulled, _Streamed = raw(types.ReceivedMessage), raw(types.PullResponse), raw(types.StreamingPullResponse)


class Refusal(Exception):
    """A request that is answered with a status. `reasons` are by ack id, as exactly-once delivery tells them."""

    def __init__(self, code: grpc.StatusCode, message: str, reasons: dict[str, str] | None = None) -> None:
        """The message is for people."""
        super().__init__(message)
        self.code: grpc.StatusCode = code
        self.message: str = message
        self.reasons: dict[str, str] = reasons or {}

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """Return the details as trailing metadata (google.rpc.Status)."""
        if not self.reasons:
            return ()
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code.name), message=self.message)
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(
                reason="EXACTLY_ONCE_ACKID_FAILURE", domain="pubsub.googleapis.com", metadata=self.reasons
            )
        )
        return (("grpc-status-details-bin", status.SerializeToString()),)


def _refuse(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


class Service:
    """Everything that the emulator knows, and the methods on it. Lives on one event loop."""

    def __init__(self, clock: Clock, requests: Requests) -> None:
        """`requests` is told of bytes."""
        self.clock: Clock = clock
        self.requests: Requests = requests
        self.topics: dict[str, Any] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.policies: dict[str, Any] = {}
        #: Called with a subscription that has, or may have, something to give.
        self.on_available: Callable[[Subscription], None] = lambda _: None
        self._ids = itertools.count(1)
        self._changed: dict[Subscription, asyncio.Event] = {}

    # Grants -----------------------------------------------------------------------------------------------------------

    async def GetIamPolicy(self, request: Any, _: Any) -> Any:
        """API IAMPolicy. A grant is kept, and has no effect."""
        self._granted(request.resource)
        return self.policies.get(request.resource, policy_pb2.Policy())

    async def SetIamPolicy(self, request: Any, _: Any) -> Any:
        """API IAMPolicy. The whole policy is replaced; its etag is not looked at."""
        self._granted(request.resource)
        self.policies[request.resource] = request.policy
        return request.policy

    def _granted(self, resource: str) -> None:
        if resource not in self.topics and resource not in self.subscriptions:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={resource}).")

    # Topics -----------------------------------------------------------------------------------------------------------

    async def CreateTopic(self, request: Any, _: Any) -> Any:
        _check_name(request.name, "topics")
        if request.name in self.topics:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"Topic already exists (resource={request.name}).")
        self.topics[request.name] = request
        return request

    async def UpdateTopic(self, request: Any, _: Any) -> Any:
        topic = self._topic(request.topic.name)
        _masked(request.update_mask, request.topic, topic)
        return topic

    async def GetTopic(self, request: Any, _: Any) -> Any:
        return self._topic(request.topic)

    async def ListTopics(self, request: Any, _: Any) -> Any:
        # All on one page: page sizes are not imitated.
        found = [topic for name, topic in self.topics.items() if name.startswith(f"{request.project}/topics/")]
        return raw(types.ListTopicsResponse)(topics=found)

    async def ListTopicSubscriptions(self, request: Any, _: Any) -> Any:
        self._topic(request.topic)
        found = [name for name, sub in self.subscriptions.items() if sub.settings.topic == request.topic]
        return raw(types.ListTopicSubscriptionsResponse)(subscriptions=found)

    async def DeleteTopic(self, request: Any, _: Any) -> Any:
        self._topic(request.topic)
        del self.topics[request.topic]
        for subscription in self.subscriptions.values():
            if subscription.settings.topic == request.topic:
                subscription.settings.topic = "_deleted-topic_"  # API DeleteTopic
        return Empty()

    async def Publish(self, request: Any, _: Any) -> Any:
        self._topic(request.topic)
        messages = request.messages
        if not messages:
            raise _refuse("The value for messages is too small: 0.")
        if len(messages) > BATCH:
            raise _refuse(f"The value for message_count is too large. You passed {len(messages)}; the maximum is {BATCH}.")
        for message in messages:
            _check_message(message)
        if len({message.ordering_key for message in messages}) > 1:  # API PubsubMessage.ordering_key
            raise _refuse("In a single publish request, all messages must have the same ordering key or no key at all.")
        size = request.ByteSize()
        if size > BATCH_BYTES:
            raise _refuse(f"Request payload size exceeds the limit: {BATCH_BYTES} bytes.")
        self.requests.published += max(SMALLEST, size)
        return raw(types.PublishResponse)(message_ids=self._publish(request.topic, messages))

    def _publish(self, topic: str, messages: Iterable[Any]) -> list[str]:
        now = self.clock.time()
        ids: list[str] = []
        for message in messages:
            # API PubsubMessage: both are the server's, whatever the publisher put there.
            message.message_id = str(next(self._ids))
            message.publish_time.seconds = int(now)
            message.publish_time.nanos = int(now % 1 * 1e9)
            ids.append(message.message_id)
        for subscription in self.subscriptions.values():
            if subscription.settings.topic == topic:
                for message in messages:
                    subscription.put(message, now)
                self._announce(subscription)
        return ids

    # Subscriptions ----------------------------------------------------------------------------------------------------

    async def CreateSubscription(self, request: Any, _: Any) -> Any:
        _check_name(request.name, "subscriptions")
        self._topic(request.topic)
        if request.name in self.subscriptions:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"Subscription already exists (resource={request.name}).")
        self._check_settings(request)
        try:
            self.subscriptions[request.name] = Subscription(request, self.clock.time())
        except ValueError as error:
            raise _refuse(str(error)) from error
        return request

    async def UpdateSubscription(self, request: Any, _: Any) -> Any:
        subscription = self._subscription(request.subscription.name)
        fixed = {"topic", "filter", "enable_message_ordering"} & set(request.update_mask.paths)
        if fixed:  # docs, subscription properties
            raise _refuse(f"These cannot be changed: {', '.join(sorted(fixed))}.")
        changed = type(subscription.settings)()
        changed.CopyFrom(subscription.settings)
        _masked(request.update_mask, request.subscription, changed)
        self._check_settings(changed)
        subscription.settings = changed
        self._announce(subscription)
        return changed

    async def GetSubscription(self, request: Any, _: Any) -> Any:
        return self._subscription(request.subscription).settings

    async def ListSubscriptions(self, request: Any, _: Any) -> Any:
        prefix = f"{request.project}/subscriptions/"
        found = [sub.settings for name, sub in self.subscriptions.items() if name.startswith(prefix)]
        return raw(types.ListSubscriptionsResponse)(subscriptions=found)

    async def DeleteSubscription(self, request: Any, _: Any) -> Any:
        subscription = self._subscription(request.subscription)
        del self.subscriptions[request.subscription]
        self._announce(subscription)
        return Empty()

    async def ModifyPushConfig(self, request: Any, _: Any) -> Any:
        subscription = self._subscription(request.subscription)
        subscription.settings.push_config.CopyFrom(request.push_config)
        self._announce(subscription)
        return Empty()

    # Delivery ---------------------------------------------------------------------------------------------------------

    async def Pull(self, request: Any, context: Any) -> Any:
        subscription = self._subscription(request.subscription)
        if request.max_messages <= 0:
            raise _refuse("The value for max_messages must be greater than 0.")
        left = context.time_remaining()
        # A moment before the client gives up: what is given out later than that would be out of everybody's reach.
        patience = PULL_WAIT if left is None else min(PULL_WAIT, max(0.0, left - 0.1))
        until = asyncio.get_running_loop().time() + patience
        while True:
            held = self.take(subscription, request.max_messages, subscription.settings.ack_deadline_seconds)
            rest = until - asyncio.get_running_loop().time()
            if held or request.return_immediately or rest <= 0:
                break
            await self._wait(subscription, rest)
            self._subscription(request.subscription)  # deleted meanwhile
        if not held:
            self.requests.empty += 1
        return _Pulled(received_messages=self._received(subscription, held))

    async def Acknowledge(self, request: Any, _: Any) -> Any:
        subscription = self._subscription(request.subscription)
        self.settle(subscription, request.ack_ids, None)
        return Empty()

    async def ModifyAckDeadline(self, request: Any, _: Any) -> Any:
        subscription = self._subscription(request.subscription)
        if not 0 <= request.ack_deadline_seconds <= DEADLINES[1]:  # API ModifyAckDeadlineRequest
            raise _refuse(f"Invalid ack deadline given: {request.ack_deadline_seconds}. It must be between 0 and 600.")
        self.settle(subscription, request.ack_ids, request.ack_deadline_seconds)
        return Empty()

    def settle(self, subscription: Subscription, ack_ids: Sequence[str], seconds: float | None) -> None:
        """Acknowledge, or move deadlines. Raises, for what was too late, where exactly-once delivery is on."""
        for ack_id in ack_ids:
            if not _ACK_ID.fullmatch(ack_id):  # not out of date, but never one: as Google's emulator has it
                raise _refuse(f"You have passed an invalid ack ID to the service (ack_id={ack_id}).")
        now = self.clock.time()
        self.pass_time(subscription)
        invalid = subscription.ack(ack_ids) if seconds is None else subscription.modify(ack_ids, seconds, now)
        self._forward(subscription)
        self._announce(subscription)
        # docs, exactly-once delivery: only then are late ones told. Status and reason are those of Google's emulator.
        if invalid and subscription.settings.enable_exactly_once_delivery:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Some acknowledgement ids in the request were out of date.",
                dict.fromkeys(invalid, _INVALID_ID),
            )

    async def stream(self, requests: Any, send: Callable[[Any], Any], ended: Callable[[], Refusal | None]) -> None:
        """Serve one StreamingPull, with flow control by what is outstanding (API StreamingPullRequest)."""
        first = await anext(requests)
        subscription = self._subscription(first.subscription)
        deadline = [first.stream_ack_deadline_seconds or DEADLINE]
        if not DEADLINES[0] <= deadline[0] <= DEADLINES[1]:
            raise _refuse("The stream ack deadline must be between 10 and 600 seconds.")
        reading = asyncio.ensure_future(self._read_stream(subscription, requests, deadline))
        mine: dict[str, int] = {}
        # Both 0: no flow control (the SDK's use_legacy_flow_control).
        most, most_bytes = first.max_outstanding_messages or 1 << 30, first.max_outstanding_bytes or 1 << 50
        try:
            await send(_Streamed(subscription_properties=_properties(subscription)))
            while not reading.done():
                good = subscription.outstanding(mine)
                mine = {ack_id: size for ack_id, size in mine.items() if ack_id in good}
                room = most - len(mine) if sum(mine.values()) < most_bytes else 0
                held = self.take(subscription, min(_STREAMED, room), deadline[0]) if room > 0 else []
                if not held:
                    await self._wait(subscription, 1.0)
                    self._subscription(first.subscription)
                    continue
                refusal = ended()
                if refusal is not None:
                    raise refusal  # what it took stays leased, as with a lost response
                mine |= {item.ack_id: item.message.ByteSize() for item in held}
                received = self._received(subscription, held)
                await send(_Streamed(received_messages=received, subscription_properties=_properties(subscription)))
        finally:
            reading.cancel()

    async def _read_stream(self, subscription: Subscription, requests: Any, deadline: list[int]) -> None:
        async for request in requests:
            if request.ack_ids:
                subscription.ack(request.ack_ids)
            for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=False):
                subscription.modify([ack_id], seconds, self.clock.time())
            deadline[0] = request.stream_ack_deadline_seconds or deadline[0]
            self._forward(subscription)
            self._announce(subscription)

    def take(self, subscription: Subscription, most: int, deadline: float) -> list[Held]:
        """Give out what is there, and count it."""
        self.pass_time(subscription)
        return subscription.take(most, deadline, self.clock.time())

    def _received(self, subscription: Subscription, held: Iterable[Held]) -> list[Any]:
        # API ReceivedMessage.delivery_attempt: only with a dead-letter policy.
        counted = bool(subscription.dead_letter_topic)
        found = [
            _Received(ack_id=item.ack_id, message=item.message, delivery_attempt=item.attempt if counted else 0)
            for item in held
        ]
        if found:
            self.requests.delivered += max(SMALLEST, sum(item.message.ByteSize() for item in held))
        return found

    # Time -------------------------------------------------------------------------------------------------------------

    def pass_time(self, subscription: Subscription) -> bool:
        """Let what is due happen to one subscription; says whether something became available."""
        now = self.clock.time()
        subscription.expire(now)
        woke = subscription.pass_time(now)
        self._forward(subscription)
        return woke

    def look_at_all(self) -> None:
        """Let what is due happen everywhere."""
        for subscription in list(self.subscriptions.values()):
            self.pass_time(subscription)
            self._announce(subscription)

    async def _wait(self, subscription: Subscription, longest: float) -> None:
        """Until something may have changed, at most so many real seconds."""
        changed = self._changed.get(subscription)
        if changed is None or changed.is_set():
            changed = self._changed[subscription] = asyncio.Event()
        due = subscription.next_due()
        if due is not None:
            longest = min(longest, max(0.0, due - self.clock.time()))
        try:
            async with asyncio.timeout(longest):
                await changed.wait()
        except TimeoutError:
            pass

    def _announce(self, subscription: Subscription) -> None:
        changed = self._changed.pop(subscription, None)
        if changed is not None:
            changed.set()
        self.on_available(subscription)

    def _forward(self, subscription: Subscription) -> None:
        """Publish what ended up with its attempts to the dead-letter topic (docs, dead-letter topics: these attributes)."""
        if not subscription.forwarded:
            return
        forwarded, subscription.forwarded = subscription.forwarded, []
        _, project, _, name = subscription.settings.name.split("/")
        for held in forwarded:
            copy = type(held.message)()
            copy.CopyFrom(held.message)
            copy.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(held.attempt)
            copy.attributes["CloudPubSubDeadLetterSourceSubscription"] = name
            copy.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
            copy.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = held.message.publish_time.ToJsonString()
            self._publish(subscription.dead_letter_topic, [copy])

    # Snapshots --------------------------------------------------------------------------------------------------------

    async def CreateSnapshot(self, request: Any, _: Any) -> Any:
        _check_name(request.name, "snapshots")
        if request.name in self.snapshots:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"Snapshot already exists (resource={request.name}).")
        subscription = self._subscription(request.subscription)
        snapshot = self.snapshots[request.name] = subscription.snapshot(request.name, self.clock.time())
        return raw(types.Snapshot)(name=snapshot.name, topic=snapshot.topic)

    async def DeleteSnapshot(self, request: Any, _: Any) -> Any:
        self._snapshot(request.snapshot)
        del self.snapshots[request.snapshot]
        return Empty()

    async def Seek(self, request: Any, _: Any) -> Any:
        subscription = self._subscription(request.subscription)
        self.pass_time(subscription)
        if request.HasField("snapshot"):
            snapshot = self._snapshot(request.snapshot)
            if snapshot.topic != subscription.settings.topic:
                raise _refuse("The subscription's topic does not match that of the snapshot.")
            subscription.seek(snapshot)
        else:
            subscription.seek(request.time.seconds + request.time.nanos / 1e9)
        self._announce(subscription)
        return raw(types.SeekResponse)()

    # Checks -----------------------------------------------------------------------------------------------------------

    def _topic(self, name: str) -> Any:
        return self._there(self.topics, name)

    def _subscription(self, name: str) -> Subscription:
        found: Subscription = self._there(self.subscriptions, name)
        return found

    def _snapshot(self, name: str) -> Snapshot:
        found: Snapshot = self._there(self.snapshots, name)
        return found

    def _there(self, where: dict[str, Any], name: str) -> Any:
        if name not in where:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name.rpartition('/')[2]}).")
        return where[name]

    def _check_settings(self, settings: Any) -> None:
        settings.ack_deadline_seconds = settings.ack_deadline_seconds or DEADLINE
        if not DEADLINES[0] <= settings.ack_deadline_seconds <= DEADLINES[1]:
            raise _refuse(f"Invalid ack deadline given: {settings.ack_deadline_seconds}. It must be between 10 and 600.")
        retention = settings.message_retention_duration.seconds
        if settings.HasField("message_retention_duration") and not RETENTIONS[0] <= retention <= RETENTIONS[1]:
            raise _refuse("The message retention must be between 10 minutes and 31 days.")
        policy = settings.dead_letter_policy
        if policy.dead_letter_topic:
            self._topic(policy.dead_letter_topic)
            if policy.max_delivery_attempts and not 5 <= policy.max_delivery_attempts <= 100:  # API DeadLetterPolicy
                # As Google's emulator has it: the page gives the range and no status.
                raise Refusal(grpc.StatusCode.OUT_OF_RANGE, "The delivery attempts must be between 5 and 100.")
        for backoff in (settings.retry_policy.minimum_backoff, settings.retry_policy.maximum_backoff):
            if not 0 <= backoff.seconds <= 600:  # API RetryPolicy
                raise _refuse("A backoff must be between 0 and 600 seconds.")
        if settings.push_config.push_endpoint and settings.enable_exactly_once_delivery:  # docs, exactly-once delivery
            raise _refuse("Exactly-once delivery is for pull subscriptions only.")


def _properties(subscription: Subscription) -> Any:
    # In every response: the SDK takes its absence for "off".
    return _Streamed.SubscriptionProperties(
        exactly_once_delivery_enabled=subscription.settings.enable_exactly_once_delivery,
        message_ordering_enabled=subscription.settings.enable_message_ordering,
    )


def _check_name(path: str, kind: str) -> None:
    found = _PATH.fullmatch(path)
    if found is None or found[2] != kind or not _NAME.fullmatch(found[3]):
        raise _refuse(f"Invalid [{kind}] name: (name={path})")


def _check_message(message: Any) -> None:
    if not message.data and not message.attributes:  # API PubsubMessage
        raise _refuse("Some messages in the request contain neither data nor attributes.")
    if len(message.data) > BATCH_BYTES:
        raise _refuse(f"Message size exceeds the limit: {BATCH_BYTES} bytes.")
    if len(message.attributes) > ATTRIBUTES:
        raise _refuse(f"A message has at most {ATTRIBUTES} attributes.")
    for key, value in message.attributes.items():
        reserved = key.startswith("goog") and not key.startswith("googclient_")  # the SDK's own, of its tracing
        if not key or reserved or len(key.encode()) > KEY_BYTES or len(value.encode()) > VALUE_BYTES:
            raise _refuse(f"The attribute {key[:40]!r} is empty, reserved, or too long.")
    if len(message.ordering_key.encode()) > ORDERING_BYTES:
        raise _refuse(f"An ordering key has at most {ORDERING_BYTES} bytes.")


def _masked(mask: field_mask_pb2.FieldMask, given: Any, into: Any) -> None:
    names = {field.name for field in into.DESCRIPTOR.fields}
    for path in mask.paths:
        name = path.partition(".")[0]
        if name not in names:
            raise _refuse(f"Invalid update_mask: {path!r}.")
        into.ClearField(name)
    for path in mask.paths:
        name = path.partition(".")[0]
        field = given.DESCRIPTOR.fields_by_name[name]
        if field.message_type is not None:
            if given.HasField(name) if not field.is_repeated else getattr(given, name):
                getattr(into, name).MergeFrom(getattr(given, name))
        else:
            setattr(into, name, getattr(given, name))
