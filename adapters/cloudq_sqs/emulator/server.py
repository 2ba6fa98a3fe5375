"""The emulator on a socket: HTTP 1.1 with the JSON protocol of SQS, on one thread and one event loop.

Hand-written on `asyncio.Protocol`, because what is measured with it is the client: a request costs about 30 µs here, where a
web framework takes ten times that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from functools import partial
from typing import Any

import msgspec

from cloudq.clock import Clock
from cloudq.emulation import EmulatorServer, Plan
from cloudq_sqs.emulator.broker import Queue, Refusal
from cloudq_sqs.emulator.faults import Fault, Requests
from cloudq_sqs.emulator.service import Answer, Service, Wait

#: The names under which the errors of the model were known before the JSON protocol. SDKs tell these as `Error.Code`.
#: Source: `awsQueryError` traits of the service model (smithy), one for one.
_OLD_NAMES = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "BatchEntryIdsNotDistinct": "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
    "BatchRequestTooLong": "AWS.SimpleQueueService.BatchRequestTooLong",
    "EmptyBatchRequest": "AWS.SimpleQueueService.EmptyBatchRequest",
    "InvalidBatchEntryId": "AWS.SimpleQueueService.InvalidBatchEntryId",
    "TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
    "MessageNotInflight": "AWS.SimpleQueueService.MessageNotInflight",
    "UnsupportedOperation": "AWS.SimpleQueueService.UnsupportedOperation",
    "PurgeQueueInProgress": "AWS.SimpleQueueService.PurgeQueueInProgress",
    "QueueDeletedRecently": "AWS.SimpleQueueService.QueueDeletedRecently",
}
#: How often a move task is looked at, in seconds.
_MOVE_EVERY = 0.01
#: After these, something may become visible sooner than a receive that waits has reckoned with.
_MOVE_TIMES = {
    "ChangeMessageVisibility", "ChangeMessageVisibilityBatch", "SendMessage", "SendMessageBatch", "ReceiveMessage",
}  # fmt: skip
#: Where the server answers about itself.
_TOOLS = "/_emulator/"
_NAMED = re.compile(rb'"(?:QueueUrl|QueueName|SourceArn|DestinationArn)":\s*"([^"]+)"')
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Server(EmulatorServer):
    """An emulator that listens: `start()` from anywhere, `serve()` on a loop of your own."""

    def __init__(
        self,
        port: int = 0,
        *,
        clock: Clock | None = None,
        region: str = "us-east-1",
        account: str = "000000000000",
        latency: float = 0.0,
    ) -> None:
        """Port 0 takes a free one. `latency` delays every answer by so many seconds, without costing throughput."""
        super().__init__(port, clock)
        self.service: Service = Service(self.clock, region=region, account=account)
        self.service.on_visible = self._ring
        self.requests: Requests = Requests()
        self.plan: Plan[Fault] = Plan()
        self.latency: float = latency
        #: By access key, the actions it may use; a key that is not here may use all.
        self.policies: dict[str, frozenset[str]] = {}
        self.connections: set[asyncio.Transport] = set()
        self._waiting: dict[Queue, list[_Standing]] = defaultdict(list)
        self._timers: dict[Queue, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None

    # Life -------------------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """What an SDK takes as `endpoint_url`."""
        return self.service.base

    async def listen(self) -> int:
        """Take connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024)
        port = int(self._server.sockets[0].getsockname()[1])
        self.service.base = f"http://127.0.0.1:{port}"
        return port

    async def close(self) -> None:
        """Drop every connection."""
        if self._server is not None:
            self._server.close()
        for timer in self._timers.values():
            timer.cancel()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # the aborts are carried out in the next turn

    # Requests ---------------------------------------------------------------------------------------------------------

    def answer(self, action: str, caller: str, region: str, body: bytes) -> tuple[int, Answer | Wait, Fault | None]:
        """Carry out one request: status, answer, and what should go wrong with the answering."""
        self.asked()
        self.requests.count(action, caller, len(body), _queues_of(body))
        fault = self.plan.next(action)
        try:
            if fault is not None and fault.kind == "reset" and not fault.entries:
                return 200, {}, fault
            answer = self._carry_out(action, caller, region, body, fault)
        except Refusal as refusal:
            return refusal.status, {"__type": f"com.amazonaws.sqs#{refusal.code}", "message": refusal.message}, fault
        if not isinstance(answer, Wait):
            self._note(action, answer)
            if action in _MOVE_TIMES:
                for queue in [queue for queue, waiting in self._waiting.items() if waiting]:
                    self._set_timer(queue)
        return 200, answer, fault

    def _note(self, action: str, answer: Answer) -> None:
        if action == "ReceiveMessage" and not answer:
            self.requests.empty += 1
        else:
            self.requests.delivered(action, time.monotonic())  # noqa: TID251  how long a client took is real, whatever the clock says

    def _carry_out(self, action: str, caller: str, region: str, body: bytes, fault: Fault | None) -> Answer | Wait:
        if fault is not None and fault.kind == "error" and not fault.entries:
            raise Refusal(fault.code, "a planned fault", fault.status)
        operation = self.service.operations.get(action)
        if operation is None:
            raise Refusal("UnsupportedOperation", f"the emulator has no {action}.")
        self._authorize(action, caller, region)
        try:
            request = _decode(body or b"{}")
        except msgspec.DecodeError as error:
            raise Refusal("SerializationException", str(error)) from error
        held = _hold_back(request, fault)
        with self.lock:
            answer = operation(request) if not held or request["Entries"] else {}
        if action == "StartMessageMoveTask":
            self._go_on_moving()
        if held and fault is not None and isinstance(answer, dict):
            failed = [{"Id": entry["Id"], "Code": fault.code, "Message": "planned", "SenderFault": False} for entry in held]
            answer["Failed"] = [*(answer.get("Failed") or []), *failed]
        return answer

    def _authorize(self, action: str, caller: str, region: str) -> None:
        # Signatures are not checked. The region that was signed for is: queues of another one are not here.
        allowed = self.policies.get(caller)
        name = action.removesuffix("Batch")  # guide, API permissions: a batch is authorized by the name of the single action
        if allowed is not None and name not in allowed:
            raise Refusal("AccessDeniedException", f"User: {caller} is not authorized to perform: sqs:{name.lower()}", 403)
        if region and region != self.service.region:
            raise Refusal("QueueDoesNotExist", f"The specified queue does not exist. (This is {self.service.region}.)")

    def tool(self, method: str, name: str, body: bytes) -> Mapping[str, Any]:
        """What a test asks of the server beside SQS, as JSON."""
        if name == "requests":
            if method == "DELETE":
                self.requests = Requests()
            return self.requests.as_json()
        if name == "clock":
            self.advance(float(_decode(body)["advance"]))
            return {"time": self.clock.time()}
        if name == "faults":
            asked = _decode(body)
            self.plan = Plan([Fault(**fault) for fault in asked["faults"]], asked.get("seed", 0))
            return {"faults": len(asked["faults"])}
        if name == "policies":
            self.policies = {caller: frozenset(actions) for caller, actions in _decode(body).items()}
            return {}
        if name == "latency":
            self.latency = float(_decode(body)["seconds"])
            return {}
        return {
            "what": "cloudq SQS emulator",
            "pid": os.getpid(),
            "queues": {name: len(queue.messages) for name, queue in self.service.queues.items()},
            "faults": dict(self.plan.happened),
        }

    def _go_on_moving(self) -> None:
        """Moves go on by themselves: whoever waits for what they bring is woken."""
        with self.lock:
            running = self.service.advance_moves()
        if running:
            asyncio.get_running_loop().call_later(_MOVE_EVERY, self._go_on_moving)

    # Waiting receives -------------------------------------------------------------------------------------------------

    def wait_for(self, standing: _Standing) -> None:
        """Have a receive wait: it is tried again when something becomes visible, and answered empty at its end."""
        queue = standing.wait.queue
        self._waiting[queue].append(standing)
        loop = asyncio.get_running_loop()
        standing.timer = loop.call_later(max(0.0, standing.wait.until - self.clock.time()), self._time_is_up, standing)
        self._set_timer(queue)

    def forget(self, standing: _Standing) -> None:
        """The connection is gone: what would have been received stays."""
        standing.cancel()
        with contextlib.suppress(ValueError):
            self._waiting[standing.wait.queue].remove(standing)

    def _time_is_up(self, standing: _Standing) -> None:
        self.forget(standing)
        self._note("ReceiveMessage", {})
        standing.connection.reply(200, {})

    def _ring(self, queue: Queue) -> None:
        if self._waiting[queue]:
            self.on_loop(partial(self._serve_waiting, queue))

    def _serve_waiting(self, queue: Queue) -> None:
        waiting = self._waiting[queue]
        while waiting:
            try:
                with self.lock:
                    answer = waiting[0].wait.again()
            except Refusal:  # too many in flight by now: it waits on
                break
            if not answer:
                break
            standing = waiting.pop(0)
            standing.cancel()
            self._note("ReceiveMessage", answer)
            standing.connection.reply(200, answer)
        self._set_timer(queue)

    def _set_timer(self, queue: Queue) -> None:
        timer = self._timers.pop(queue, None)
        if timer is not None:
            timer.cancel()
        if not self._waiting[queue]:
            return
        loop = asyncio.get_running_loop()
        due = queue.next_due()
        if due is not None:
            self._timers[queue] = loop.call_later(max(0.0, due - self.clock.time()), self._serve_waiting, queue)

    def look_at_all(self) -> None:
        """Let moves go on, and serve the receives that wait."""
        with self.lock:
            self.service.advance_moves()
        for queue in list(self._waiting):
            self._serve_waiting(queue)
            for standing in list(self._waiting[queue]):
                if standing.wait.until <= self.clock.time():
                    self._time_is_up(standing)


