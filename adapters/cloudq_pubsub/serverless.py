"""Google Cloud: the tasks of an application behind a push subscription, as an ASGI app or a function, and behind Eventarc.

    # main.py
    from cloudq_pubsub import push_app
    from shop.tasks import app

    asgi = push_app(app, audience="https://shop-tasks.run.app/", service_account="push@my-project.iam.gserviceaccount.com")

What Pub/Sub does (docs, push subscriptions): it sends one message in each request, signed as the subscription's service
account, and takes 102, 200, 201, 202 and 204 as an acknowledgement; anything else, and no answer within the acknowledgement
deadline, is a nack, after which it waits as the subscription's retry policy says.

What is answered here:

    204   remove it: it succeeded, or was given up and its copy in the dead part is confirmed
    500   deliver it again: it failed, and its task has attempts left
    503   deliver it again: it was not run, because the service drains or no key could be had to check the token
    401   it is not from the subscription; nothing was run
    400, 404, 405, 413   it is no push of Pub/Sub, of another subscription, no POST, too large; nothing was run

What a push cannot do: wait for as long as the task says (the subscription's retry policy is what counts, between 15 s and
10 min as the Terraform module makes it), and serve the delay part. So an enqueue with a delay is refused for such a queue.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from cloudq.driver import Delivery, Limits, Part, Queue
from cloudq.errors import ConfigError
from cloudq.functions import Functions, Platform
from cloudq_pubsub.attributes import from_attributes
from cloudq_pubsub.options import read
from cloudq_pubsub.tokens import GOOGLE_KEYS, Forged, Keys, KeysUnreachable, Tokens

if TYPE_CHECKING:
    from cloudq import CloudQ

_log = logging.getLogger("cloudq.pubsub")

#: A message of 10 MB, in base64, with its attributes (docs, quotas).
_LARGEST = 16_000_000
#: Of a queue's lease, kept for the answer, in seconds.
_KEPT = 1.0
#: docs, payload unwrapping: what a subscription that writes its metadata sends beside the data.
_METADATA = "x-goog-pubsub-"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class HttpRequest(Protocol):
    """What is needed of a request of Flask, which functions-framework passes."""

    @property
    def method(self) -> str:
        """GET, POST, ..."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case."""
        ...

    def get_data(self) -> bytes:
        """Return the body."""
        ...


class CloudEvent(Protocol):
    """What is needed of an event of the cloudevents package, which functions-framework passes."""

    def __getitem__(self, name: str) -> Any:
        """Return an attribute, e.g. `source`."""
        ...

    @property
    def data(self) -> Any:
        """The payload: a MessagePublishedData, as JSON."""
        ...


def push_app(
    app: CloudQ,
    *,
    audience: str,
    service_account: str,
    queues: Sequence[str] = (),
    concurrency: int | None = None,
    keys_url: str = GOOGLE_KEYS,
) -> Asgi:
    """Return an ASGI app that push subscriptions send to, at any path; the queue is told by the subscription.

    `audience` and `service_account` are those of the subscription's OIDC token (`terraform output push`): a request with any
    other is answered 401 and runs nothing. `queues`: by default those with `[queues.<name>.serverless]`, and where none has it,
    every one of the application on Pub/Sub. `concurrency` is how many run at once in this process, by default as in a worker;
    more requests than that wait, so let the platform send no more.
    `keys_url` is for a stand-in of Google's keys. A shutdown of the server (lifespan) drains.

    ConfigError: an audience or account that is empty, a queue that lives elsewhere, or a setting that a push cannot keep.
    """
    push = _Push(app, audience, service_account, queues, concurrency, keys_url)

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await push.live(receive, send)
        elif scope["type"] == "http":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            # Checking a signature takes a moment, and fetching keys seconds: not on the server's loop. And a body is read only
            # of whom it is asked.
            status = await asyncio.to_thread(push.refusal, str(scope["method"]), headers)
            if not status:
                try:
                    body = await _body(receive)
                except _Gone:
                    return  # half of a message must not be taken for one that cannot be read; Pub/Sub sends it again
                status = await push.aanswer(headers, body)
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    return asgi


