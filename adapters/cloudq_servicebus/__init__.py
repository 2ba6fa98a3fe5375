"""Azure Service Bus.

URLs
    `servicebus://my-namespace` is a namespace, with DefaultAzureCredential; a whole host name is one of another cloud.
    `servicebus://` takes SERVICEBUS_CONNECTION_STRING. Options: `receivers=` and `sessions=` (connections for each queue, at
    the most), `prefix=` (before every name), `endpoint=` and `admin=` (host:port of an emulator). `servicebus://local` is the
    emulator on this machine, started when it is not there; `port=` chooses another than 5672.

Delivery
    At least once, in no order. A batch of sends is confirmed as a whole; one without an answer may have arrived. A late
    settlement is told as lost. In an ordered queue (sessions), in order within each key, one message of a key at a time.
    Duplicate detection is on in queues that are made here.

What is native and what composed
    Native: every delay, and cancelling it; order and dedup; dead letters with their reason, in the queue that is built into
    each queue; expiry of the queue; peeking. Composed by the core: a retry with a delay (a scheduled copy, confirmed, then the
    original is completed), expiry of a task, priority (one physical queue each). Composed here: an ordered backoff, by keeping
    the session. The count of deliveries is native and includes what was given back unrun; crashes are not told apart.

In a function
    `functions_app(app)` is an app for Azure Functions: see `serverless`, and docs/howto/functions.md.

Escape hatch
    `unwrap(azure.servicebus.aio.ServiceBusClient)` is the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloudq.errors import MissingAdapter

if TYPE_CHECKING:
    from cloudq_servicebus.serverless import functions_app

__all__ = ["functions_app"]


def __getattr__(name: str) -> Any:
    # Late: the facts of this provider are read where nothing else of it is needed.
    if name != "functions_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from cloudq_servicebus.serverless import functions_app
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("azure.functions"):
            raise MissingAdapter("functions_app needs azure-functions: pip install azure-functions") from error
        raise

    return functions_app