class _Standing:
    """A receive that waits on a connection."""

    __slots__ = ("connection", "timer", "wait")

    def __init__(self, wait: Wait, connection: _Connection) -> None:
        self.wait: Wait = wait
        self.connection: _Connection = connection
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class _Connection(asyncio.Protocol):
    """One connection. Requests on it are answered in their order, one at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._standing: _Standing | None = None
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the signature is asyncio's
        self._server.connections.discard(self._transport)
        if self._standing is not None:
            self._server.forget(self._standing)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        while not self._busy:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end])
            lowered = head.lower()
            length = int(_header(lowered, b"\r\ncontent-length:") or 0)
            if len(self._buffer) < end + 4 + length:
                if _header(lowered, b"\r\nexpect:") and len(self._buffer) == end + 4:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._busy = True
            self._handle(head, lowered, body)

    def _handle(self, head: bytes, lowered: bytes, body: bytes) -> None:
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if path.startswith(_TOOLS):
            self.reply(200, dict(self._server.tool(method, path.removeprefix(_TOOLS), body)))
            return
        action = (_header(head, b"\r\nX-Amz-Target:") or _header(lowered, b"\r\nx-amz-target:")).decode().rpartition(".")[2]
        credential = _header(head, b"Credential=").split(b",")[0].decode().split("/")
        caller, region = (credential[0], credential[2]) if len(credential) > 2 else ("", "")
        status, answer, fault = self._server.answer(action, caller, region, body)
        if fault is not None and not fault.entries and fault.kind in ("lost", "reset"):
            self._transport.abort()
        elif isinstance(answer, Wait):
            self._standing = _Standing(answer, self)
            self._server.wait_for(self._standing)
        elif fault is not None and fault.kind == "slow":
            asyncio.get_running_loop().call_later(fault.seconds, self.reply, status, answer)
        else:
            self.reply(status, answer)

    def reply(self, status: int, answer: Answer) -> None:
        """Write the answer, after the round trip that is imitated."""
        self._standing = None
        if self._server.latency:
            asyncio.get_running_loop().call_later(self._server.latency, self._write, status, answer)
        else:
            self._write(status, answer)

    def _write(self, status: int, answer: Answer) -> None:
        data = _encode(answer)
        extra = ""
        if status != 200:
            code = str(answer["__type"]).rpartition("#")[2]
            extra = f"x-amzn-query-error: {_OLD_NAMES.get(code, code)};{'Sender' if status < 500 else 'Receiver'}\r\n"
        head = (
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\nContent-Type: application/x-amz-json-1.0\r\n"
            f"Date: {formatdate(self._server.clock.time(), usegmt=True)}\r\nx-amzn-RequestId: emulated\r\n{extra}"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        if not self._transport.is_closing():
            self._transport.write(head.encode("latin-1") + data)
        self._busy = False
        self._next()


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _hold_back(request: Answer, fault: Fault | None) -> Sequence[Answer]:
    """Take the entries that are to fail out of a batch."""
    if fault is None or not fault.entries or "Entries" not in request:
        return ()
    entries: list[Answer] = request["Entries"]
    held = [entry for position, entry in enumerate(entries) if position in fault.entries]
    request["Entries"] = [entry for position, entry in enumerate(entries) if position not in fault.entries]
    return held


def _queues_of(body: bytes) -> list[str]:
    """Return the names of the queues that a request is about. SDKs write them before everything that is long."""
    return [re.split("[/:]", name.decode())[-1] for name in _NAMED.findall(body[:1000])]
