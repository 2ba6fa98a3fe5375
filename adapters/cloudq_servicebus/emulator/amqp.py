"""AMQP 1.0 connections: proton reads and writes the frames, asyncio the sockets.

What a link must say for azure-servicebus 7.15 stands in its `_pyamqp` and `_transport/_pyamqp_transport.py`.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# proton names types that are not all there.
import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any, cast

import proton
from proton import Collector, Condition, Delivery, Described, Event, Link, Message, Terminus, int32, symbol

from cloudq_servicebus.emulator import messages
from cloudq_servicebus.emulator.broker import Queue, SessionTaken, Stored
from cloudq_servicebus.emulator.faults import Fault
from cloudq_servicebus.emulator.management import LOCK_LOST, Refusal, handle

if TYPE_CHECKING:
    from cloudq_servicebus.emulator.server import Server

_PREFIX = "com.microsoft:"
_CBS, _MANAGEMENT = "$cbs", "/$management"
#: SDK `_common/constants.py`: waits so long for a session when it does not say how long.
_SESSION_WAIT = 65.0
#: SDK `_pyamqp/sender.py` does not wait for credit, so there is always some.
_CREDIT, _LOW = 1000, 200
#: .NET ticks from the year 1 to 1970.
_TICKS = 621_355_968_000_000_000
#: Largest message that is taken, on every link: the SDK takes 256 KB for what a batch may hold when it is less than a MiB.
_LARGEST = 262_144


class Receiver:
    """A receiving link of a client."""

    def __init__(self, connection: Connection, link: Any, queue: Queue, *, peek_lock: bool) -> None:
        """`peek_lock` is told by the receiver-settle-mode (second; first is receive-and-delete)."""
        self.connection: Connection = connection
        self.link: Any = link
        self.queue: Queue = queue
        self.peek_lock: bool = peek_lock
        self.session: str | None = None


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: Server) -> None:
        """Belongs to the server's loop."""
        self._server = server
        self._engine = proton.Transport(proton.Transport.SERVER)
        self._connection = proton.Connection()
        self._collector = Collector()
        self._tags = itertools.count()
        #: Where answers go: (node, address that the client gave) to its link.
        self._answers: dict[tuple[str, str], Any] = {}
        self._receivers: set[Receiver] = set()
        self._closed = False

    # The socket -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with SASL ANONYMOUS, as the SDK does over plain TCP."""
        self._socket = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._server.requests.connections += 1
        self._connection.collect(self._collector)
        self._engine.sasl().allowed_mechs("ANONYMOUS")
        self._engine.bind(self._connection)

    def data_received(self, data: bytes) -> None:
        """Feed the engine, a frame's worth at a time."""
        while data and not self._closed:
            room = self._engine.capacity()
            if room <= 0:
                break
            self._engine.push(data[:room])
            data = data[room:]
            self.work()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the signature is asyncio's
        """Locks stay until they end; sessions and waits end now."""
        self._closed = True
        self._server.connections.discard(self)
        for receiver in list(self._receivers):
            self._leave(receiver)

    def cut(self) -> None:
        """Drop the connection without a word."""
        self._closed = True
        self._socket.abort()

    def work(self) -> None:
        """Handle what the engine has found, and write what it has to say."""
        while not self._closed and (event := self._collector.peek()) is not None:
            self._handle(event)
            self._collector.pop()
        if not self._closed:
            self._write()

    def _write(self) -> None:
        while (pending := self._engine.pending()) > 0:
            self._socket.write(self._engine.peek(pending) or b"")
            self._engine.pop(pending)
        if pending < 0:
            self._socket.close()

    def _handle(self, event: Any) -> None:
        kind = event.type
        if kind == Event.CONNECTION_REMOTE_OPEN:
            self._connection.container = "cloudq Service Bus emulator"
            self._connection.open()
        elif kind == Event.SESSION_REMOTE_OPEN:
            event.session.open()
        elif kind == Event.LINK_REMOTE_OPEN:
            self._attach(event.link)
        elif kind == Event.LINK_FLOW and event.link.is_sender:
            self._flow(event.link)
        elif kind == Event.DELIVERY:
            self._delivery(event.delivery)
        elif kind in (Event.LINK_REMOTE_CLOSE, Event.LINK_REMOTE_DETACH):
            self._link_closed(event.link)
        elif kind == Event.SESSION_REMOTE_CLOSE:
            event.session.close()
        elif kind == Event.CONNECTION_REMOTE_CLOSE:
            self._connection.close()

    # Links ------------------------------------------------------------------------------------------------------------

    def _attach(self, link: Any) -> None:
        address = (link.remote_source.address if link.is_sender else link.remote_target.address) or ""
        node = address.partition("://")[2].partition("/")[2] if "://" in address else address
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode, link.rcv_settle_mode = link.remote_snd_settle_mode, link.remote_rcv_settle_mode
        link.node = node
        link.receiver = link.queue = None
        if node == _CBS or node.lower().endswith(_MANAGEMENT):
            if link.is_sender:
                self._answers[(node, link.remote_target.address or "")] = link
            link.open()
            if link.is_receiver:
                link.flow(_CREDIT)
            return
        fault = self._server.ask_for("attach")
        # Where the client listens, the link sends here.
        self._server.requests.by_claim["Listen" if link.is_sender else "Send", node.partition("/$")[0]] += 1
        if fault is not None and fault.kind in ("drop", "lost"):
            self.cut()
            return
        queue = self._server.find(node)
        if queue is None:
            self._refuse(link, "amqp:not-found", f"The messaging entity '{node}' could not be found.")
        elif fault is not None:
            self._refuse(link, fault.condition, "a planned fault")
        elif link.is_receiver:
            link.queue = queue
            link.max_message_size = _LARGEST
            link.open()
            link.flow(_CREDIT)
        else:
            self._attach_receiver(link, queue)

    def _attach_receiver(self, link: Any, queue: Queue) -> None:
        receiver = Receiver(self, link, queue, peek_lock=link.remote_rcv_settle_mode == Link.RCV_SECOND)
        wanted = _session_filter(link.remote_source)
        link.queue, link.receiver = queue, receiver
        self._receivers.add(receiver)
        if not queue.sessions_only:
            if wanted is not _NO_FILTER:
                self._refuse(link, "amqp:not-allowed", "The entity has no sessions.")
                return
            self._opened(receiver)
        elif wanted is _NO_FILTER:
            self._refuse(
                link,
                "amqp:not-allowed",
                "The entity has sessions: a receiver has to ask for one.",
            )
        else:
            told = (link.remote_properties or {}).get(symbol(f"{_PREFIX}timeout"))
            patience = _SESSION_WAIT if told is None else int(told) / 1000
            self._accept(receiver, cast("str | None", wanted), asyncio.get_running_loop().time() + patience)

    def _accept(self, receiver: Receiver, wanted: str | None, until: float) -> None:
        """Hold the attach back until there is a session (SDK: waits for it)."""
        if self._closed or receiver not in self._receivers:
            return
        try:
            session = receiver.queue.accept(wanted, receiver, self._server.clock.time())
        except SessionTaken:
            self._refuse(receiver.link, f"{_PREFIX}session-cannot-be-locked", f"The session {wanted!r} is locked.")
            return
        if session is None:
            if asyncio.get_running_loop().time() >= until:
                self._refuse(receiver.link, f"{_PREFIX}timeout", "There was no session to accept in time.")
                return
            asyncio.get_running_loop().call_later(0.02, self._accept_later, receiver, wanted, until)
            return
        receiver.session = session
        filters = receiver.link.source.filter
        filters.clear()
        filters.put_dict({symbol(f"{_PREFIX}session-filter"): session})
        ends = receiver.queue.sessions[session].locked_until
        receiver.link.properties = {symbol(f"{_PREFIX}locked-until-utc"): int(ends * 10_000_000) + _TICKS}
        self._opened(receiver)

    def _accept_later(self, receiver: Receiver, wanted: str | None, until: float) -> None:
        self._accept(receiver, wanted, until)
        self.work()

    def _opened(self, receiver: Receiver) -> None:
        receiver.link.open()
        self._server.receivers[receiver.queue].append(receiver)
        self._server.pump(receiver.queue)

    def _refuse(self, link: Any, condition: str, description: str) -> None:
        """Attach, then detach with an error: the SDK raises what it maps the condition to."""
        if link.receiver is not None:
            self._leave(link.receiver)
        link.open()
        link.condition = Condition(condition, description, {symbol("emulator"): "cloudq"})
        link.close()

    def _link_closed(self, link: Any) -> None:
        if getattr(link, "receiver", None) is not None:
            self._leave(link.receiver)
        link.close()

    def _leave(self, receiver: Receiver) -> None:
        self._receivers.discard(receiver)
        standing = self._server.receivers[receiver.queue]
        if receiver in standing:
            standing.remove(receiver)
        if receiver.session is not None:
            receiver.queue.leave(receiver.session, receiver)
        self._server.pump(receiver.queue)

    # Delivering -------------------------------------------------------------------------------------------------------

    def _flow(self, link: Any) -> None:
        if getattr(link, "receiver", None) is not None:
            self._server.pump(link.receiver.queue)
            if link.drain_mode:
                link.drained()

    def deliver(self, receiver: Receiver, stored: Stored) -> None:
        """Send one message on a link that has credit."""
        tag = stored.token.bytes_le if stored.token is not None else str(next(self._tags)).encode()
        delivery = receiver.link.delivery(tag)
        delivery.stored, delivery.token = stored, stored.token
        receiver.link.send(messages.write(stored, locked=receiver.peek_lock))
        receiver.link.advance()
        if not receiver.peek_lock:
            delivery.settle()

    def _delivery(self, delivery: Any) -> None:
        link = delivery.link
        if link.is_receiver:
            if delivery.readable and not delivery.partial:
                raw = link.recv(delivery.pending)
                link.advance()
                self._incoming(link, delivery, raw)
                if link.credit < _LOW:
                    link.flow(_CREDIT - link.credit)
        elif delivery.updated and getattr(delivery, "token", None) is not None:
            self._settle(link, delivery)

    # Incoming ---------------------------------------------------------------------------------------------------------

    def _incoming(self, link: Any, delivery: Any, raw: bytes) -> None:
        if link.node == _CBS or link.node.lower().endswith(_MANAGEMENT):
            delivery.update(Delivery.ACCEPTED)
            delivery.settle()
            self._asked(link, messages.read(raw))
            return
        if link.queue is None:  # what was sent before the refusal of the link had arrived
            return
        fault = self._server.ask_for("send")
        if fault is not None and fault.kind == "drop":
            self.cut()
            return
        if fault is not None and fault.kind in ("error", "detach"):
            self._reject(delivery, fault.condition, "a planned fault")
            if fault.kind == "detach":
                self._refuse_open(link, fault)
            return
        if len(raw) > _LARGEST:
            self._reject(
                delivery, "amqp:link:message-size-exceeded", f"The message has {len(raw)} bytes, {_LARGEST} are taken."
            )
            return
        now = self._server.clock.time()
        for part in messages.parts(raw):
            self._server.take_in(link.queue, messages.read(part), len(part), now)
        if fault is not None and fault.kind == "lost":
            self.cut()
        elif fault is None or fault.kind != "silent":
            self._later(fault, lambda: self._accepted(delivery))
        self._server.pump(link.queue)

    @staticmethod
    def _accepted(delivery: Any) -> None:
        delivery.update(Delivery.ACCEPTED)
        delivery.settle()

    @staticmethod
    def _reject(delivery: Any, condition: str, description: str) -> None:
        # SDK: all three fields, the last not empty, or its callback fails and the send never ends.
        delivery.local.condition = Condition(condition, description, {symbol("emulator"): "cloudq"})
        delivery.update(Delivery.REJECTED)
        delivery.settle()

    def _refuse_open(self, link: Any, fault: Fault) -> None:
        if link.receiver is not None:
            self._leave(link.receiver)
        link.condition = Condition(fault.condition, "a planned fault", {symbol("emulator"): "cloudq"})
        link.close()

    def _later(self, fault: Fault | None, answer: Any) -> None:
        wait = self._server.latency + (fault.seconds if fault is not None and fault.kind == "slow" else 0.0)
        if wait <= 0:
            answer()
            return

        def late() -> None:
            if not self._closed:
                answer()
                self.work()

        asyncio.get_running_loop().call_later(wait, late)

    # Settling ---------------------------------------------------------------------------------------------------------

    def _settle(self, link: Any, delivery: Any) -> None:
        server, queue, now = self._server, link.receiver.queue, self._server.clock.time()
        outcome = delivery.remote_state
        if outcome == Delivery.RELEASED:
            stored = queue.held(delivery.token, now)
            if stored is not None:
                queue.release(stored)
            delivery.token = None
            delivery.update(outcome)
            delivery.settle()
            server.pump(queue)
            return
        action = _action(delivery)
        if action is None:
            return
        fault = server.ask_for(action)
        if fault is not None and fault.kind == "drop":
            self.cut()
            return
        if fault is not None and fault.kind == "detach":
            self._refuse_open(link, fault)
            return
        stored = queue.held(delivery.token, now)
        delivery.token = None
        if stored is None or (fault is not None and fault.kind == "error"):
            condition = LOCK_LOST.condition if stored is None or fault is None else fault.condition
            delivery.local.condition = Condition(condition, LOCK_LOST.description)
            answer = Delivery.REJECTED
        else:
            self._carry_out(queue, stored, action, delivery, now)
            answer = outcome
            if action == "complete":
                server.requests.last_complete = time.monotonic()  # noqa: TID251  how long a client took is real, whatever the clock says
        if fault is not None and fault.kind == "lost":
            self.cut()
        elif fault is None or fault.kind != "silent":
            self._later(fault, lambda: self._answer(delivery, answer))
        server.pump(queue)

    def _answer(self, delivery: Any, outcome: Any) -> None:
        delivery.update(outcome)
        delivery.settle()
        # Each in a frame of its own, where proton would gather those of neighbours: chosen, because the SDK does not call its
        # dispositions batchable (AMQP 1.0, part 2.7.6).
        self._write()

    @staticmethod
    def _carry_out(queue: Queue, stored: Stored, action: str, delivery: Any, now: float) -> None:
        match action:
            case "complete":
                queue.complete(stored)
            case "abandon":
                queue.abandon(stored, now)
            case "defer":
                queue.defer(stored)
            case _:
                condition = delivery.remote.condition
                told = {str(name): text for name, text in ((condition.info or {}) if condition else {}).items()}
                queue.bury(stored, told.get("DeadLetterReason") or "", told.get("DeadLetterErrorDescription") or "", now)

    # Requests and answers ---------------------------------------------------------------------------------------------

    def _asked(self, link: Any, request: Any) -> None:
        if link.node == _CBS:
            fault = self._server.ask_for("put-token")
            status = 401 if fault is not None and fault.kind == "error" else 200
            said = "OK" if status == 200 else "The token was not accepted."
            self._reply(link.node, request, {"status-code": int32(status), "status-description": said}, None)
            return
        operation = str((request.properties or {}).get("operation", "")).removeprefix(_PREFIX)
        fault = self._server.ask_for(operation)
        if fault is not None and fault.kind == "drop":
            self.cut()
            return
        queue = self._server.find(link.node[: -len(_MANAGEMENT)])
        told: dict[str, Any] = {"statusCode": int32(200), "statusDescription": "OK"}
        body: Any = {}
        try:
            body = _carried_out(self._server, queue, request, fault)
        except Refusal as refusal:
            told = {
                "statusCode": int32(refusal.status),
                "statusDescription": refusal.description,
                "errorCondition": symbol(refusal.condition),
            }
        if fault is not None and fault.kind == "lost":
            self.cut()
        elif fault is None or fault.kind != "silent":
            self._later(fault, lambda: self._reply(link.node, request, told, body))
        if queue is not None:
            self._server.pump(queue)

    def _reply(self, node: str, request: Any, told: dict[str, Any], body: Any) -> None:
        link = self._answers.get((node, request.reply_to or "")) or next(
            link for (of, _), link in self._answers.items() if of == node
        )
        answer = Message(body=body, properties=told, correlation_id=request.id, inferred=False)
        delivery = link.delivery(str(next(self._tags)).encode())
        link.send(answer.encode())
        link.advance()
        delivery.settle()


def _carried_out(server: Server, queue: Queue | None, request: Any, fault: Fault | None) -> Any:
    if fault is not None and fault.kind == "error":
        raise Refusal(fault.condition, "a planned fault", 503)
    if queue is None:
        raise Refusal("amqp:not-found", "The messaging entity could not be found.", 404)
    return handle(server, queue, request)


_NO_FILTER = object()


def _session_filter(source: Terminus) -> object:
    """Return the session that a receiver wants, None for any, or that it does not speak of sessions."""
    filters: Any = source.filter
    filters.rewind()
    found: dict[Any, Any] = filters.get_object() if filters.next() else {}
    for name, value in (found or {}).items():
        if str(name) == f"{_PREFIX}session-filter":
            return value.value if isinstance(value, Described) else value
    return _NO_FILTER


def _action(delivery: Any) -> str | None:
    """What a disposition asks for (SDK `settle_message_via_receiver_link`)."""
    match delivery.remote_state:
        case Delivery.ACCEPTED:
            return "complete"
        case Delivery.REJECTED:
            return "dead-letter"
        case Delivery.MODIFIED:
            return "defer" if delivery.remote.undeliverable else "abandon"
        case _:
            return None