def push_function(
    app: CloudQ,
    *,
    audience: str,
    service_account: str,
    queues: Sequence[str] = (),
    concurrency: int | None = None,
    keys_url: str = GOOGLE_KEYS,
) -> Callable[[HttpRequest], tuple[str, int]]:
    """Return an HTTP function for functions-framework that push subscriptions send to. All else is as in `push_app`."""
    push = _Push(app, audience, service_account, queues, concurrency, keys_url)

    def function(request: HttpRequest) -> tuple[str, int]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        refusal = push.refusal(request.method, headers)
        length = headers.get("content-length", "")
        body = request.get_data() if not refusal and length.isdecimal() and int(length) <= _LARGEST else None
        return "", refusal or push.answer(headers, body)

    return function


def event_function(app: CloudQ, *, queues: Sequence[str] = (), concurrency: int | None = None) -> Callable[[CloudEvent], None]:
    """Return a CloudEvent function for functions-framework that an Eventarc trigger calls for messages of a queue's topic.

    What an event does not carry, such a function cannot do. There is no count of deliveries: every run is attempt 1, and a task
    that fails is given up by the age that its policy allows (`max_age`), or by what the trigger's own subscription says. That
    subscription is Eventarc's: its retry policy, its deadline and its dead-letter topic, if it has one, are not those that
    Terraform made. Who may call is checked by the platform (roles/run.invoker), not here. A push subscription counts, and is
    the one that Terraform made: see `push_app`.

    The function raises (AgainError) to have a message delivered again.
    """
    platform = _PubSub()
    functions = Functions(app, platform, queues, concurrency)

    def function(event: CloudEvent) -> None:
        topic = str(event["source"]).rpartition("/")[2]
        queue = functions.queue(topic)
        delivery = _wrapped(queue, cast("Mapping[str, Any]", event.data))
        if not functions.hand_over(queue, [delivery], _patience(queue))[0]:
            raise AgainError(f"{queue.physical}: the message {delivery.message_id} is to be delivered again")

    return function


class AgainError(Exception):
    """The message is to be delivered again: the platform is told so by an error."""


class _PubSub(Platform):
    scheme = "pubsub"

    def name(self, place: str, options: Mapping[str, str], queue: Queue) -> str:
        found = read(place, options)
        if found.exactly_once:
            raise ConfigError("pubsub://: exactly_once=true is for subscriptions that are pulled. Remove it for a push.")
        return found.name(queue)

    def limits(self, of: Limits) -> Limits:
        # How long a nack waits is the subscription's to say, whatever is asked for; and nobody serves the delay part.
        return replace(of, release_delay=math.inf, ordered_release_delay=math.inf, parked=0)


