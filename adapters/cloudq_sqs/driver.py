"""The SQS driver: boto3 clients behind two executors, one for receives that wait and one for everything else.

boto3 is blocking, so each call holds a thread until it is answered. A receive may hold its thread for 20 seconds; on a shared
executor, an acknowledgement would wait behind eight of them. The SDK makes one attempt: who tries again, and when, is decided
above, where it is known whether trying again can duplicate something.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import boto3
import botocore.exceptions as sdk
from botocore.client import BaseClient
from botocore.config import Config

from cloudq.clock import Clock
from cloudq.driver import Burial, Check, Declared, Delivery, Limits, Moved, Outgoing, Queue, Release, Settled, Stats
from cloudq.errors import ConfigError, DriverError, OutcomeUnknown, Refused, Unavailable
from cloudq_sqs import inspection, messages, provision
from cloudq_sqs.errors import LEASE_OVER, entry_failed, translate
from cloudq_sqs.facts import SQS
from cloudq_sqs.options import Options, is_fifo

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageTypeDef, SendMessageBatchRequestEntryTypeDef

T = TypeVar("T")

LIMITS = SQS.limits
#: Threads, made when needed. One receive waits for each queue and process, and some more under load.
_POLLS, _CALLS = 256, 32
#: Seconds until a request without an answer is given up: connecting, a call, and a receive beyond its wait.
_CONNECT, _ANSWER = 5.0, 10.0
#: A lease that was given while a receive waited is as old as the receive, at the most: nothing tells when in between. So that
#: waiting never uses it up, a receive waits at most one part in so many of it.
_WAIT_SHARE = 3.0
_USER_AGENT = f"cloudq boto3/{boto3.__version__}"
#: API ReceiveMessage: what is asked for beside body and attributes.
_TOLD = ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"]


class SQSDriver:
    """A driver on one region of one account. Make it after a fork, not before."""

    def __init__(self, options: Options, clock: Clock) -> None:
        """Finds region and credentials as boto3 does. ConfigError when there is no region."""
        self._options = options
        self._clock = clock
        self._pid = os.getpid()
        key, secret = options.keys or (None, None)
        session = self._session = boto3.Session(key, secret, region_name=options.region or None)
        #: The region, as the SDK found it.
        self.region: str = session.region_name or ""
        if not self.region:
            raise ConfigError("sqs:// without a region: write sqs://eu-west-1, or set AWS_REGION or a profile with one.")
        self._calls: SQSClient = _client(session, options, _CALLS, _ANSWER)
        self._polls: SQSClient = _client(session, options, _POLLS, LIMITS.receive_wait + _ANSWER)
        self._calling = ThreadPoolExecutor(_CALLS, thread_name_prefix="cloudq-sqs call")
        self._polling = ThreadPoolExecutor(_POLLS, thread_name_prefix="cloudq-sqs poll")
        #: Queue URLs by name, as they were found.
        self._found: dict[str, str] = {}
        #: By ordered queue, the send under way: cancelled, it goes on, and the next one must not overtake it.
        self._sending: dict[str, asyncio.Future[Any]] = {}
        self._asking: dict[str, asyncio.Future[str]] = {}
        self._background: set[asyncio.Future[Any]] = set()
        self._closed = False

    @property
    def limits(self) -> Limits:
        """See `facts`."""
        return LIMITS

    # Sending ----------------------------------------------------------------------------------------------------------

    async def send(self, queue: Queue, batch: Sequence[Outgoing]) -> Mapping[int, DriverError]:
        """SendMessageBatch, in as many requests as count, bytes and order ask for; nearly always one."""
        url = await self._url(queue)
        failures: dict[int, DriverError] = {}
        requests = _requests(
            [_entry(position, queue, message) for position, message in enumerate(batch)], ordered=queue.ordered
        )
        for packed in requests:
            entries = self._without_followers(queue, packed, batch, failures) if queue.ordered else packed
            if not entries:
                continue
            try:
                answer = await self._send_one(queue, url, entries)
            except DriverError as error:
                if len(requests) == 1:
                    raise
                failures |= {int(entry["Id"]): error for entry in entries}
                continue
            for failed in answer.get("Failed", ()):
                failures[int(failed["Id"])] = entry_failed(
                    failed["Code"],
                    failed.get("Message", ""),
                    sender_fault=failed["SenderFault"],
                    what=f"{self._named(queue)}, message {batch[int(failed['Id'])].message_id}",
                )
        return failures

    async def _send_one(
        self, queue: Queue, url: str, entries: Sequence[SendMessageBatchRequestEntryTypeDef]
    ) -> Mapping[str, Any]:
        if queue.ordered and (before := self._sending.get(url)) is not None:
            await asyncio.wait([before])
        sending = asyncio.ensure_future(
            self._call(queue, "SendMessageBatch", self._calls.send_message_batch, QueueUrl=url, Entries=entries)
        )
        if not queue.ordered:
            return await sending
        self._sending[url] = sending
        self._in_background(asyncio.wait([sending]))  # its error, when nobody waits for it any more, is not asked for
        return await asyncio.shield(sending)

    def _without_followers(
        self,
        queue: Queue,
        entries: list[SendMessageBatchRequestEntryTypeDef],
        batch: Sequence[Outgoing],
        failures: dict[int, DriverError],
    ) -> list[SendMessageBatchRequestEntryTypeDef]:
        """Leave out what stands behind a failure in its group, and fail it too: sent now, it would overtake."""
        broken = {batch[position].group for position in failures if batch[position].group is not None}
        behind = [int(entry["Id"]) for entry in entries if batch[int(entry["Id"])].group in broken]
        failures |= {
            position: Unavailable(f"{self._named(queue)}: behind a failure of its ordering key") for position in behind
        }
        return [entry for entry in entries if int(entry["Id"]) not in behind]

    # Receiving --------------------------------------------------------------------------------------------------------

    async def receive(self, queue: Queue, max_messages: int, wait: float) -> Sequence[Delivery]:
        """ReceiveMessage as a long poll. It cannot be interrupted: cancelled, it ends later and gives back what it brought."""
        url = await self._url(queue)
        longest = max(1.0, queue.lease / _WAIT_SHARE)
        began = self._clock.monotonic()
        poll = asyncio.ensure_future(
            self._call(
                queue,
                "ReceiveMessage",
                self._polls.receive_message,
                self._polling,
                QueueUrl=url,
                MaxNumberOfMessages=max_messages,
                WaitTimeSeconds=math.ceil(min(wait, longest)),
                VisibilityTimeout=math.ceil(queue.lease),
                MessageSystemAttributeNames=_TOLD,
                MessageAttributeNames=["All"],
            )
        )
        try:
            answer = await asyncio.shield(poll)
        except asyncio.CancelledError:
            self._in_background(self._undo(queue, poll, began))
            raise
        return self._deliveries(queue, answer.get("Messages", ()), began)

    def _deliveries(self, queue: Queue, found: Sequence[MessageTypeDef], began: float) -> list[Delivery]:
        left = queue.lease - (self._clock.monotonic() - began)
        return [_delivery(queue, message, left) for message in found]

    async def _undo(self, queue: Queue, poll: asyncio.Future[Any], began: float) -> None:
        with contextlib.suppress(DriverError):  # not given back, it comes back when its lease ends
            taken = self._deliveries(queue, (await poll).get("Messages", ()), began)
            if taken:
                await self.release(queue, [Release(delivery, counted=False) for delivery in taken])

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Settling ---------------------------------------------------------------------------------------------------------

    async def ack(self, queue: Queue, batch: Sequence[Delivery]) -> Sequence[Settled]:
        """DeleteMessageBatch. A handle that is too old may be answered as if it were not (`Limits.tells_lost`)."""
        entries = [{"Id": str(position), "ReceiptHandle": delivery.receipt} for position, delivery in enumerate(batch)]
        return await self._settle(queue, "DeleteMessageBatch", self._calls.delete_message_batch, entries)

    async def release(self, queue: Queue, batch: Sequence[Release]) -> Sequence[Settled]:
        """ChangeMessageVisibilityBatch to the delay."""
        return await self._hide(queue, [(release.delivery, release.delay) for release in batch])

    async def extend(self, queue: Queue, batch: Sequence[Delivery], lease: float) -> Sequence[Settled]:
        """ChangeMessageVisibilityBatch to the lease. LOST at the end of the 12 hours that a receive is good for."""
        return await self._hide(queue, [(delivery, lease) for delivery in batch])

    async def _hide(self, queue: Queue, batch: Sequence[tuple[Delivery, float]]) -> Sequence[Settled]:
        entries = [
            {"Id": str(position), "ReceiptHandle": delivery.receipt, "VisibilityTimeout": math.ceil(seconds)}
            for position, (delivery, seconds) in enumerate(batch)
        ]
        return await self._settle(queue, "ChangeMessageVisibilityBatch", self._calls.change_message_visibility_batch, entries)

    async def _settle(
        self, queue: Queue, operation: str, method: Callable[..., Any], entries: list[dict[str, Any]]
    ) -> Sequence[Settled]:
        answer = await self._call(queue, operation, method, QueueUrl=await self._url(queue), Entries=entries)
        answers = [Settled.OK] * len(entries)
        for failed in answer.get("Failed", ()):
            answers[int(failed["Id"])] = Settled.LOST if failed["Code"] in LEASE_OVER else Settled.UNKNOWN
        return answers

    async def dead_letter(self, queue: Queue, dead: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:  # noqa: ARG002  the contract's
        """SQS cannot: the core composes it."""
        raise Refused(f"{self._named(queue)}: SQS moves no single message to a dead-letter queue; a copy is sent instead.")

    # The rest ---------------------------------------------------------------------------------------------------------

    async def stats(self, queue: Queue) -> Stats:
        """GetQueueAttributes: consistent a minute or more after the sends stop. The age is in CloudWatch alone."""
        names = [f"ApproximateNumberOfMessages{what}" for what in ("", "NotVisible", "Delayed")]
        answer = await self._call(
            queue, "GetQueueAttributes", self._calls.get_queue_attributes, QueueUrl=await self._url(queue), AttributeNames=names
        )
        ready, in_flight, delayed = (int(answer["Attributes"][name]) for name in names)
        return Stats(ready=ready, in_flight=in_flight, delayed=delayed)

    async def create(self, queues: Sequence[Queue]) -> Sequence[Queue]:
        """CreateQueue for what is missing, with the attributes of `provision`."""
        self._usable()
        work = partial(provision.create, self._calls, self._options, queues)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._calling, work)
        except (sdk.BotoCoreError, sdk.ClientError) as error:
            operation = getattr(error, "operation_name", "CreateQueue")
            raise translate(error, operation, f"{', '.join(queue.physical for queue in queues)} in {self.region}") from error

    async def inspect(self, queues: Sequence[Declared]) -> Sequence[Check]:
        """GetQueueAttributes and ListQueueTags for each; ListEventSourceMappings where a function is declared."""
        self._usable()
        work = partial(inspection.inspect, self._calls, self._options, self._lambda, queues)
        return await asyncio.get_running_loop().run_in_executor(self._calling, work)

    def _lambda(self) -> Any:
        """Return a client of Lambda, with the same credentials."""
        return cast("Any", self._session).client("lambda", config=Config(connect_timeout=_CONNECT, read_timeout=_ANSWER))

    async def move_dead_letters(self, dead: Queue, queue: Queue, rate: float | None) -> None:
        """StartMessageMoveTask: at most 500 a second. `dead` must be named by the RedrivePolicy of a queue.

        What arrives is a new message to the provider: counted from 1, with a new age and retention.
        """
        asked: dict[str, Any] = {"SourceArn": await self._arn(dead), "DestinationArn": await self._arn(queue)}
        if rate is not None:
            if rate < 1:
                raise Refused(f"{self._named(dead)}: SQS moves at least one message a second; asked for was {rate:g}")
            asked["MaxNumberOfMessagesPerSecond"] = min(500, int(rate))
        await self._call(dead, "StartMessageMoveTask", self._calls.start_message_move_task, **asked)

    async def moved(self, dead: Queue) -> Moved:
        """ListMessageMoveTasks."""
        answer = await self._call(
            dead, "ListMessageMoveTasks", self._calls.list_message_move_tasks, SourceArn=await self._arn(dead), MaxResults=1
        )
        tasks = answer.get("Results", ())
        if not tasks:
            return Moved(running=False, well=False, state="there is no move")
        state = str(tasks[0]["Status"])
        count = int(tasks[0].get("ApproximateNumberOfMessagesMoved", 0))
        return Moved(running=state in ("RUNNING", "CANCELLING"), well=state == "COMPLETED", state=state, count=count)

    async def _arn(self, queue: Queue) -> str:
        answer = await self._call(
            queue,
            "GetQueueAttributes",
            self._calls.get_queue_attributes,
            QueueUrl=await self._url(queue),
            AttributeNames=["QueueArn"],
        )
        return str(answer["Attributes"]["QueueArn"])

    def unwrap(self, kind: type[T]) -> T:
        """The boto3 client: `unwrap(botocore.client.BaseClient)`. It belongs to the driver; do not close it."""
        if kind is BaseClient:
            return cast("T", self._calls)
        raise TypeError(f"the SQS driver can be unwrapped to botocore.client.BaseClient, not to {kind.__name__}")

    async def aclose(self) -> None:
        """Wait for receives that still run, at most their 20 seconds, and give back what they bring; then close."""
        if self._closed:
            return
        while self._background:
            await asyncio.wait(self._background)
        self._closed = True
        loop = asyncio.get_running_loop()
        for executor in (self._polling, self._calling):
            await loop.run_in_executor(None, executor.shutdown)
        for client in (self._polls, self._calls):
            client.close()

    # Requests ---------------------------------------------------------------------------------------------------------

    async def _url(self, queue: Queue) -> str:
        name = self._options.name(queue)
        url = self._options.urls.get(queue.physical) or self._found.get(name)
        if url is None and self._options.account:
            # guide, queue and message identifiers: endpoint, account, name.
            url = self._found[name] = f"{self._calls.meta.endpoint_url}/{self._options.account}/{name}"
        if url is not None:
            return url
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.ensure_future(self._ask_url(queue, name))
            asking.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(asking)

    async def _ask_url(self, queue: Queue, name: str) -> str:
        try:
            answer = await self._call(queue, "GetQueueUrl", self._calls.get_queue_url, QueueName=name)
        except OutcomeUnknown as error:
            # A question has no effect: what it was asked for was surely not done.
            raise Unavailable(str(error)) from error.__cause__
        url = self._found[name] = str(answer["QueueUrl"])
        return url

    async def _call(
        self,
        queue: Queue,
        operation: str,
        method: Callable[..., Any],
        executor: ThreadPoolExecutor | None = None,
        **request: object,
    ) -> Mapping[str, Any]:
        self._usable()

        def ask() -> Mapping[str, Any]:
            return cast("Mapping[str, Any]", method(**request))

        try:
            return await asyncio.get_running_loop().run_in_executor(executor or self._calling, ask)
        except Exception as error:  # also what the SDK makes of an answer that it cannot read
            raise translate(error, operation, self._named(queue)) from error

    def _usable(self) -> None:
        if self._pid != os.getpid():
            raise Unavailable("this SQS driver was opened before a fork: its connections must not cross one. Open it anew.")
        if self._closed:
            raise Unavailable("this SQS driver is closed")

    def _named(self, queue: Queue) -> str:
        return f"{self._options.name(queue)} in {self._options.endpoint or self.region}"


def _client(session: boto3.Session, options: Options, connections: int, patience: float) -> SQSClient:
    config = Config(
        connect_timeout=_CONNECT,
        read_timeout=patience,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        tcp_keepalive=True,
        # Both are made anew for every request, and together are a seventh of its CPU (benchmarks/sqs).
        user_agent=_USER_AGENT,
        parameter_validation=False,
    )
    return session.client("sqs", endpoint_url=options.endpoint or None, config=config)  # pyright: ignore[reportUnknownMemberType]  other services


def _entry(position: int, queue: Queue, message: Outgoing) -> SendMessageBatchRequestEntryTypeDef:
    text, encoded = messages.to_text(message.body)
    entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(position), "MessageBody": text}
    attributes = messages.to_attributes(message.attributes, encoded=encoded)
    if attributes:
        entry["MessageAttributes"] = attributes
    if message.delay > 0:
        entry["DelaySeconds"] = math.ceil(message.delay)
    if is_fifo(queue):
        # What is dead, and what has no key, holds up nobody: each is a group of its own.
        group = message.group if queue.ordered else None
        entry["MessageGroupId"] = messages.token(group or message.message_id)
        entry["MessageDeduplicationId"] = messages.token(message.message_id)
    elif message.group is not None:
        entry["MessageGroupId"] = messages.token(message.group)
    return entry


def _requests(
    entries: Sequence[SendMessageBatchRequestEntryTypeDef], *, ordered: bool
) -> list[list[SendMessageBatchRequestEntryTypeDef]]:
    """Pack by count and bytes. In an ordered queue, two messages of a group never share a request.

    An entry can fail alone: what follows it in its group, in the same request, would have overtaken it.
    """
    requests: list[list[SendMessageBatchRequestEntryTypeDef]] = []
    sizes: list[int] = []
    for entry in entries:
        size = messages.size(entry["MessageBody"], entry.get("MessageAttributes", {}))
        fits = bool(requests) and len(requests[-1]) < LIMITS.send_count and sizes[-1] + size <= LIMITS.send_bytes
        group = entry.get("MessageGroupId")
        if fits and ordered and any(other.get("MessageGroupId") == group for other in requests[-1]):
            fits = False
        if fits:
            requests[-1].append(entry)
            sizes[-1] += size
        else:
            requests.append([entry])
            sizes.append(size)
    return requests


def _delivery(queue: Queue, message: MessageTypeDef, left: float) -> Delivery:
    told = message.get("Attributes", {})
    attributes = messages.from_attributes(message.get("MessageAttributes", {}))
    body = messages.to_bytes(message.get("Body", ""), attributes)
    attributes.pop(messages.ENCODING, None)
    return Delivery(
        queue=queue,
        body=body,
        receipt=message.get("ReceiptHandle", ""),
        deliveries=int(told.get("ApproximateReceiveCount", "1")),
        leased_for=left,
        sent_at=int(told["SentTimestamp"]) / 1000 if "SentTimestamp" in told else None,
        message_id=message.get("MessageId", ""),
        group=told.get("MessageGroupId"),
        attributes=attributes,
    )
