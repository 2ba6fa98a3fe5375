"""Requests to `<queue>/$management`: what the SDK asks beside sending, receiving and settling (docs, AMQP request/response)."""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# proton names types that are not all there.
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import proton
from proton import Data

from cloudq_servicebus.emulator import messages
from cloudq_servicebus.emulator.broker import Queue, Stored

if TYPE_CHECKING:
    from cloudq_servicebus.emulator.server import Server

_PREFIX = "com.microsoft:"


class Refusal(Exception):
    """An error with a condition, which is what the SDK goes by, and a status code."""

    def __init__(self, condition: str, description: str, status: int = 400) -> None:
        """The description is for people."""
        super().__init__(description)
        self.condition: str = condition
        self.description: str = description
        self.status: int = status


LOCK_LOST = Refusal(f"{_PREFIX}message-lock-lost", "The lock is not good: it ran out, or the message was settled.", 410)
_SESSION_LOST = Refusal(f"{_PREFIX}session-lock-lost", "The session lock has expired.", 410)
_NOT_FOUND = Refusal(f"{_PREFIX}message-not-found", "There is no such message.", 404)
_NOTHING = Refusal(f"{_PREFIX}no-messages", "There is nothing.", 204)


def handle(server: Server, queue: Queue, request: Any) -> Any:
    """Carry out one request and return the body of the answer. Raises Refusal."""
    asked = str((request.properties or {}).get("operation", ""))
    operation = _OPERATIONS.get(asked.removeprefix(_PREFIX))
    if operation is None:
        raise Refusal("amqp:not-implemented", f"the emulator has no {asked}", 501)
    now = server.clock.time()
    queue.pass_time(now)
    return operation(server, queue, request.body, now)


def _renew(_: Server, queue: Queue, body: Any, now: float) -> Any:
    held = [queue.held(token, now) for token in _elements(body["lock-tokens"])]
    if any(stored is None for stored in held):
        raise LOCK_LOST
    ends = [queue.renew(stored, now) for stored in held if stored is not None]
    return {"expirations": _array(Data.TIMESTAMP, map(messages.milliseconds, ends))}


def _schedule(server: Server, queue: Queue, body: Any, now: float) -> Any:
    numbers: list[int] = []
    for item in body["messages"]:
        raw = bytes(item["message"])
        message = messages.read(raw)
        numbers.append(server.take_in(queue, message, len(raw), now))
    return {"sequence-numbers": _array(Data.LONG, numbers)}


def _cancel(_: Server, queue: Queue, body: Any, _now: float) -> Any:
    if not queue.cancel(_elements(body["sequence-numbers"])):
        raise _NOT_FOUND
    return {}


def _peek(_: Server, queue: Queue, body: Any, _now: float) -> Any:
    found = queue.peek(body["from-sequence-number"], body["message-count"], body.get("session-id"))
    if not found:
        raise _NOTHING
    return {"messages": [{"message": messages.write(stored, locked=False)} for stored in found]}


def _deferred(_: Server, queue: Queue, body: Any, now: float) -> Any:
    lock = int(body["receiver-settle-mode"]) == 1
    found = queue.deferred(_elements(body["sequence-numbers"]), now, None, lock=lock)
    if found is None:
        raise _NOT_FOUND
    return {"messages": [_with_token(stored, lock=lock) for stored in found]}


def _with_token(stored: Stored, *, lock: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"message": messages.write(stored, locked=lock)}
    return {**told, "lock-token": stored.token} if lock else told


def _dispose(_: Server, queue: Queue, body: Any, now: float) -> Any:
    held = [queue.held(token, now) for token in _elements(body["lock-tokens"])]
    if any(stored is None for stored in held):
        raise LOCK_LOST
    for stored in held:
        assert stored is not None
        match body["disposition-status"]:
            case "completed":
                queue.complete(stored)
            case "abandoned":
                queue.abandon(stored, now)
            case "defered":  # as it is spelt on the wire
                queue.defer(stored)
            case "suspended":
                queue.bury(stored, body.get("deadletter-reason") or "", body.get("deadletter-description") or "", now)
            case other:
                raise Refusal(f"{_PREFIX}argument-error", f"disposition-status {other!r}")
    return {}


def _renew_session(_: Server, queue: Queue, body: Any, now: float) -> Any:
    held = queue.sessions.get(body["session-id"])
    if held is None or held.owner is None:
        raise _SESSION_LOST
    return {"expiration": messages.milliseconds(queue.renew_session(body["session-id"], now))}


def _get_state(_: Server, queue: Queue, body: Any, _now: float) -> Any:
    held = queue.sessions.get(body["session-id"])
    if held is None or held.owner is None:
        raise _SESSION_LOST
    return {"session-state": held.state}


def _set_state(_: Server, queue: Queue, body: Any, _now: float) -> Any:
    held = queue.sessions.get(body["session-id"])
    if held is None or held.owner is None:
        raise _SESSION_LOST
    state = body["session-state"]
    held.state = None if state is None else bytes(state)  # proton uses the buffer again
    return {}


def _sessions(_: Server, queue: Queue, body: Any, _now: float) -> Any:
    names = queue.session_ids()[body["skip"] : body["skip"] + body["top"]]
    if not names:
        raise _NOTHING
    return {"skip": body["skip"] + len(names), "sessions-ids": names}


def _array(kind: int, items: Iterable[Any]) -> Any:
    undescribed: Any = proton.UNDESCRIBED
    return proton.Array(undescribed, kind, *items)


def _elements(array: Any) -> list[Any]:
    return list(array.elements) if isinstance(array, proton.Array) else list(array)


_Operation = Callable[["Server", Queue, Any, float], Any]
#: docs, AMQP request/response-based operations.
_OPERATIONS: dict[str, _Operation] = {
    "renew-lock": _renew,
    "schedule-message": _schedule,
    "cancel-scheduled-message": _cancel,
    "peek-message": _peek,
    "receive-by-sequence-number": _deferred,
    "update-disposition": _dispose,
    "renew-session-lock": _renew_session,
    "get-session-state": _get_state,
    "set-session-state": _set_state,
    "get-message-sessions": _sessions,
}
