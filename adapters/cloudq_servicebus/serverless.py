"""Azure Functions: the tasks of an application as a function app, one trigger for each of its queues.

    # function_app.py
    from cloudq_servicebus import functions_app
    from shop.tasks import app as tasks

    app = functions_app(tasks, connection="ServiceBus")

What the runtime does (Azure Functions docs, Service Bus trigger): it receives under a lock, renews it for as long as
`maxAutoLockRenewalDuration` says, completes the message when the function returns, and abandons it when it raises, upon which
it is delivered again at once. The Python library can neither abandon with a delay nor dead-letter
(azure-functions-python-worker issue 1291).

What is done here:

- Tried again: a copy is scheduled for its delay, as in a worker, and when that is confirmed, the function returns. Duplicate
  detection drops the second copy, should a kill in between make one.
- Given up: it is dead-lettered natively, with its reason, by its lock's token and through the management of the queue, as the
  SDK itself settles where a link is gone. The runtime then completes what is there no more, and logs that the lock is lost
  (azure-functions-host pull request 3179, of others; it was not run here). Where it does not work, the function raises, and
  the message comes again, up to the queue's MaxDeliveryCount.
- Not run: the function raises, and the message comes again at once.

Refused: ordered queues. Their locks belong to the runtime's session, so that nothing in them can be dead-lettered from here, a
copy would go to the end of its key, and to raise would use up the attempts without a pause.

For the copies, the function's identity must be a sender as well (Azure Service Bus Data Sender), as the Terraform module
makes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import azure.functions as azure

from cloudq.driver import Burial, Delivery, Part, Queue, Settled
from cloudq.durations import seconds
from cloudq.errors import ConfigError
from cloudq.functions import Functions, Opened, Platform
from cloudq_servicebus.options import endpoint_of, read

if TYPE_CHECKING:
    from cloudq import CloudQ
    from cloudq_servicebus.driver import ServiceBusDriver

#: Azure Functions docs, host.json, functionTimeout: the default on the Consumption plan, in seconds.
_TIMEOUT = 300.0
#: Of a function's time, this share is kept for the last settlements, and this much at the most, in seconds.
_KEPT, _MOST_KEPT = 0.1, 5.0


class AgainError(Exception):
    """The message is to be delivered again: the runtime is told so by an error."""


def functions_app(
    app: CloudQ, *, connection: str = "ServiceBus", queues: Sequence[str] = (), concurrency: int | None = None
) -> azure.FunctionApp:
    """Return a function app (the v2 model) with a trigger for each queue and priority.

    By default, for those with `[queues.<name>.serverless]`; where none has it, for every queue of the application there.

    `connection` names the app settings by which the runtime finds the namespace: `<connection>__fullyQualifiedNamespace`, or
    `<connection>` for a connection string. `concurrency` is how many run at once in this process, by default as in a worker;
    how many messages the runtime hands over is for host.json to say (`maxConcurrentCalls`).

    ConfigError: an ordered queue, a queue that lives elsewhere, a connection to another namespace than the application's, or a
    setting that Service Bus or the runtime cannot keep.
    """
    functions = Functions(app, _AzureFunctions(), queues, concurrency)
    made = azure.FunctionApp()
    for name, queue in functions.queues.items():
        if queue.part is not Part.MAIN:
            continue
        _refuse(functions, queue, connection)
        decorated: Any = made.service_bus_queue_trigger(
            arg_name="message", queue_name=name, connection=connection, cardinality=azure.Cardinality.ONE
        )
        named: Any = made.function_name(re.sub(r"\W", "_", queue.physical))
        named(decorated(_function(functions, queue, _patience(app, queue))))
    return made


def _refuse(functions: Functions, queue: Queue, connection: str) -> None:
    if queue.ordered:
        raise ConfigError(
            f"queues.{queue.logical}.ordered = true: a function on Azure can neither dead-letter nor delay a message of a "
            f"session. Let workers run this queue."
        )
    options = read(*functions.place(queue))
    at = options.namespace or endpoint_of(options.connection_string)
    told = os.environ.get(f"{connection}__fullyQualifiedNamespace") or endpoint_of(os.environ.get(connection, ""))
    if told and told.lower() != at.lower():
        raise ConfigError(
            f"the trigger of the queue {queue.logical!r} reads from {told} (app setting {connection}), and the application is "
            f"at {at}: what is tried again would be sent there, where no function reads. Set CLOUDQ_URL to the same one."
        )


def _function(functions: Functions, queue: Queue, patience: float) -> Callable[[azure.ServiceBusMessage], Awaitable[None]]:
    async def run(message: azure.ServiceBusMessage) -> None:
        delivery = _delivery(queue, message)
        if not (await functions.ahand_over(queue, [delivery], patience))[0]:
            raise AgainError(f"{queue.physical}: the message {delivery.message_id} is to be delivered again")

    return run


class _AzureFunctions(Platform):
    scheme = "servicebus"

    def name(self, place: str, options: Mapping[str, str], queue: Queue) -> str:
        return read(place, options).name(queue)

    async def dead_letter(self, driver: Opened, queue: Queue, batch: Sequence[Burial]) -> Sequence[Settled]:
        return await cast("ServiceBusDriver", await driver()).bury_locked(queue, batch)


def _patience(app: CloudQ, queue: Queue) -> float:
    served = app.settings.queue(queue.logical).serverless
    timeout = _TIMEOUT if served is None else seconds(served.timeout, "serverless.timeout")
    return timeout - min(_MOST_KEPT, timeout * _KEPT)


def _delivery(queue: Queue, message: azure.ServiceBusMessage) -> Delivery:
    properties: Mapping[str, Any] = message.application_properties or message.user_properties or {}
    return Delivery(
        queue=queue,
        body=message.get_body(),
        receipt=UUID(message.lock_token) if message.lock_token else None,
        # As .NET counts, which the runtime is: from 1.
        deliveries=max(1, message.delivery_count or 1),
        leased_for=0.0,  # as long as the function
        message_id=message.message_id,
        group=message.session_id,
        attributes={str(name): str(value) for name, value in properties.items()},
    )
