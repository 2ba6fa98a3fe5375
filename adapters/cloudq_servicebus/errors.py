"""From what azure-servicebus raises to what cloudq raises.

Sources: SDK `exceptions.py` and `_transport/_pyamqp_transport.py` (which condition becomes which class); docs, messaging
exceptions, for what they mean; docs, built-in roles for Service Bus.
"""

from __future__ import annotations

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError, ServiceRequestError
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
    SessionLockLostError,
)

from cloudq.errors import AccessDenied, DriverError, OutcomeUnknown, QueueNotFound, Refused, Throttled, Unavailable

#: What a settlement or a renewal that came too late is told.
LOST = (MessageLockLostError, SessionLockLostError, MessageAlreadySettled)
_DENIED = (ServiceBusAuthenticationError, ServiceBusAuthorizationError, ClientAuthenticationError)
_REFUSED = (MessageSizeExceededError, MessagingEntityDisabledError)
_MISSING = (MessagingEntityNotFoundError, ResourceNotFoundError)
#: docs, built-in roles: the least for each right.
_ROLES = {
    "Send": "Azure Service Bus Data Sender",
    "Listen": "Azure Service Bus Data Receiver",
    "Manage": "Azure Service Bus Data Owner",
}

#: From a queue whose lock is shorter than this share of the lease that the application believes in, nothing is received.
ENOUGH = 0.75


def short_lock(what: str, seconds: float, lease: float) -> Refused:
    """Return what is said of a queue whose lock is shorter than the application believes."""
    return Refused(
        f"{what}: a lock lasts {seconds:.0f} s, and the queue's lease is {lease:g} s: a task would run twice at once. Make "
        f"LockDuration PT{lease:g}S, or lease the same; or this machine's clock is wrong by as much."
    )


def translate(error: Exception, what: str, right: str, *, sent: bool = False) -> DriverError:
    """Return the portable error, with the SDK's as its cause.

    `what` names the queue in words, `right` is the one that was used: Send, Listen or Manage. `sent` says that messages were
    handed over: then only a refusal tells that they are not kept.
    """
    portable = _portable(error, what, right, sent=sent)
    portable.__cause__ = error
    return portable


def _portable(error: Exception, what: str, right: str, *, sent: bool) -> DriverError:
    detail = f"{what}: {str(error).strip().rstrip('.') or type(error).__name__}."
    if isinstance(error, _MISSING):
        return QueueNotFound(
            f"{detail} Are the namespace of the bus and that of the application right? Terraform makes queues, and for "
            f"development `cloudq queues create`."
        )
    denied = isinstance(error, _DENIED) or (isinstance(error, HttpResponseError) and error.status_code in (401, 403))
    if denied:
        return AccessDenied(f"{detail} Give this identity the role {_ROLES[right]} there, or a key with the claim {right}.")
    if isinstance(error, ServiceBusServerBusyError):
        return Throttled(
            f"{detail} The namespace is throttled (docs, throttling): 1,000 credits a second in the Standard tier."
        )
    if isinstance(error, ServiceBusQuotaExceededError):
        return Throttled(
            f"{detail} The queue is full, or has too many receivers (docs, quotas). What is in it must be drained."
        )
    if isinstance(error, _REFUSED):
        return Refused(detail)
    if isinstance(error, HttpResponseError) and not isinstance(error, ServiceRequestError) and error.status_code in (400, 409):
        return Refused(detail)
    return OutcomeUnknown(detail) if sent else Unavailable(detail)
