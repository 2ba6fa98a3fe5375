"""Google Cloud Pub/Sub.

URLs
    `pubsub://my-project` is a project; `pubsub://` takes GOOGLE_CLOUD_PROJECT, or that of the credentials. Credentials are
    Application Default Credentials. Options: `region=` (a regional endpoint, which ordering keys and exactly-once delivery
    want), `endpoint=` (host:port, with `http://` before it for one without TLS; else PUBSUB_EMULATOR_HOST), `prefix=` (before
    every name), and for what `cloudq queues create` makes `exactly_once=true` and `kms=` (a Cloud KMS key). Each queue is a
    topic and a subscription of the same name. `pubsub://local` is the emulator on this machine, started when it is not there;
    `port=` chooses another than 8085.

Delivery
    At least once, in no order. A publish is confirmed before `enqueue` returns; one without an answer may have arrived. A late
    acknowledgement may look like one in time, unless `exactly_once=true`. In an ordered queue, in order within each key; one
    publish request carries one key.

What is native and what composed
    Native: retry delay up to 10 min, leases of 10 s to 10 min, order, the dead-letter policy as the net. Composed by the core:
    every delay of a new task, and retries beyond 10 min (through the delay part, whose subscription has no policies and keeps
    31 days), the move of one message to the dead part (copy, confirm, acknowledge), expiry, priority (a topic each).
    Deliveries are counted by the service as a best effort, and only with a dead-letter policy; what was given back unrun
    counts too, and the count may fall back by itself, so a task that fails also ends by `max_age`. Deduplication is refused.
    There is no peek, and no count of what waits.

In a function
    `push_app(app, audience=..., service_account=...)` is an ASGI app for push subscriptions, `push_function` the same for
    functions-framework, `event_function` for Eventarc: see `serverless`, and docs/howto/functions.md.

Escape hatch
    `unwrap(google.pubsub_v1.PublisherAsyncClient)` and `unwrap(google.pubsub_v1.SubscriberAsyncClient)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudq_pubsub.serverless import event_function, push_app, push_function

__all__ = ["event_function", "push_app", "push_function"]


def __getattr__(name: str) -> Any:
    # Late: the facts of this provider are read where nothing else of it is needed.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cloudq_pubsub import serverless

    return getattr(serverless, name)
