"""The operations of the emulator, as requests and answers: the JSON protocol without HTTP.

What a request may hold and how it is refused is written down here, operation by operation, from the service model 2012-11-05
("API"). A batch answers for each entry: the failure of one does not touch the others.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import md5
from typing import Any, cast

from cloudq.clock import Clock
from cloudq_sqs.emulator.broker import (
    ATTRIBUTES,
    BATCH,
    BATCH_BYTES,
    FIFO_ONLY,
    IN_FLIGHT,
    MOST_DELAY,
    MOST_HIDDEN,
    MOST_WAIT,
    MOVE_RATE,
    RANGES,
    SETTABLE,
    Message,
    Move,
    Queue,
    Refusal,
    body_digest,
    content_digest,
)

Answer = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
#: guide, quotas-messages: a FIFO name counts its suffix.
_FIFO_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo", re.ASCII)
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
#: API SendMessage: 1 to 128 alphanumeric or punctuation characters.
_GROUP_ID = re.compile(r"[!-~]{1,128}", re.ASCII)
#: API SendMessage: what a body may not hold.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RECEIPT = re.compile(r"(?P<id>[0-9a-f]+)#(?P<count>\d+)")


@dataclass(slots=True)
class Wait:
    """A receive that found nothing and may wait: try again when something becomes visible, until `until`."""

    queue: Queue
    until: float
    again: Callable[[], Answer]


class Service:
    """All queues of one account in one region."""

    def __init__(self, clock: Clock, *, account: str = "000000000000", region: str = "us-east-1", base: str = "") -> None:
        """`base` begins the queue URLs, e.g. http://127.0.0.1:9324."""
        self.clock = clock
        self.account = account
        self.region = region
        self.base = base
        self.queues: dict[str, Queue] = {}
        #: How many messages of a queue may be in flight. Lowered by tests that want to see what happens then.
        self.most_in_flight = IN_FLIGHT
        #: A queue in which something became visible.
        self.on_visible: Callable[[Queue], None] = lambda _queue: None
        self._moves: list[Move] = []
        self._ids = itertools.count(1)
        self._salt = secrets.token_hex(4)
        self._sequence = itertools.count(18_850_000_000_000_000_000)
        self.operations: Mapping[str, Callable[[Answer], Answer | Wait]] = {
            "CreateQueue": self.create_queue,
            "DeleteQueue": self.delete_queue,
            "GetQueueUrl": self.get_queue_url,
            "ListQueues": self.list_queues,
            "GetQueueAttributes": self.get_queue_attributes,
            "SetQueueAttributes": self.set_queue_attributes,
            "PurgeQueue": self.purge_queue,
            "TagQueue": self.tag_queue,
            "UntagQueue": self.untag_queue,
            "ListQueueTags": self.list_queue_tags,
            "ListDeadLetterSourceQueues": self.list_dead_letter_source_queues,
            "SendMessage": self.send_message,
            "SendMessageBatch": self.send_message_batch,
            "ReceiveMessage": self.receive_message,
            "DeleteMessage": self.delete_message,
            "DeleteMessageBatch": self.delete_message_batch,
            "ChangeMessageVisibility": self.change_message_visibility,
            "ChangeMessageVisibilityBatch": self.change_message_visibility_batch,
            "StartMessageMoveTask": self.start_message_move_task,
            "CancelMessageMoveTask": self.cancel_message_move_task,
            "ListMessageMoveTasks": self.list_message_move_tasks,
        }

    # Queues -----------------------------------------------------------------------------------------------------------

    def create_queue(self, request: Answer) -> Answer:
        """API CreateQueue: the same name with the same attributes is answered as if new, with others refused."""
        name = _text(request, "QueueName")
        attributes = {key: str(value) for key, value in _table(request, "Attributes").items()}
        fifo = name.endswith(".fifo")
        if not (_FIFO_NAME if fifo else _NAME).fullmatch(name):
            raise Refusal("InvalidParameterValue", f"{name!r} is not a queue name: 1 to 80 letters, digits, '-' or '_'")
        if fifo != (attributes.get("FifoQueue", "false") == "true"):
            raise Refusal("InvalidParameterValue", "a FIFO queue has FifoQueue=true and a name that ends in .fifo")
        known = self.queues.get(name)
        if known is not None:
            if any(known.attributes.get(key) != value for key, value in attributes.items()):
                raise Refusal("QueueNameExists", f"the queue {name} exists with other attributes")
            return {"QueueUrl": self._url(name)}
        self._check(attributes, fifo=fifo)
        queue = Queue(name, self._arn(name), attributes, self.clock.time())
        queue.tags.update(_table(request, "tags"))
        self.queues[name] = queue
        return {"QueueUrl": self._url(name)}

    def _check(self, attributes: Mapping[str, str], *, fifo: bool) -> None:
        for key, value in attributes.items():
            if key not in SETTABLE:
                raise Refusal("InvalidAttributeName", f"Unknown Attribute {key}.")
            if key in FIFO_ONLY and not fifo:
                raise Refusal("InvalidAttributeName", f"{key} is for FIFO queues.")
            if key in RANGES:
                least, most = RANGES[key]
                if not value.isdecimal() or not least <= int(value) <= most:
                    raise Refusal("InvalidAttributeValue", f"{key} = {value}: from {least} to {most}.")
        if attributes.get("RedrivePolicy"):
            self._redrive_target(attributes["RedrivePolicy"], fifo=fifo)

    def _redrive_target(self, policy: str, *, fifo: bool) -> tuple[Queue, int]:
        try:
            read = json.loads(policy)
            target, most = self._by_arn(read["deadLetterTargetArn"]), int(read["maxReceiveCount"])
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal("InvalidAttributeValue", f"RedrivePolicy: {policy}") from error
        # guide, dead-letter queues: of the same kind, and 1 to 1,000.
        if target is None or target.fifo != fifo or not 1 <= most <= 1000:
            raise Refusal(
                "InvalidAttributeValue", f"RedrivePolicy: no dead-letter queue of this kind, or a bad count: {policy}"
            )
        return target, most

    def delete_queue(self, request: Answer) -> Answer:
        """API DeleteQueue. The 60 seconds until a name is free again are not imitated."""
        del self.queues[self._queue(request).name]
        return {}

    def get_queue_url(self, request: Answer) -> Answer:
        """API GetQueueUrl."""
        name, owner = _text(request, "QueueName"), request.get("QueueOwnerAWSAccountId", self.account)
        if name not in self.queues or owner != self.account:
            raise _missing()
        return {"QueueUrl": self._url(name)}

    def list_queues(self, request: Answer) -> Answer:
        """API ListQueues."""
        prefix, most = request.get("QueueNamePrefix", ""), int(request.get("MaxResults", 1000))
        start = int(request.get("NextToken") or 0)
        names = sorted(name for name in self.queues if name.startswith(prefix))
        answer: Answer = {"QueueUrls": [self._url(name) for name in names[start : start + most]]}
        if start + most < len(names) and "MaxResults" in request:
            answer["NextToken"] = str(start + most)
        return answer

    def get_queue_attributes(self, request: Answer) -> Answer:
        """API GetQueueAttributes. The counts are exact; those of the service lag by a minute or more."""
        queue = self._queue(request)
        visible, in_flight, delayed = queue.count(self.clock.time())
        every = {
            **queue.attributes,
            "QueueArn": queue.arn,
            "CreatedTimestamp": str(int(queue.created)),
            "LastModifiedTimestamp": str(int(queue.modified)),
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(in_flight),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
        }
        asked = _texts(request, "AttributeNames")
        for name in asked:
            if name != "All" and name not in SETTABLE and name not in every:
                raise Refusal("InvalidAttributeName", f"Unknown Attribute {name}.")
        return {"Attributes": {key: value for key, value in every.items() if "All" in asked or key in asked}}

    def set_queue_attributes(self, request: Answer) -> Answer:
        """API SetQueueAttributes. Takes effect at once; the service takes up to 60 s, 15 min for the retention."""
        queue = self._queue(request)
        attributes = {key: str(value) for key, value in _table(request, "Attributes").items()}
        self._check(attributes, fifo=queue.fifo)
        for key, value in attributes.items():
            if value == "" and key not in RANGES:
                queue.attributes.pop(key, None)
            else:
                queue.attributes[key] = value
        queue.modified = self.clock.time()
        return {}

    def purge_queue(self, request: Answer) -> Answer:
        """API PurgeQueue. The 60 seconds between two are not imitated."""
        queue = self._queue(request)
        for message in list(queue.messages.values()):
            queue.remove(message)
        return {}

    def tag_queue(self, request: Answer) -> Answer:
        """API TagQueue."""
        self._queue(request).tags.update(_table(request, "Tags"))
        return {}

    def untag_queue(self, request: Answer) -> Answer:
        """API UntagQueue."""
        queue = self._queue(request)
        for key in _texts(request, "TagKeys"):
            queue.tags.pop(key, None)
        return {}

    def list_queue_tags(self, request: Answer) -> Answer:
        """API ListQueueTags."""
        return {"Tags": dict(self._queue(request).tags)}

    def list_dead_letter_source_queues(self, request: Answer) -> Answer:
        """API ListDeadLetterSourceQueues."""
        dead = self._queue(request)
        return {"queueUrls": [self._url(queue.name) for queue in self._sources(dead)]}

    def _sources(self, dead: Queue) -> list[Queue]:
        return [queue for queue in self.queues.values() if dead.arn in queue.attributes.get("RedrivePolicy", "")]

    # Sending ----------------------------------------------------------------------------------------------------------

    def send_message(self, request: Answer) -> Answer:
        """API SendMessage."""
        answer = self._send(self._queue(request), request)
        return {key: value for key, value in answer.items() if value is not None}

    def send_message_batch(self, request: Answer) -> Answer:
        """API SendMessageBatch: 10 entries and 1 MiB in total; a bad entry fails alone."""
        queue = self._queue(request)
        entries = _entries(request)
        total = sum(_size(entry) for entry in entries)
        if total > BATCH_BYTES:
            raise Refusal(
                "BatchRequestTooLong",
                f"Batch requests cannot be longer than {BATCH_BYTES} bytes. You have sent {total} bytes.",
            )
        return _each(entries, lambda entry: self._send(queue, entry))

    def _send(self, queue: Queue, entry: Answer) -> Answer:
        now = self.clock.time()
        body, attributes, size = _content(entry, queue.number("MaximumMessageSize"))
        group, dedup_id = entry.get("MessageGroupId"), entry.get("MessageDeduplicationId")
        delay = self._delay(queue, entry)
        sequence = 0
        if group is not None and not _GROUP_ID.fullmatch(group):
            raise Refusal("InvalidParameterValue", "MessageGroupId: 1 to 128 letters, digits or punctuation marks.")
        if queue.fifo:
            if group is None:
                raise Refusal("MissingParameter", "The request must contain the parameter MessageGroupId.")
            if dedup_id is None and queue.attributes.get("ContentBasedDeduplication") == "true":
                dedup_id = content_digest(body)
            if dedup_id is None or not _GROUP_ID.fullmatch(dedup_id):
                raise Refusal(
                    "InvalidParameterValue",
                    "The queue should either have ContentBasedDeduplication or a MessageDeduplicationId.",
                )
            known = queue.duplicate_of(dedup_id, group, now)
            if known is not None:
                # API SendMessage: accepted, and not delivered.
                return self._sent(known[0], body, attributes, known[1])
            sequence = next(self._sequence)
        elif dedup_id is not None:
            raise Refusal("InvalidParameterValue", "MessageDeduplicationId is for FIFO queues.")
        trace = _table(_table(entry, "MessageSystemAttributes"), "AWSTraceHeader").get("StringValue")
        message = Message(
            id=f"{self._salt}{next(self._ids):012x}",
            body=body,
            attributes=attributes,
            size=size,
            sent_at=now,
            visible_at=now + delay,
            sender=self.account,
            trace=trace,
            group=group,
            dedup_id=dedup_id,
            sequence=sequence,
            body_md5=body_digest(body),
        )
        queue.put(message, now)
        if delay <= 0:
            self.on_visible(queue)
        return self._sent(message.id, body, attributes, sequence, message.body_md5)

    def _delay(self, queue: Queue, entry: Answer) -> int:
        delay = entry.get("DelaySeconds")
        if delay is None:
            return queue.number("DelaySeconds")
        # API SendMessage: FIFO queues take no DelaySeconds per message.
        if queue.fifo and delay:
            raise Refusal("InvalidParameterValue", f"Value {delay} for parameter DelaySeconds is invalid: the queue is FIFO.")
        return _within("DelaySeconds", delay, 0, MOST_DELAY)

    def _sent(self, identity: str, body: str, attributes: Answer, sequence: int, digest: str = "") -> Answer:
        return {
            "MessageId": identity,
            "MD5OfMessageBody": digest or body_digest(body),
            "MD5OfMessageAttributes": _attributes_digest(attributes) if attributes else None,
            "SequenceNumber": str(sequence) if sequence else None,
        }

    # Receiving --------------------------------------------------------------------------------------------------------

    def receive_message(self, request: Answer) -> Answer | Wait:
        """API ReceiveMessage. ReceiveRequestAttemptId is taken and not imitated."""
        queue = self._queue(request)
        most = _within("MaxNumberOfMessages", request.get("MaxNumberOfMessages", 1), 1, BATCH)
        wait = _within(
            "WaitTimeSeconds", request.get("WaitTimeSeconds", queue.number("ReceiveMessageWaitTimeSeconds")), 0, MOST_WAIT
        )
        visibility = _within(
            "VisibilityTimeout", request.get("VisibilityTimeout", queue.number("VisibilityTimeout")), 0, MOST_HIDDEN
        )
        system = {*_texts(request, "MessageSystemAttributeNames"), *_texts(request, "AttributeNames")}
        wanted = _texts(request, "MessageAttributeNames")

        def attempt() -> Answer:
            taken = self._take(queue, most, visibility, polling=wait > 0)
            found = [self._received(message, system, wanted) for message in taken]
            return {"Messages": found} if found else {}

        answer = attempt()
        return answer if answer or wait == 0 else Wait(queue, self.clock.time() + wait, attempt)

    def _take(self, queue: Queue, most: int, visibility: int, *, polling: bool) -> list[Message]:
        now = self.clock.time()
        queue.pass_time(now)
        self.advance_moves()
        policy = queue.attributes.get("RedrivePolicy")
        dead, limit = self._redrive_target(policy, fifo=queue.fifo) if policy else (None, math.inf)
        oldest = now - queue.number("MessageRetentionPeriod")
        found: list[Message] = []
        if queue.in_flight >= self.most_in_flight:
            # guide, quotas-queues: an error of standard queues that are polled short; nothing, without a word, otherwise.
            if queue.fifo or polling:
                return []
            raise Refusal("OverLimit", f"Too many messages in flight: {queue.in_flight}.", status=403)
        for message in queue.candidates(now):
            if message.sent_at <= oldest:
                queue.remove(message)
            elif dead is not None and message.count >= limit:
                self._to_dead(queue, dead, message, now)
            else:
                queue.take(message, now, visibility)
                found.append(message)
                if len(found) == most or queue.in_flight >= self.most_in_flight:
                    break
        if visibility == 0:
            queue.pass_time(now)
        return found

    def _to_dead(self, queue: Queue, dead: Queue, message: Message, now: float) -> None:
        queue.remove(message)
        message.gone = False
        message.in_flight = False
        message.version += 1
        message.visible_at = now
        message.source = queue.arn
        if dead.fifo:
            # guide, dead-letter queue retention: FIFO begins anew, standard keeps the time of sending.
            message.sent_at = now
            message.dedup_id = message.id
        dead.put(message, now)
        self.on_visible(dead)

    def _received(self, message: Message, system: set[str], wanted: list[str]) -> Answer:
        answer: Answer = {
            "MessageId": message.id,
            "ReceiptHandle": f"{message.id}#{message.count}",
            "MD5OfBody": message.body_md5,
            "Body": message.body,
        }
        if system:
            every = {
                "SenderId": message.sender,
                "SentTimestamp": str(int(message.sent_at * 1000)),
                "ApproximateReceiveCount": str(message.count),
                "ApproximateFirstReceiveTimestamp": str(int((message.first_received or 0) * 1000)),
                "MessageGroupId": message.group,
                "MessageDeduplicationId": message.dedup_id,
                "SequenceNumber": str(message.sequence) if message.sequence else None,
                "AWSTraceHeader": message.trace,
                "DeadLetterQueueSourceArn": message.source,
            }
            answer["Attributes"] = {
                key: value for key, value in every.items() if value is not None and ("All" in system or key in system)
            }
        if message.attributes and wanted:
            chosen = {name: value for name, value in message.attributes.items() if _is_wanted(name, wanted)}
            if chosen:
                answer["MessageAttributes"] = chosen
                answer["MD5OfMessageAttributes"] = _attributes_digest(chosen)
        return answer

    # Settling ---------------------------------------------------------------------------------------------------------

    def delete_message(self, request: Answer) -> Answer:
        """API DeleteMessage."""
        self._delete(self._queue(request), request)
        return {}

    def delete_message_batch(self, request: Answer) -> Answer:
        """API DeleteMessageBatch."""
        queue = self._queue(request)
        return _each(_entries(request), lambda entry: self._delete(queue, entry))

    def _delete(self, queue: Queue, entry: Answer) -> Answer:
        message, latest = self._by_receipt(queue, entry)
        if message is None:
            return {}
        queue.pass_time(self.clock.time())
        if queue.fifo and not (latest and message.in_flight):
            # Not in the API. Chosen: a FIFO queue refuses a handle whose visibility timeout has ended, to keep the order.
            raise Refusal("InvalidParameterValue", "The receipt handle has expired.")
        # API DeleteMessage: with an old handle the request succeeds, and the message might not be deleted. Here it never is.
        if latest:
            queue.remove(message)
            if queue.fifo:
                self.on_visible(queue)
        return {}

    def change_message_visibility(self, request: Answer) -> Answer:
        """API ChangeMessageVisibility."""
        self._change(self._queue(request), request)
        return {}

    def change_message_visibility_batch(self, request: Answer) -> Answer:
        """API ChangeMessageVisibilityBatch."""
        queue = self._queue(request)
        return _each(_entries(request), lambda entry: self._change(queue, entry))

    def _change(self, queue: Queue, entry: Answer) -> Answer:
        now = self.clock.time()
        visibility = _within("VisibilityTimeout", entry.get("VisibilityTimeout", 0), 0, MOST_HIDDEN)
        message, latest = self._by_receipt(queue, entry)
        queue.pass_time(now)
        # What a handle of an earlier receive does is not documented. Chosen: what is not in flight by it is not.
        if message is None or not latest or not message.in_flight:
            raise Refusal("MessageNotInflight", "The message is not in flight.")
        elapsed = now - (message.received_at or now)
        if elapsed + visibility > MOST_HIDDEN:
            raise Refusal(
                "InvalidParameterValue",
                f"Value {visibility} for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the "
                f"message is beyond the limit [{MOST_HIDDEN} seconds].",
            )
        queue.change(message, now, visibility)
        if visibility == 0:
            self.on_visible(queue)
        return {}

    def _by_receipt(self, queue: Queue, entry: Answer) -> tuple[Message | None, bool]:
        """The message, None when it is gone, and whether the handle is that of its latest receive."""
        read = _RECEIPT.fullmatch(_text(entry, "ReceiptHandle"))
        if read is None or not read["id"].startswith(self._salt):
            raise Refusal("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        message = queue.messages.get(read["id"])
        return message, message is not None and message.count == int(read["count"])

    # Moving dead letters ----------------------------------------------------------------------------------------------

    def start_message_move_task(self, request: Answer) -> Answer:
        """API StartMessageMoveTask: from a dead-letter queue, one at a time, at most 500 a second."""
        source = self._by_arn(_text(request, "SourceArn"))
        if source is None:
            raise Refusal(
                "ResourceNotFoundException", "The resource that you specified for the SourceArn parameter doesn't exist."
            )
        if not self._sources(source):
            raise Refusal("InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue.")
        destination = None
        if request.get("DestinationArn"):
            destination = self._by_arn(request["DestinationArn"])
            if destination is None:
                raise Refusal("ResourceNotFoundException", "The DestinationArn parameter doesn't exist.")
        self.advance_moves()
        if source.move is not None and source.move.status == "RUNNING":
            raise Refusal("UnsupportedOperation", "There is already a task running.")
        rate = _within("MaxNumberOfMessagesPerSecond", request.get("MaxNumberOfMessagesPerSecond", MOVE_RATE), 1, MOVE_RATE)
        now = self.clock.time()
        visible, _, _ = source.count(now)
        move = Move(secrets.token_urlsafe(24), source, destination, rate, now, visible)
        source.move = move
        self._moves.append(move)
        return {"TaskHandle": move.handle}

    def cancel_message_move_task(self, request: Answer) -> Answer:
        """API CancelMessageMoveTask: what was moved stays moved."""
        self.advance_moves()
        move = next((move for move in self._moves if move.handle == request.get("TaskHandle")), None)
        if move is None or move.status != "RUNNING":
            raise Refusal("ResourceNotFoundException", "There is no running task with this handle.")
        move.status = "CANCELLED"
        return {"ApproximateNumberOfMessagesMoved": move.moved}

    def list_message_move_tasks(self, request: Answer) -> Answer:
        """API ListMessageMoveTasks: the latest first, 10 at most."""
        self.advance_moves()
        arn = _text(request, "SourceArn")
        most = _within("MaxResults", request.get("MaxResults", 1), 1, 10)
        tasks = [move for move in reversed(self._moves) if move.source.arn == arn][:most]
        return {
            "Results": [
                {
                    "TaskHandle": move.handle if move.status == "RUNNING" else None,
                    "Status": move.status,
                    "SourceArn": move.source.arn,
                    "DestinationArn": move.destination.arn if move.destination else None,
                    "MaxNumberOfMessagesPerSecond": move.rate,
                    "ApproximateNumberOfMessagesMoved": move.moved,
                    "ApproximateNumberOfMessagesToMove": move.to_move,
                    "StartedTimestamp": int(move.started * 1000),
                }
                for move in tasks
            ]
        }

    def advance_moves(self) -> bool:
        """Move what is due by now. Says whether a task is still running."""
        running = False
        for move in self._moves:
            if move.status == "RUNNING":
                self._advance(move)
                running = running or move.status == "RUNNING"
        return running

    def _advance(self, move: Move) -> None:
        now = self.clock.time()
        move.source.pass_time(now)
        allowed = int((now - move.started) * move.rate) - move.moved
        for message in itertools.islice(move.source.candidates(now), max(0, allowed)):
            origin = self._by_arn(message.source or "")
            destination = move.destination or origin
            if destination is None:
                move.status = "FAILED"
                return
            move.source.remove(message)
            # guide, dead-letter queue redrive: a new message, with a new id, time and retention. That its receive count begins
            # anew follows from that and has not been seen on the service.
            fresh = Message(
                id=f"{self._salt}{next(self._ids):012x}",
                body=message.body,
                attributes=message.attributes,
                size=message.size,
                sent_at=now,
                visible_at=now,
                sender=message.sender,
                trace=message.trace,
                group=message.group,
                sequence=next(self._sequence) if destination.fifo else 0,
                body_md5=message.body_md5,
            )
            destination.put(fresh, now)
            move.moved += 1
            self.on_visible(destination)
        if move.moved >= move.to_move or not move.source.count(now)[0]:
            move.status = "COMPLETED"

    # Names ------------------------------------------------------------------------------------------------------------

    def _queue(self, request: Answer) -> Queue:
        account, _, name = _text(request, "QueueUrl").rpartition("/")
        queue = self.queues.get(name)
        if queue is None or not account.endswith(f"/{self.account}"):
            raise _missing()
        return queue

    def _url(self, name: str) -> str:
        return f"{self.base}/{self.account}/{name}"

    def _arn(self, name: str) -> str:
        return f"arn:aws:sqs:{self.region}:{self.account}:{name}"

    def _by_arn(self, arn: str) -> Queue | None:
        name = arn.rpartition(":")[2]
        return self.queues.get(name) if arn == self._arn(name) else None


def _missing() -> Refusal:
    return Refusal("QueueDoesNotExist", "The specified queue does not exist.")


def _text(request: Answer, key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise Refusal("MissingParameter", f"The request must contain the parameter {key}.")
    return value


def _table(request: Answer, key: str) -> Answer:
    value: object = request.get(key) or {}
    if not isinstance(value, dict):
        raise Refusal("SerializationException", f"{key} is not a structure.")
    return cast("Answer", value)


def _texts(request: Answer, key: str) -> list[str]:
    value: object = request.get(key) or []
    if not isinstance(value, list):
        raise Refusal("SerializationException", f"{key} is not a list.")
    return cast("list[str]", value)


def _within(key: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or not least <= value <= most:
        raise Refusal(
            "InvalidParameterValue",
            f"Value {value} for parameter {key} is invalid. Reason: Must be >= {least} and <= {most}, if provided.",
        )
    return value


def _entries(request: Answer) -> list[Answer]:
    """API SendMessageBatch and the others: 1 to 10 entries with ids of their own."""
    entries: list[Answer] = request.get("Entries") or []
    if not entries:
        raise Refusal("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > BATCH:
        raise Refusal(
            "TooManyEntriesInBatchRequest", f"Maximum number of entries per request are {BATCH}. You have sent {len(entries)}."
        )
    ids = [str(entry.get("Id", "")) for entry in entries]
    for identity in ids:
        if not _ENTRY_ID.fullmatch(identity):
            raise Refusal("InvalidBatchEntryId", f"{identity!r}: 1 to 80 letters, digits, '-' or '_'.")
    if len(set(ids)) < len(ids):
        raise Refusal("BatchEntryIdsNotDistinct", "Two entries have the same id.")
    return entries


def _each(entries: list[Answer], do: Callable[[Answer], Answer]) -> Answer:
    done: list[Answer] = []
    failed: list[Answer] = []
    for entry in entries:
        try:
            answer = do(entry)
        except Refusal as refusal:
            failed.append({"Id": entry["Id"], "Code": refusal.code, "Message": refusal.message, "SenderFault": True})
        else:
            answer["Id"] = entry["Id"]
            done.append({key: value for key, value in answer.items() if value is not None})
    answer = {"Successful": done}
    if failed:
        answer["Failed"] = failed
    return answer


def _size(entry: Answer) -> int:
    """What counts against the limit: the body, and of each attribute its name, type and value (API SendMessage)."""
    size = len(str(entry.get("MessageBody", "")).encode())
    for name, value in _table(entry, "MessageAttributes").items():
        held = value.get("StringValue") or value.get("BinaryValue") or ""
        size += len(name.encode()) + len(str(value.get("DataType", "")).encode())
        size += len(held.encode()) if "StringValue" in value else len(held) * 3 // 4
    return size


def _content(entry: Answer, most: int) -> tuple[str, dict[str, dict[str, Any]], int]:
    body = entry.get("MessageBody")
    if not isinstance(body, str) or not body:
        raise Refusal("MissingParameter", "The request must contain the parameter MessageBody.")
    if _NOT_XML.search(body):
        raise Refusal("InvalidMessageContents", "The message contains characters outside the allowed set.")
    attributes: dict[str, dict[str, Any]] = _table(entry, "MessageAttributes")
    if len(attributes) > ATTRIBUTES:
        raise Refusal(
            "InvalidParameterValue",
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [{ATTRIBUTES}].",
        )
    for name, value in attributes.items():
        kind = str(value.get("DataType", ""))
        held = value.get("BinaryValue") if kind.startswith("Binary") else value.get("StringValue")
        if not kind.startswith(("String", "Number", "Binary")) or not held:
            raise Refusal("InvalidParameterValue", f"Message attribute {name!r}: a type String, Number or Binary and a value.")
        if not kind.startswith("Binary") and _NOT_XML.search(held):
            raise Refusal("InvalidMessageContents", f"Message attribute {name!r} holds characters outside the allowed set.")
    size = _size(entry)
    if size > most:
        raise Refusal(
            "InvalidParameterValue", f"One or more parameters are invalid. Reason: Message must be shorter than {most} bytes."
        )
    return body, attributes, size


def _is_wanted(name: str, wanted: list[str]) -> bool:
    """API ReceiveMessage, MessageAttributeNames: All, .*, a name, or a prefix with .*"""
    return any(
        asked in ("All", ".*") or asked == name or (asked.endswith(".*") and name.startswith(asked[:-1])) for asked in wanted
    )


def _attributes_digest(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """guide, sqs-message-metadata, "Calculating the MD5 message digest for message attributes"."""
    import base64

    digest = md5(usedforsecurity=False)

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(4, "big") + data)

    for name in sorted(attributes):
        value = attributes[name]
        add(name.encode())
        add(str(value["DataType"]).encode())
        binary = str(value["DataType"]).startswith("Binary")
        digest.update(b"\x02" if binary else b"\x01")
        add(base64.b64decode(value["BinaryValue"]) if binary else str(value["StringValue"]).encode())
    return digest.hexdigest()
