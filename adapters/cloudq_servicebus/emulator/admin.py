"""The administration of queues over HTTP, as azure-servicebus 7.15 asks for it: Atom entries that hold a QueueDescription.

Source: SDK `management/_generated` (operations and models); docs, "Service Bus management REST API". PUT, GET and DELETE of a
queue (a PUT with If-Match changes it), and the list of all; the counts of the runtime come with a GET.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

from cloudq_servicebus.emulator.broker import LOCK, LONGEST_LOCK, WINDOWS, Queue, Settings
from cloudq_servicebus.emulator.faults import Requests

if TYPE_CHECKING:
    from cloudq_servicebus.emulator.server import Server

_ATOM = "http://www.w3.org/2005/Atom"
_CONNECT = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
_NOW = "2024-05-01T00:00:00Z"
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
#: What the service calls for ever (docs, message expiration: TimeSpan.MaxValue).
_EVER = "P10675199DT2H48M5.4775807S"


#: What is given back as it was set, and has no effect.
_KEPT = ("AutoDeleteOnIdle", "ForwardTo", "ForwardDeadLetteredMessagesTo", "Status")


class Admin(asyncio.Protocol):
    """One connection. Requests on it are answered in their order, one at a time."""

    def __init__(self, server: Server) -> None:
        """Belongs to the server's loop."""
        self._server = server
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it open, as HTTP 1.1 does."""
        self._socket = cast("asyncio.Transport", transport)
        self._server.admins.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the signature is asyncio's
        """Forget it."""
        self._server.admins.discard(self)

    def cut(self) -> None:
        """Drop the connection."""
        self._socket.abort()

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).decode("latin-1")
            found = re.search(r"(?im)^content-length:\s*(\d+)", head)
            length = int(found[1]) if found else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            method, target, _ = head.split("\r\n", 1)[0].split(" ", 2)
            changes = re.search(r"(?im)^if-match:", head) is not None
            status, answer = self._answer(method, unquote(urlsplit(target).path).strip("/"), body, changes=changes)
            self._server.asked()
            self._socket.write(
                f"HTTP/1.1 {status} -\r\nContent-Type: application/atom+xml\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
                + answer
            )

    def _answer(self, method: str, path: str, body: bytes, *, changes: bool) -> tuple[int, bytes]:
        if path == "$emulator":
            return 200, json.dumps(self._tools(json.loads(body or b"{}"))).encode()
        if path.lower() == "$resources/queues":
            entries = "".join(_entry(queue) for queue in self._server.queues.values())
            return 200, f'<feed xmlns="{_ATOM}"><title type="text">Queues</title>{entries}</feed>'.encode()
        self._server.requests.by_claim["Manage", path] += 1
        queue = self._server.queues.get(path.lower())
        if method == "PUT":
            if queue is not None and not changes:
                return 409, _error(409, f"SubCode=40900. Conflict: the entity {path} exists.")
            try:
                settings = _settings(path, body)
                if queue is not None:
                    queue.change(settings)
            except ValueError as error:
                return 400, _error(400, str(error))
            return 200 if queue is not None else 201, _entry(queue or self._server.create(settings)).encode()
        if queue is None:
            # As the service has it: a GET of nothing is an empty feed, which the SDK takes for "not found".
            return (200, f'<feed xmlns="{_ATOM}"></feed>'.encode()) if method == "GET" else (404, _error(404, f"no {path}"))
        if method == "DELETE":
            del self._server.queues[path.lower()]
            return 200, b""
        return 200, _entry(queue).encode()

    def _tools(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the service has not: set the latency, move the clock, forget the figures; then tell them, and the pid."""
        server = self._server
        server.latency = float(asked.get("latency", server.latency))
        if asked.get("reset"):
            server.requests = Requests()
        if asked.get("advance"):
            server.advance(float(asked["advance"]))
        counts = {queue.settings.name: queue.counts() for queue in server.queues.values()}
        return {"pid": os.getpid(), "requests": server.requests.as_json(), "queues": counts}


