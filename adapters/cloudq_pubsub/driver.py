"""The Pub/Sub driver: the generated async clients, unary calls with explicit batches, under cloudq's own lease keeper.

The streaming client of the SDK keeps leases, acknowledges and retries by itself, in threads of its own: docs/decisions/0014
tells what was measured and why it is not used. The SDK's retries are off: who tries again, and when, is decided above, where
it is known whether trying again can duplicate something.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
import asyncio
import contextlib
import logging
import math
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import google.auth
import grpc
import grpc.aio
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import Request
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from cloudq.clock import Clock
from cloudq.driver import Burial, Check, Declared, Delivery, Limits, Outgoing, Queue, Release, Settled, Stats
from cloudq.errors import AccessDenied, ConfigError, DriverError, Refused, Unavailable
from cloudq_pubsub import inspection, messages, provision
from cloudq_pubsub.attributes import from_attributes
from cloudq_pubsub.errors import by_ack_id, translate
from cloudq_pubsub.facts import PUBSUB
from cloudq_pubsub.options import Options

T = TypeVar("T")
_log = logging.getLogger("cloudq.pubsub")

LIMITS = PUBSUB.limits
#: Seconds until a call without an answer is given up, and until a connection is: soon enough for a producer, who waits 5 s.
_ANSWER, _CONNECT = 10.0, 2.0
#: Seconds that a token endpoint may take, and until it is asked again after it gave none.
_TOKEN, _TOKEN_AGAIN = 5.0, 5.0
#: How many settlements are remembered, with exactly-once delivery.
_REMEMBERED = 10_000
#: A lease that began while a pull waited is as old as the pull, at the most. So that waiting never uses it up, a pull waits at
#: most one part in so many of it.
_WAIT_SHARE = 3.0
#: API PullRequest: to return immediately is deprecated. Whoever wants to wait for nothing waits so long.
_SHORTEST = 1.0
_SCOPE = "https://www.googleapis.com/auth/pubsub"
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # As the SDK has both: exactly-once delivery tells of a thousand ids in the trailer, and while a call is open, a connection
    # that was cut without a word is noticed.
    ("grpc.max_metadata_size", 4 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    # Back within seconds of an outage: gRPC tries for 20 s at a time, and waits up to two minutes in between.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
#: In a publish request, beside the bytes of each message: its tag and length.
_PER_MESSAGE = 6

_PublishRequest, _PullRequest = cast("Any", types.PublishRequest), cast("Any", types.PullRequest)
_raw_publish: Any = types.PublishRequest.pb()


@dataclass(frozen=True, slots=True)
class _Clients:
    publisher: PublisherAsyncClient
    subscriber: SubscriberAsyncClient
    #: Publishes go over one connection, pulls and settlements over another.
    publishing: grpc.aio.Channel
    subscribing: grpc.aio.Channel


class PubSubDriver:
    """A driver on one project. Make it after a fork, not before."""

    def __init__(self, options: Options, clock: Clock) -> None:
        """Finds project and credentials as Google's libraries do. ConfigError when there is no project, AccessDenied without
        credentials.
        """
        self._clock = clock
        self._pid = os.getpid()
        emulator = os.environ.get("PUBSUB_EMULATOR_HOST", "") if not options.endpoint else ""
        self._options = replace(options, endpoint=emulator, plain=True) if emulator else options
        self._limits = replace(LIMITS, tells_lost=True) if options.exactly_once else LIMITS
        self._credentials: Any = AnonymousCredentials()  # type: ignore[no-untyped-call]  # google.auth's
        project = options.project or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
        if not self._options.plain:
            try:
                self._credentials, found = google.auth.default(scopes=[_SCOPE])
            except auth.DefaultCredentialsError as error:
                raise translate(error, "", "pubsub://") from error
            project = project or found or ""
        if not project:
            raise ConfigError("pubsub:// without a project: write pubsub://my-project, or set GOOGLE_CLOUD_PROJECT.")
        self.project: str = project
        #: By ordered topic and key, the publish under way: cancelled, it goes on, and the next one must not overtake it.
        self._publishing: dict[str, asyncio.Future[Any]] = {}
        #: By ack id, what ended its lease, or may have: told as invalid when that is repeated, it was done.
        self._ended: dict[str, str] = {}
        #: By subscription, its deadline in seconds; 0 where this identity may not ask for it.
        self._deadlines: dict[str, int] = {}
        self._renewing: asyncio.Future[Exception | None] | None = None
        self._renewed = -math.inf
        self._renewer = ThreadPoolExecutor(1, thread_name_prefix="cloudq-pubsub credentials")
        #: Channels on which waiting for a connection was in vain.
        self._down: set[grpc.aio.Channel] = set()
        self._background: set[asyncio.Future[Any]] = set()
        self._closed = False

    @property
    def limits(self) -> Limits:
        """See `facts`; with exactly-once delivery, late settlements are told."""
        return self._limits

    @cached_property
    def _clients(self) -> _Clients:
        # At the first call, because a channel belongs to the loop on which it is made.
        # docs, service APIs overview: the global endpoint and the locational ones.
        place = f"{self._options.region}-" if self._options.region else ""
        host = self._options.endpoint or f"{place}pubsub.googleapis.com:443"

        def channel(transport: Any) -> grpc.aio.Channel:
            if self._options.plain:
                return grpc.aio.insecure_channel(host, options=_CHANNEL)
            return cast(
                "grpc.aio.Channel",
                transport.create_channel(host, credentials=self._credentials, scopes=[_SCOPE], options=_CHANNEL),
            )

        publishing, subscribing = channel(PublisherGrpcAsyncIOTransport), channel(SubscriberGrpcAsyncIOTransport)
        return _Clients(
            PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=publishing)),
            SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=subscribing)),
            publishing,
            subscribing,
        )

    # Sending ----------------------------------------------------------------------------------------------------------

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> Mapping[int, DriverError]:
        """Publish, one request for each ordering key (API PubsubMessage.ordering_key), split by count and bytes."""
        self._usable()
        await self._connected(queue, self._clients.publishing)
        chains = _requests(self._topic(queue), batch)
        if len(chains) == 1 and len(chains[0]) == 1:
            await self._publish(queue, chains[0][0][1])  # the whole of it failed: that is what is raised
            return {}
        failures: dict[int, DriverError] = {}
        for failed in await asyncio.gather(*(self._publish_chain(queue, chain) for chain in chains)):
            failures |= failed
        return failures

    async def _publish_chain(self, queue: Queue, chain: Sequence[tuple[list[int], Any]]) -> dict[int, DriverError]:
        """Publish requests of one key in turn; what stands behind a failure is not sent: it would overtake."""
        failures: dict[int, DriverError] = {}
        for positions, request in chain:
            if failures and queue.ordered:
                behind = Unavailable(f"{self._named(queue)}: behind a failure of its ordering key")
                failures |= dict.fromkeys(positions, behind)
                continue
            try:
                await self._publish(queue, request)
            except DriverError as error:
                failures |= dict.fromkeys(positions, error)
        return failures

    async def _publish(self, queue: Queue, request: Any) -> None:
        ready = _PublishRequest.wrap(request)
        if not queue.ordered:
            await self._call(queue, "Publish", self._clients.publisher.publish, ready)
            return
        key = f"{queue.physical}\n{request.messages[0].ordering_key}"
        while (before := self._publishing.get(key)) is not None:
            await asyncio.wait([before])
        publishing = self._publishing[key] = asyncio.ensure_future(
            self._call(queue, "Publish", self._clients.publisher.publish, ready)
        )
        self._background.add(publishing)

        def over(_: asyncio.Future[Any]) -> None:
            del self._publishing[key]
            self._background.discard(publishing)
            if not publishing.cancelled():
                publishing.exception()  # when nobody waits for it any more, nobody asks

        publishing.add_done_callback(over)
        await asyncio.shield(publishing)

    async def _connected(self, queue: Queue, channel: grpc.aio.Channel) -> None:
        """Wait for a connection before anything is handed over: a call that never left has surely not arrived.

        Later gRPC says UNAVAILABLE for a connection that was refused and for one that broke after the request had left. And a
        pull on the way to a connection would look like one in which nothing came.
        """
        try:
            async with asyncio.timeout(_CONNECT):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    # Told at once where it is known: a producer's last try must not end in the middle of waiting.
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE or channel in self._down:
                        break
                    await channel.wait_for_state_change(state)
                else:
                    self._down.discard(channel)
                    return
        except TimeoutError:
            self._down.add(channel)
        wrong = await self._wrong_credentials()
        if wrong is not None:
            raise translate(wrong, "", self._named(queue)) from wrong
        raise Unavailable(f"{self._named(queue)}: no connection. Is the endpoint right, and the network open to it?")

    # Receiving --------------------------------------------------------------------------------------------------------

    async def receive(self, queue: Queue, max_messages: int, wait: float) -> Sequence[Delivery]:
        """Pull. The lease begins as the subscription's `ack_deadline_seconds`; a shorter one is extended at once.

        What the service gave out to a pull that was broken off is out of everybody's reach until its lease ends, and counted.
        Cancelled, a pull ends later and gives back what it brought; at the end of its wait, which the service is told, it is
        broken off, and what was given out in the last round trip comes back a lease later.
        """
        self._usable()
        await self._connected(queue, self._clients.subscribing)
        deadline = await self._deadline(queue)
        longest = max(1.0, queue.lease / _WAIT_SHARE)
        pull = asyncio.ensure_future(self._pull(queue, max_messages, max(_SHORTEST, min(wait, longest)), deadline))
        try:
            return await asyncio.shield(pull)
        except asyncio.CancelledError:
            self._in_background(self._undo(queue, pull))
            raise

    async def _pull(self, queue: Queue, max_messages: int, patience: float, deadline: int) -> list[Delivery]:
        began = self._clock.monotonic()
        request = _PullRequest(subscription=self._subscription(queue), max_messages=max_messages)
        answer = await self._call(queue, "Pull", self._clients.subscriber.pull, request, patience)
        deliveries = self._deliveries(queue, answer, queue.lease, began)
        if deliveries and deadline < queue.lease:
            try:
                await self._hide(queue, deliveries, math.ceil(queue.lease))
            except DriverError:  # the lease keeper is told how little there is, and tries again
                return self._deliveries(queue, answer, max(deadline, LIMITS.lease[0]), began)
        return deliveries

    async def _deadline(self, queue: Queue) -> int:
        """Return the subscription's own lease. Where it is shorter than the queue's, or unknown, each pull is followed by an
        extension: a task that believes in the longer one would run twice at once.
        """
        name = self._subscription(queue)
        if name not in self._deadlines:
            try:
                found = await self._call(
                    queue,
                    "GetSubscription",
                    self._clients.subscriber.get_subscription,
                    types.GetSubscriptionRequest(subscription=name),
                )
                self._deadlines[name] = int(found.ack_deadline_seconds)
            except AccessDenied:
                self._deadlines[name] = 0
            if self._deadlines[name] != math.ceil(queue.lease):
                _log.warning(
                    "%s: its ack_deadline_seconds is %s, and the queue's lease %g s. Make them the same.",
                    self._named(queue), self._deadlines[name] or "not to be seen (pubsub.subscriptions.get)", queue.lease,
                )  # fmt: skip
        return self._deadlines[name]

    def _deliveries(self, queue: Queue, answer: Any, lease: float, began: float) -> list[Delivery]:
        if answer is None:
            return []
        left = lease - (self._clock.monotonic() - began)
        return [_delivery(queue, received, left) for received in types.PullResponse.pb(answer).received_messages]

    async def _undo(self, queue: Queue, pull: asyncio.Future[list[Delivery]]) -> None:
        with contextlib.suppress(DriverError):  # not given back, it comes back when its lease ends
            taken = await pull
            if taken:
                await self.release(queue, [Release(delivery, counted=False) for delivery in taken])

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Settling ---------------------------------------------------------------------------------------------------------

    async def ack(self, queue: Queue, batch: Sequence[Delivery]) -> Sequence[Settled]:
        """Acknowledge. Without exactly-once delivery, an id that is too old is answered as if it were not."""
        ids = _ids(batch)
        request = types.AcknowledgeRequest(subscription=self._subscription(queue), ack_ids=ids)
        return await self._settle(queue, "Acknowledge", self._clients.subscriber.acknowledge, request, ids, ends="ack")

    async def release(self, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:
        """ModifyAckDeadline to the delay, a call for each different one; 0 is a nack."""
        by_delay: dict[int, list[int]] = defaultdict(list)
        for position, release in enumerate(batch):
            by_delay[math.ceil(release.delay)].append(position)

        async def hide(delay: int, positions: list[int]) -> list[tuple[int, Settled]]:
            try:
                deliveries = [batch[position].delivery for position in positions]
                answers = await self._hide(queue, deliveries, delay, ends="release")
            except DriverError:
                if len(by_delay) == 1:
                    raise
                answers = [Settled.UNKNOWN] * len(positions)
            return list(zip(positions, answers, strict=True))

        told = await asyncio.gather(*(hide(delay, positions) for delay, positions in by_delay.items()))
        by_position = dict(pair for answers in told for pair in answers)
        return [by_position[position] for position in range(len(batch))]

    async def extend(self, queue: Queue, batch: Sequence[Delivery], lease: float) -> Sequence[Settled]:
        """ModifyAckDeadline to the lease."""
        return await self._hide(queue, batch, math.ceil(lease))

    async def _hide(self, queue: Queue, batch: Sequence[Delivery], seconds: int, *, ends: str = "") -> Sequence[Settled]:
        ids = _ids(batch)
        request = types.ModifyAckDeadlineRequest(
            subscription=self._subscription(queue), ack_ids=ids, ack_deadline_seconds=seconds
        )
        call = self._clients.subscriber.modify_ack_deadline
        return await self._settle(queue, "ModifyAckDeadline", call, request, ids, ends)

    async def _settle(
        self, queue: Queue, method: str, call: Callable[..., Awaitable[Any]], request: Any, ids: Sequence[str], ends: str
    ) -> Sequence[Settled]:
        """`ends` names what ends the lease by it. Repeated, that is told as invalid, and it was done."""
        try:
            await self._call(queue, method, call, request)
        except DriverError as error:
            told = by_ack_id(error.__cause__, ids) if isinstance(error.__cause__, api.GoogleAPICallError) else None
            if told is None:
                self._remember(ids, ends)
                raise
            answers = [
                Settled.OK if answer is Settled.LOST and ends and self._ended.get(ack_id) == ends else answer
                for ack_id, answer in told.items()
            ]
            self._remember([ack_id for ack_id, answer in told.items() if answer is Settled.UNKNOWN], ends)
            return answers
        self._remember(ids, ends)
        return [Settled.OK] * len(ids)

    def _remember(self, ids: Iterable[str], ends: str) -> None:
        if not self._options.exactly_once or not ends:
            return  # nothing is told as invalid
        self._ended |= dict.fromkeys(ids, ends)
        while len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    async def dead_letter(self, queue: Queue, dead: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:  # noqa: ARG002  the contract's
        """Pub/Sub cannot: the core composes it."""
        raise Refused(f"{self._named(queue)}: Pub/Sub moves no single message to a dead-letter topic; a copy is sent instead.")

    # The rest ---------------------------------------------------------------------------------------------------------

    async def stats(self, queue: Queue) -> Stats:
        """Only whether it is there: the API has no counts. Cloud Monitoring has them, up to two minutes late."""
        self._usable()
        request = types.GetSubscriptionRequest(subscription=self._subscription(queue))
        with contextlib.suppress(AccessDenied):
            await self._call(queue, "GetSubscription", self._clients.subscriber.get_subscription, request)
        return Stats()

    async def create(self, queues: Sequence[Queue]) -> Sequence[Queue]:
        """CreateTopic and CreateSubscription for what is missing, with the settings of `provision`."""
        self._usable()
        clients = self._clients
        try:
            return await provision.create(clients.publisher, clients.subscriber, self._options, self.project, queues)
        except (api.GoogleAPICallError, auth.GoogleAuthError) as error:
            names = ", ".join(self._options.name(queue) for queue in queues)
            raise translate(error, "CreateSubscription", f"{names} in {self.project}") from error

    async def inspect(self, queues: Sequence[Declared]) -> Sequence[Check]:
        """GetTopic, GetSubscription and GetIamPolicy, for each."""
        self._usable()
        clients = self._clients
        return await inspection.inspect(clients.publisher, clients.subscriber, self._options, self.project, queues)

    def unwrap(self, kind: type[T]) -> T:
        """The async clients: `unwrap(google.pubsub_v1.PublisherAsyncClient)` and `SubscriberAsyncClient`. Do not close them."""
        clients = self._clients
        if kind is PublisherAsyncClient:
            return cast("T", clients.publisher)
        if kind is SubscriberAsyncClient:
            return cast("T", clients.subscriber)
        raise TypeError(
            f"the Pub/Sub driver can be unwrapped to google.pubsub_v1.PublisherAsyncClient and SubscriberAsyncClient, not to "
            f"{kind.__name__}"
        )

    async def aclose(self) -> None:
        """Wait for pulls that still run, and give back what they bring; then close."""
        if self._closed:
            return
        while self._background:
            await asyncio.wait(self._background)
        self._closed = True
        self._renewer.shutdown(wait=False)
        if "_clients" in self.__dict__:
            await self._clients.publisher.transport.close()  # type: ignore[no-untyped-call]  # the SDK's
            await self._clients.subscriber.transport.close()  # type: ignore[no-untyped-call]  # the SDK's

    # Calls ------------------------------------------------------------------------------------------------------------

    async def _call(
        self, queue: Queue, method: str, call: Callable[..., Awaitable[Any]], request: Any, patience: float = _ANSWER
    ) -> Any:
        self._usable()
        try:
            return await call(request, retry=None, timeout=patience)
        except api.DeadlineExceeded as error:
            if method == "Pull" and self._clients.subscribing.get_state() is grpc.ChannelConnectivity.READY:
                return None  # API PullRequest: nothing came in time
            raise translate(error, method, self._named(queue)) from error
        except api.ServiceUnavailable as error:
            # gRPC calls that UNAVAILABLE, too. Of a publish it stays unknown whether it arrived.
            wrong = await self._wrong_credentials() if method != "Publish" else None
            raise translate(wrong or error, method, self._named(queue)) from error
        except (api.GoogleAPICallError, auth.GoogleAuthError) as error:
            raise translate(error, method, self._named(queue)) from error
        except asyncio.CancelledError:
            raise
        except Exception as error:  # also what a library makes of an answer that it cannot read
            raise translate(error, method, self._named(queue)) from error

    async def _wrong_credentials(self) -> Exception | None:
        """Return what is wrong with the credentials, if anything is: one look for all who ask, and not too often."""
        if self._options.plain or self._credentials.valid:
            return None
        if self._renewing is None and self._clock.monotonic() - self._renewed < _TOKEN_AGAIN:
            return None
        if self._renewing is None:
            self._renewing = asyncio.ensure_future(
                asyncio.get_running_loop().run_in_executor(self._renewer, _refresh, self._credentials)
            )
        wrong = await asyncio.shield(self._renewing)
        self._renewing, self._renewed = None, self._clock.monotonic()
        return wrong

    def _usable(self) -> None:
        if self._pid != os.getpid():
            raise Unavailable("this Pub/Sub driver was opened before a fork: gRPC does not survive one. Open it anew.")
        if self._closed:
            raise Unavailable("this Pub/Sub driver is closed")

    def _topic(self, queue: Queue) -> str:
        return f"projects/{self.project}/topics/{self._options.name(queue)}"

    def _subscription(self, queue: Queue) -> str:
        return f"projects/{self.project}/subscriptions/{self._options.name(queue)}"

    def _named(self, queue: Queue) -> str:
        return f"{self._options.name(queue)} in {self.project}"


def _refresh(credentials: Any) -> Exception | None:
    ask = Request()

    def patiently(*arguments: Any, **named: Any) -> Any:
        return ask(*arguments, **{**named, "timeout": _TOKEN})  # its own is two minutes

    try:
        credentials.refresh(patiently)
    except Exception as error:  # of the library, or of what it reads the credentials from
        return error
    return None


def _ids(batch: Iterable[Delivery]) -> list[str]:
    return [str(delivery.receipt) for delivery in batch]


def _requests(topic: str, batch: Sequence[Outgoing]) -> list[list[tuple[list[int], Any]]]:
    """Return, for each ordering key, requests with the positions that they carry."""
    chains: dict[str | None, list[tuple[list[int], Any]]] = {}
    sizes: dict[str | None, int] = {}
    for position, outgoing in enumerate(batch):
        message = messages.to_message(outgoing)
        size = message.ByteSize() + _PER_MESSAGE
        chain = chains.setdefault(outgoing.group, [])
        total = sizes.get(outgoing.group, 0) + size
        if not chain or len(chain[-1][0]) == LIMITS.send_count or total > LIMITS.send_bytes:
            chain.append(([], _raw_publish(topic=topic)))
            total = size
        sizes[outgoing.group] = total
        chain[-1][0].append(position)
        chain[-1][1].messages.append(message)
    return list(chains.values())


def _delivery(queue: Queue, received: Any, left: float) -> Delivery:
    message = received.message
    published = message.publish_time
    return Delivery(
        queue=queue,
        body=message.data,
        receipt=received.ack_id,
        # API ReceivedMessage.delivery_attempt: 0 without a dead-letter policy, and may fall back by itself.
        deliveries=max(1, received.delivery_attempt),
        leased_for=left,
        sent_at=published.seconds + published.nanos / 1e9,
        message_id=message.message_id,
        group=message.ordering_key or None,
        attributes=from_attributes(message.attributes),
    )
