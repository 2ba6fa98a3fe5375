"""The emulator on a socket: google.pubsub.v1 over gRPC, on one thread and one event loop.

The SDK brings types but no server stubs, so the table of methods stands here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.iam.v1 import iam_policy_pb2  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  has none
from google.pubsub_v1 import types

from cloudq.clock import Clock
from cloudq.emulation import EmulatorServer, Plan
from cloudq_pubsub.emulator.faults import Fault, Requests
from cloudq_pubsub.emulator.push import Pusher, Sign
from cloudq_pubsub.emulator.service import Refusal, Service, raw

_PUBLISHER = {
    "CreateTopic": types.Topic,
    "UpdateTopic": types.UpdateTopicRequest,
    "Publish": types.PublishRequest,
    "GetTopic": types.GetTopicRequest,
    "ListTopics": types.ListTopicsRequest,
    "ListTopicSubscriptions": types.ListTopicSubscriptionsRequest,
    "DeleteTopic": types.DeleteTopicRequest,
}
_SUBSCRIBER = {
    "CreateSubscription": types.Subscription,
    "GetSubscription": types.GetSubscriptionRequest,
    "UpdateSubscription": types.UpdateSubscriptionRequest,
    "ListSubscriptions": types.ListSubscriptionsRequest,
    "DeleteSubscription": types.DeleteSubscriptionRequest,
    "ModifyAckDeadline": types.ModifyAckDeadlineRequest,
    "Acknowledge": types.AcknowledgeRequest,
    "Pull": types.PullRequest,
    "ModifyPushConfig": types.ModifyPushConfigRequest,
    "CreateSnapshot": types.CreateSnapshotRequest,
    "DeleteSnapshot": types.DeleteSnapshotRequest,
    "Seek": types.SeekRequest,
}
_IAM = {"GetIamPolicy": iam_policy_pb2.GetIamPolicyRequest, "SetIamPolicy": iam_policy_pb2.SetIamPolicyRequest}
#: Where the server answers about itself: JSON in, JSON out.
TOOLS = "cloudq.emulator.Tools"
_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a partner
    # docs, quotas: 10 MB a request; gRPC's own default is 4 MiB.
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_send_message_length", 64 << 20),
]
_decode, _encode = msgspec.json.Decoder(dict[str, Any]).decode, msgspec.json.Encoder().encode

_Method = Callable[[Any, Any], Awaitable[Any]]


class Server(EmulatorServer):
    """An emulator that listens: `start()` from anywhere, `serve()` on a loop of your own."""

    def __init__(self, port: int = 0, *, clock: Clock | None = None, latency: float = 0.0, sign: Sign | None = None) -> None:
        """Port 0 takes a free one. `latency` delays every answer by so many seconds; `sign` makes the tokens of pushes."""
        super().__init__(port, clock)
        self.requests: Requests = Requests()
        self.service: Service = Service(self.clock, self.requests)
        self.plan: Plan[Fault] = Plan()
        self.latency: float = latency
        self._pusher = Pusher(self.service, sign)
        self._server: grpc.aio.Server | None = None

    @property
    def endpoint(self) -> str:
        """What PUBSUB_EMULATOR_HOST says."""
        return f"127.0.0.1:{self.port}"

    async def listen(self) -> int:
        """Take connections."""
        server = self._server = grpc.aio.server(options=_OPTIONS)
        tables: tuple[tuple[str, dict[str, Any]], ...] = (
            ("google.pubsub.v1.Publisher", _PUBLISHER),
            ("google.pubsub.v1.Subscriber", _SUBSCRIBER),
            ("google.iam.v1.IAMPolicy", _IAM),
        )
        for service, table in tables:
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    self._unary(name, getattr(self.service, name)),
                    raw(kind).FromString,
                    _serialized,
                )
                for name, kind in table.items()
            }
            if table is _SUBSCRIBER:
                handlers["StreamingPull"] = grpc.stream_stream_rpc_method_handler(
                    self._streaming_pull, raw(types.StreamingPullRequest).FromString, _serialized
                )
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        tools: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._tool(name)) for name in ("state", "clock", "faults", "latency")
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(TOOLS, tools),))
        try:
            port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        except RuntimeError as error:  # gRPC's word for it
            raise OSError(f"port {self.port} is taken") from error
        await server.start()
        self._pusher.start()
        return int(port)

    async def close(self) -> None:
        """Drop every connection."""
        await self._pusher.stop()
        if self._server is not None:
            await self._server.stop(0)

    def look_at_all(self) -> None:
        """Let what is due happen."""
        self.service.look_at_all()

    def counts(self) -> dict[str, dict[str, int]]:
        """Return, by subscription, how many messages are unacknowledged, and outstanding. Callable from any thread."""
        subscriptions = self.service.subscriptions
        return self.ask(lambda: {name: subscription.counts() for name, subscription in subscriptions.items()})

    # Requests ---------------------------------------------------------------------------------------------------------

    def _unary(self, name: str, method: _Method) -> _Method:
        async def answer(request: Any, context: Any) -> Any:
            self._count(name)
            self.requests.by_resource[name, _resource_of(request)] += 1
            fault = self.plan.next(name)
            failed: dict[str, str] = {}
            if fault is not None and fault.ids:
                failed = _hold_back(request, fault)
            elif fault is not None and fault.kind == "slow":
                await asyncio.sleep(fault.seconds)
            try:
                if fault is not None and not failed and fault.kind == "error":
                    raise _planned(fault)
                answer = await method(request, context)
                self._note(name, answer)
                _fail_after(fault, failed)
            except Refusal as refusal:
                await self._latency()
                return await context.abort(refusal.code, refusal.message, refusal.trailer())
            await self._latency()
            return answer

        return answer

    async def _streaming_pull(self, requests: Any, context: Any) -> None:
        self._count("StreamingPull")

        def ended() -> Refusal | None:
            fault = self.plan.next("StreamingPull")
            return _planned(fault) if fault is not None else None

        async def send(response: Any) -> None:
            await self._latency()
            if response.received_messages:
                self._note("Pull", response)
            await context.write(response)

        try:
            await self.service.stream(requests, send, ended)
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.message)

    def _count(self, name: str) -> None:
        self.asked()
        self.requests.by_method[name] += 1

    def _note(self, name: str, answer: Any) -> None:
        if name == "Pull" and answer.received_messages and self.requests.first_delivery is None:
            self.requests.first_delivery = time.monotonic()  # noqa: TID251  how long a client took is real, whatever the clock says
        elif name == "Acknowledge":
            self.requests.last_ack = time.monotonic()  # noqa: TID251  as above

    async def _latency(self) -> None:
        if self.latency:
            await asyncio.sleep(self.latency)

    def _tool(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(body: bytes, _: Any) -> bytes:
            asked = _decode(body or b"{}")
            if name == "clock":
                self.advance(float(asked["advance"]))
            elif name == "faults":
                faults = [msgspec.convert(fault, Fault) for fault in asked["faults"]]
                self.plan = Plan(faults, asked.get("seed", 0))
            elif name == "latency":
                self.latency = float(asked["seconds"])
            state = {
                "what": "cloudq Pub/Sub emulator",
                "pid": os.getpid(),
                "subscriptions": self.counts(),
                "requests": self.requests.as_json(),
                "faults": dict(self.plan.happened),
            }
            if asked.get("reset"):
                self.requests = self.service.requests = Requests()
            return _encode(state)

        return answer


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _planned(fault: Fault) -> Refusal:
    return Refusal(grpc.StatusCode[fault.code], "a planned fault", dict(fault.info))


def _fail_after(fault: Fault | None, failed: dict[str, str]) -> None:
    if failed:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "a planned fault", failed)
    if fault is not None and fault.kind == "lost":
        raise _planned(fault)


def _hold_back(request: Any, fault: Fault) -> dict[str, str]:
    """Take the ids that are to fail out of a request."""
    ids = list(request.ack_ids)
    del request.ack_ids[:]
    request.ack_ids.extend(ack_id for position, ack_id in enumerate(ids) if position not in fault.ids)
    return {ack_id: fault.reason for position, ack_id in enumerate(ids) if position in fault.ids}


def _resource_of(request: Any) -> str:
    """Return the name of the topic or subscription that a request is about: kind and last part."""
    for name in ("subscription", "topic", "resource", "name"):
        found = getattr(request, name, "")
        named = found if isinstance(found, str) else getattr(found, "name", "")
        if named:
            return "/".join(named.split("/")[-2:])
    return ""