def _settings(name: str, body: bytes) -> Settings:
    """Read a QueueDescription. ValueError: a setting is out of its range."""
    found = {
        element.tag.rpartition("}")[2]: (element.text or "").strip()
        for element in ET.fromstring(body).iter()  # noqa: S314  from a test on this machine
        if element.tag.startswith(f"{{{_CONNECT}}}")
    }

    def seconds(field: str, unset: float) -> float:
        return _seconds(found[field]) if found.get(field) else unset

    settings = Settings(
        name,
        lock=seconds("LockDuration", LOCK),
        most_deliveries=int(found.get("MaxDeliveryCount") or 10),
        sessions=found.get("RequiresSession") == "true",
        dedup=found.get("RequiresDuplicateDetection") == "true",
        window=seconds("DuplicateDetectionHistoryTimeWindow", 600.0),
        ttl=seconds("DefaultMessageTimeToLive", float("inf")),
        dead_letter_expired=found.get("DeadLetteringOnMessageExpiration") == "true",
        kept={name: found[name] for name in _KEPT if found.get(name)},
    )
    if not 0 < settings.lock <= LONGEST_LOCK:
        raise ValueError(f"LockDuration is {settings.lock:g} s; at most {LONGEST_LOCK:g} s are allowed.")
    if not WINDOWS[0] <= settings.window <= WINDOWS[1]:
        raise ValueError(f"DuplicateDetectionHistoryTimeWindow is {settings.window:g} s; it is 20 s to 7 d.")
    if settings.most_deliveries < 1:
        raise ValueError("MaxDeliveryCount is at least 1.")
    return settings


def _entry(queue: Queue) -> str:
    settings, counts = queue.settings, queue.counts()
    total = counts["active"] + counts["scheduled"] + counts["deferred"] + counts["dead"]
    fields = {
        "LockDuration": _duration(settings.lock),
        "MaxSizeInMegabytes": "1024",
        "RequiresDuplicateDetection": str(settings.dedup).lower(),
        "RequiresSession": str(settings.sessions).lower(),
        "DefaultMessageTimeToLive": _duration(settings.ttl),
        "DeadLetteringOnMessageExpiration": str(settings.dead_letter_expired).lower(),
        "DuplicateDetectionHistoryTimeWindow": _duration(settings.window),
        "MaxDeliveryCount": str(settings.most_deliveries),
        "EnableBatchedOperations": "true",
        "SizeInBytes": str(sum(stored.size for stored in queue.messages.values())),
        "MessageCount": str(total),
        "Status": "Active",
        **settings.kept,
        "CreatedAt": _NOW,
        "UpdatedAt": _NOW,
        "AccessedAt": _NOW,
    }
    described = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    data = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
    details = (
        f'<CountDetails xmlns:d="{data}"><d:ActiveMessageCount>{counts["active"]}</d:ActiveMessageCount>'
        f"<d:DeadLetterMessageCount>{counts['dead']}</d:DeadLetterMessageCount>"
        f"<d:ScheduledMessageCount>{counts['scheduled']}</d:ScheduledMessageCount>"
        f"<d:TransferMessageCount>0</d:TransferMessageCount>"
        f"<d:TransferDeadLetterMessageCount>0</d:TransferDeadLetterMessageCount></CountDetails>"
    )
    return (
        f'<entry xmlns="{_ATOM}"><title type="text">{settings.name}</title><content type="application/xml">'
        f'<QueueDescription xmlns="{_CONNECT}">{described}{details}</QueueDescription></content></entry>'
    )


def _error(code: int, detail: str) -> bytes:
    return f"<Error><Code>{code}</Code><Detail>{detail}</Detail></Error>".encode()


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no ISO 8601 duration")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return float("inf") if days > 10_000_000 else total


def _duration(seconds: float) -> str:
    return _EVER if seconds == float("inf") else f"PT{seconds:g}S"
