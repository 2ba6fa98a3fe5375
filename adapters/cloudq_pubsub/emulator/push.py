"""Push delivery: messages as HTTP requests, acknowledged by their status.

Source: docs, push subscriptions: one message a request, wrapped as JSON or the bare data; 102, 200, 201, 202 and 204
acknowledge, anything else and a timeout of the ack deadline are a nack. The slow start and the push backoff of the service
are not imitated.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from cloudq_pubsub.emulator.broker import Held, Subscription
from cloudq_pubsub.emulator.service import Service

#: docs, push subscriptions, as above.
ACKNOWLEDGED = (102, 200, 201, 202, 204)
#: How many pushes of a subscription are under way at most; the service adapts it, which is not imitated.
_AT_ONCE = 20

#: From an OIDC setting (google.pubsub.v1.PushConfig.OidcToken) and the endpoint to a token.
Sign = Callable[[Any, str], str]


class Pusher:
    """Pushes for every subscription that has an endpoint."""

    def __init__(self, service: Service, sign: Sign | None) -> None:
        """Without `sign` a push has no Authorization, whatever the subscription says."""
        self._service = service
        self._sign = sign
        self._open: dict[Subscription, int] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Call from the server's loop."""
        self._service.on_available = self._push
        self._watch = asyncio.get_running_loop().create_task(self._pass_time())

    async def stop(self) -> None:
        """End; pushes under way are nobody's any more."""
        self._service.on_available = lambda _: None
        under_way = [*self._under_way, *([self._watch] if self._watch else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _pass_time(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            for subscription in self._service.subscriptions.values():
                if subscription.settings.push_config.push_endpoint:
                    self._push(subscription)

    def _push(self, subscription: Subscription) -> None:
        endpoint = str(subscription.settings.push_config.push_endpoint)
        room = _AT_ONCE - self._open.get(subscription, 0)
        if not endpoint or room <= 0:
            return
        for held in self._service.take(subscription, room, subscription.settings.ack_deadline_seconds):
            self._open[subscription] = self._open.get(subscription, 0) + 1
            task = asyncio.get_running_loop().create_task(self._deliver(subscription, held, endpoint))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, subscription: Subscription, held: Held, endpoint: str) -> None:
        ack_id = held.ack_id
        try:
            status = await asyncio.to_thread(self._post, subscription, held, endpoint)
        finally:
            self._open[subscription] -= 1
        self._service.settle(subscription, [ack_id], None if status in ACKNOWLEDGED else 0)

    def _post(self, subscription: Subscription, held: Held, endpoint: str) -> int:
        settings = subscription.settings
        config, message = settings.push_config, held.message
        headers = {"Content-Type": "application/json"}
        if config.HasField("no_wrapper"):
            body = bytes(message.data)
            headers = {}
            if config.no_wrapper.write_metadata:
                # docs, payload unwrapping.
                headers = {
                    "x-goog-pubsub-subscription-name": settings.name,
                    "x-goog-pubsub-message-id": message.message_id,
                    "x-goog-pubsub-publish-time": message.publish_time.ToJsonString(),
                    **({"x-goog-pubsub-ordering-key": message.ordering_key} if message.ordering_key else {}),
                    **dict(message.attributes),
                }
        else:
            body = _wrapped(settings, held, counted=bool(subscription.dead_letter_topic))
        if self._sign is not None and config.HasField("oidc_token"):
            headers["Authorization"] = f"Bearer {self._sign(config.oidc_token, endpoint)}"
        request = urllib.request.Request(endpoint, body, headers, method="POST")  # noqa: S310  where the test says
        try:
            with urllib.request.urlopen(request, timeout=settings.ack_deadline_seconds) as answer:  # noqa: S310  as above
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0


def _wrapped(settings: Any, held: Held, *, counted: bool) -> bytes:
    message = held.message
    fields: dict[str, Any] = {
        "data": base64.b64encode(message.data).decode(),
        "messageId": message.message_id,
        "message_id": message.message_id,
        "publishTime": message.publish_time.ToJsonString(),
        "publish_time": message.publish_time.ToJsonString(),
    }
    if message.attributes:
        fields["attributes"] = dict(message.attributes)
    if message.ordering_key:
        fields["orderingKey"] = message.ordering_key
    told: dict[str, Any] = {"message": fields, "subscription": settings.name}
    if counted:
        told["deliveryAttempt"] = held.attempt
    return json.dumps(told).encode()