class _Push:
    """Requests in, statuses out."""

    def __init__(
        self,
        app: CloudQ,
        audience: str,
        service_account: str,
        queues: Sequence[str],
        concurrency: int | None,
        keys_url: str,
    ) -> None:
        if not audience or "@" not in service_account:
            raise ConfigError(
                f"audience={audience!r}, service_account={service_account!r}: a push app needs those of its subscription's "
                f"OIDC token, the account as an e-mail address, or it would run what anybody sends: `terraform output push`."
            )
        self._functions = Functions(app, _PubSub(), queues, concurrency)
        self._tokens = Tokens(Keys(keys_url, app.clock), audience, service_account)
        self._draining = False

    async def aanswer(self, headers: Mapping[str, str], body: bytes | None) -> int:
        # A message may have ten megabytes.
        opened = await asyncio.to_thread(self._open, headers, body)
        if isinstance(opened, int):
            return opened
        queue, delivery = opened
        return self._status((await self._functions.ahand_over(queue, [delivery], _patience(queue)))[0])

    def answer(self, headers: Mapping[str, str], body: bytes | None) -> int:
        opened = self._open(headers, body)
        if isinstance(opened, int):
            return opened
        queue, delivery = opened
        return self._status(self._functions.hand_over(queue, [delivery], _patience(queue))[0])

    async def live(self, receive: Receive, send: Send) -> None:
        """Be started and shut down with the server."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self._draining = True
                await self._functions.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _status(self, removed: bool) -> int:  # noqa: FBT001  its only argument
        if removed:
            return 204
        return 503 if self._draining else 500

    def refusal(self, method: str, headers: Mapping[str, str]) -> int:
        """Return the status of a request that is not even read, 0 for none."""
        try:
            self._tokens.check(headers.get("authorization"))
        except Forged as error:
            _log.warning("a request was refused, and nothing was run: %s", error)
            return 401
        except KeysUnreachable as error:
            _log.error("a request could not be checked, and nothing was run: %s", error)
            return 503
        if self._draining:
            return 503
        return 0 if method == "POST" else 405

    def _open(self, headers: Mapping[str, str], body: bytes | None) -> int | tuple[Queue, Delivery]:
        """Return what is to be run, or the status of what is not."""
        if body is None:
            _log.error("a request of more than %d bytes was refused: Pub/Sub sends none", _LARGEST)
            return 413
        try:
            return self._read(headers, body)
        except ConfigError as error:
            _log.error("a push was refused, and nothing was run: %s", error)
            return 404
        except ValueError as error:
            _log.error("a request is no push of Pub/Sub, and nothing was run: %s", error)
            return 400

    def _read(self, headers: Mapping[str, str], body: bytes) -> tuple[Queue, Delivery]:
        name = headers.get(f"{_METADATA}subscription-name")
        if name is not None:
            queue = self._queue(name)
            return queue, _unwrapped(queue, headers, body)
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        if not isinstance(told, dict) or "subscription" not in told or "message" not in told:
            raise ValueError(
                "its body is not JSON with message and subscription. A subscription with payload unwrapping must write its "
                "metadata (push_config.no_wrapper.write_metadata), so that the queue is known."
            )
        wrapped = cast("Mapping[str, Any]", told)
        queue = self._queue(str(wrapped["subscription"]))
        return queue, _wrapped(queue, wrapped)

    def _queue(self, subscription: str) -> Queue:
        queue = self._functions.queue(subscription.rpartition("/")[2])
        if queue.part is not Part.MAIN:
            raise ConfigError(f"{subscription} is a delay part, which a push cannot serve: let `cloudq pump` pull it.")
        return queue


def _patience(queue: Queue) -> float:
    # The acknowledgement deadline is the lease, and began when the request was sent.
    return max(queue.lease - _KEPT, queue.lease / 2)


class _Gone(Exception):
    """The caller went away before its request was whole."""


async def _body(receive: Receive) -> bytes | None:
    """Return the body; None for one that is larger than any message. _Gone: it did not come to its end."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size <= _LARGEST:
            parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts) if size <= _LARGEST else None


def _wrapped(queue: Queue, told: Mapping[str, Any]) -> Delivery:
    """Read a message as it is pushed by default. ValueError: it is none."""
    fields: Mapping[str, Any] = told["message"]
    try:
        body = base64.b64decode(fields.get("data", ""), validate=True)
        deliveries = int(told.get("deliveryAttempt") or 1)
        attributes = {str(name): str(value) for name, value in dict(fields.get("attributes") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"its message cannot be read: {error}") from error
    return _delivery(
        queue,
        body,
        deliveries=deliveries,
        message_id=str(fields.get("messageId", "")),
        group=fields.get("orderingKey"),
        attributes=attributes,
    )


def _unwrapped(queue: Queue, headers: Mapping[str, str], body: bytes) -> Delivery:
    """Read a message whose metadata are headers.

    The docs name no header for the count of deliveries, so that a task is given up by its age alone; and attributes are headers
    like any other, so that a dead letter keeps none.
    """
    return _delivery(
        queue,
        body,
        deliveries=1,
        message_id=headers.get(f"{_METADATA}message-id", ""),
        group=headers.get(f"{_METADATA}ordering-key"),
        attributes={},
    )


def _delivery(
    queue: Queue, body: bytes, *, deliveries: int, message_id: str, group: str | None, attributes: Mapping[str, str]
) -> Delivery:
    return Delivery(
        queue=queue,
        body=body,
        receipt=message_id,
        deliveries=max(1, deliveries),
        leased_for=0.0,  # as long as the request
        message_id=message_id,
        group=group or None,
        attributes=from_attributes(attributes),
    )
