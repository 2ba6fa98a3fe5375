"""From what Google's libraries raise to what cloudq raises.

Sources: google.rpc.Code and AIP-193 for the meaning of a status; docs, "error codes", for what Pub/Sub makes of it; docs,
access control, for the roles. gRPC answers UNAVAILABLE both when the service says so and when the connection broke after the
request had left, so of a publish it says nothing about whether the messages are kept.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
from collections.abc import Mapping, Sequence
from typing import cast

import grpc
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from cloudq.driver import Settled
from cloudq.errors import AccessDenied, DriverError, OutcomeUnknown, QueueNotFound, Refused, Throttled, Unavailable

_Code = grpc.StatusCode
#: docs, access control: the least role for each method.
_ROLES = {
    "Publish": "roles/pubsub.publisher on that topic",
    "Pull": "roles/pubsub.subscriber on that subscription",
    "Acknowledge": "roles/pubsub.subscriber on that subscription",
    "ModifyAckDeadline": "roles/pubsub.subscriber on that subscription",
    "GetSubscription": "roles/pubsub.viewer on that subscription",
}
_EDITOR = "roles/pubsub.editor on the project"
_DENIED = {_Code.PERMISSION_DENIED, _Code.UNAUTHENTICATED}
_REFUSED = {_Code.INVALID_ARGUMENT, _Code.FAILED_PRECONDITION, _Code.OUT_OF_RANGE, _Code.UNIMPLEMENTED, _Code.ALREADY_EXISTS}
#: docs, exactly-once delivery: the beginnings of reasons by ack id.
_TRANSIENT, _PERMANENT = "TRANSIENT_", "PERMANENT_"


def translate(error: Exception, method: str, what: str) -> DriverError:
    """Return the portable error, with the library's as its cause. `what` names the topic or subscription in words."""
    portable = (
        _from_status(error, method, what)
        if isinstance(error, api.GoogleAPICallError)
        else _from_credentials(error, what)
        if isinstance(error, auth.GoogleAuthError)
        else OutcomeUnknown(f"{what}: {error!r}")
    )
    portable.__cause__ = error
    return portable


def _from_status(error: api.GoogleAPICallError, method: str, what: str) -> DriverError:
    code = error.grpc_status_code
    detail = f"{what}: {code.name if code is not None else type(error).__name__}: {error.message}"
    if code is _Code.NOT_FOUND:
        return QueueNotFound(
            f"{detail} Are the project and the namespace right? Terraform makes topics and subscriptions, and for development "
            f"`cloudq queues create`."
        )
    if code in _DENIED:
        return AccessDenied(f"{detail} Allow this identity {_ROLES.get(method, _EDITOR)}.")
    if code is _Code.RESOURCE_EXHAUSTED:
        return Throttled(f"{detail} A quota of the project or the region is used up (docs, quotas).")
    if code in _REFUSED:
        return Refused(detail)
    # A question has no effect, and a settlement can be repeated: only a publish needs to be told that it may have arrived.
    return OutcomeUnknown(detail) if method == "Publish" else Unavailable(detail)


def _from_credentials(error: auth.GoogleAuthError, what: str) -> DriverError:
    if isinstance(error, auth.DefaultCredentialsError):
        return AccessDenied(
            f"{what}: {error} Set GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, or give the "
            f"workload a service account."
        )
    if isinstance(error, auth.TransportError):
        return Unavailable(f"{what}: {error} The token endpoint could not be reached.")
    return AccessDenied(f"{what}: {error} The credentials could not be renewed: revoked, expired, or for another audience.")


def by_ack_id(error: api.GoogleAPICallError, ack_ids: Sequence[str]) -> Mapping[str, Settled] | None:
    """Return what an error says about these ack ids, as exactly-once delivery tells it; None when it says nothing of them.

    Errors of other kinds carry details of the same form, about services and quotas. And an id that an error leaves out may have
    been settled or not: Google's emulator does it, the SDK counts it as failed.
    """
    reasons = cast("Mapping[str, str]", error.metadata or {})
    if not any(ack_id in reasons for ack_id in ack_ids):
        return None
    return {
        ack_id: Settled.LOST if reasons.get(ack_id, _TRANSIENT).startswith(_PERMANENT) else Settled.UNKNOWN
        for ack_id in ack_ids
    }
