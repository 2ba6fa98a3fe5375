"""From what boto3 raises to what cloudq raises: one table by error code, one by exception class.

Sources: the errors of the service model 2012-11-05 ("API"); "Common errors" of the Amazon SQS API reference for those that
every AWS service has. SDKs tell an error under the name it had before the JSON protocol; both names are listed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import botocore.exceptions as sdk

from cloudq.errors import AccessDenied, DriverError, OutcomeUnknown, QueueNotFound, Refused, Throttled, Unavailable

_OLD = "AWS.SimpleQueueService."

_NOT_FOUND = {"QueueDoesNotExist", f"{_OLD}NonExistentQueue", "ResourceNotFoundException"}
_DENIED = {"AccessDenied", "AccessDeniedException", "InvalidSecurity", "OptInRequired", "NotAuthorized"}
_KEYS = {
    "KmsAccessDenied", "KmsDisabled", "KmsInvalidKeyUsage", "KmsInvalidState", "KmsNotFound", "KmsOptInRequired",
    "KMS.AccessDeniedException", "KMS.DisabledException", "KMS.InvalidKeyUsageException", "KMS.InvalidStateException",
    "KMS.NotFoundException", "KMS.OptInRequired",
}  # fmt: skip
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_UNKNOWN_KEY = {
    "InvalidClientTokenId", "UnrecognizedClientException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "IncompleteSignature", "IncompleteSignatureException",
}  # fmt: skip
#: A signature does not fit when the key is wrong, and when the clock is.
_SIGNATURE = {"SignatureDoesNotMatch", "InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed"}
_THROTTLED = {
    "RequestThrottled", "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "KmsThrottled",
    "KMS.ThrottlingException",
    "RequestLimitExceeded", "SlowDown",
}  # fmt: skip
#: The service says that it did not take the request.
_UNAVAILABLE = {"ServiceUnavailable", "ServiceUnavailableException"}
#: Of receives alone: too many in flight. Later there may be room.
_OVER_LIMIT = {"OverLimit", f"{_OLD}OverLimit"}
#: Of a settlement: the lease it names is over.
LEASE_OVER = frozenset(
    {
        "ReceiptHandleIsInvalid",
        "MessageNotInflight",
        f"{_OLD}MessageNotInflight",
        # A handle that has expired, of a FIFO queue, and an extension beyond the 12 hours (API ChangeMessageVisibility).
        "InvalidParameterValue",
    }
)


def translate(error: Exception, operation: str, what: str) -> DriverError:
    """Return the portable error, with the SDK's as its cause. `what` names the queue and the place in words."""
    portable = _from_answer(error, operation, what) if isinstance(error, sdk.ClientError) else _from_way(error, what)
    portable.__cause__ = error
    return portable


def entry_failed(code: str, text: str, *, sender_fault: bool, what: str) -> DriverError:
    """Return the portable error for one entry of a batch. An entry that failed was surely not sent."""
    detail = f"{what}: {code}: {text}"
    if code in _THROTTLED:
        return Throttled(detail)
    if code in _DENIED | _KEYS:
        return AccessDenied(detail)
    return Refused(detail) if sender_fault else Unavailable(detail)


def _from_answer(error: sdk.ClientError, operation: str, what: str) -> DriverError:
    told = cast("Mapping[str, Any]", error.response)
    code, text = str(told.get("Error", {}).get("Code", "")), str(told.get("Error", {}).get("Message", ""))
    meta: Mapping[str, Any] = told.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    detail = f"{what}: {code}: {text}" if text else f"{what}: {code}"
    advise = next((advise for codes, advise in _ADVICE if code in codes), None)
    if advise is not None:
        return advise(detail, operation, meta)
    if status == 429:
        return Throttled(detail)
    # 503 says that the request was not taken. Any other 5xx says nothing.
    if status == 503:
        return Unavailable(detail)
    return OutcomeUnknown(detail) if status >= 500 else Refused(detail)


def _not_found(detail: str, _operation: str, _meta: Mapping[str, Any]) -> DriverError:
    return QueueNotFound(
        f"{detail} Are the region and the namespace right? Terraform makes the queues, and for development "
        f"`cloudq queues create`."
    )


def _denied(detail: str, operation: str, _meta: Mapping[str, Any]) -> DriverError:
    # Service authorization reference, Amazon SQS: a batch is authorized by the name of the single action.
    return AccessDenied(f"{detail} Allow this identity sqs:{operation.removesuffix('Batch')} on that queue.")


def _keys(detail: str, operation: str, _meta: Mapping[str, Any]) -> DriverError:
    # guide, key management: a producer needs both, a consumer kms:Decrypt.
    needed = "kms:GenerateDataKey and kms:Decrypt" if operation.startswith("Send") else "kms:Decrypt"
    return AccessDenied(
        f"{detail} The queue is encrypted with a KMS key: allow this identity {needed} on it, and enable the key."
    )


def _expired(detail: str, _operation: str, _meta: Mapping[str, Any]) -> DriverError:
    return AccessDenied(f"{detail} The temporary credentials have expired: renew them (`aws sso login`, or a new session).")


def _unknown_key(detail: str, _operation: str, _meta: Mapping[str, Any]) -> DriverError:
    return AccessDenied(
        f"{detail} The service does not know these credentials. `aws sts get-caller-identity` shows whose are used."
    )


def _signature(detail: str, _operation: str, meta: Mapping[str, Any]) -> DriverError:
    told = meta.get("HTTPHeaders", {}).get("date")
    skew = (datetime.now(UTC) - parsedate_to_datetime(told)).total_seconds() if told else 0.0
    if abs(skew) > 60:
        direction = "ahead of" if skew > 0 else "behind"
        return AccessDenied(
            f"{detail} This machine's clock is {abs(skew):,.0f} s {direction} the service's, and a signature holds for about "
            f"5 minutes. Set the clock (NTP)."
        )
    return AccessDenied(f"{detail} The clocks agree, so the secret key is wrong, or something changed the request on its way.")


def _throttled(detail: str, _operation: str, _meta: Mapping[str, Any]) -> DriverError:
    return Throttled(detail)


def _unavailable(detail: str, _operation: str, _meta: Mapping[str, Any]) -> DriverError:
    return Unavailable(detail)


def _over_limit(detail: str, _operation: str, _meta: Mapping[str, Any]) -> DriverError:
    return Throttled(f"{detail} About 120,000 messages of this queue are in flight: leased, or parked by a long delay.")


_ADVICE: tuple[tuple[set[str], Callable[[str, str, Mapping[str, Any]], DriverError]], ...] = (
    (_NOT_FOUND, _not_found),
    (_DENIED, _denied),
    (_KEYS, _keys),
    (_EXPIRED, _expired),
    (_UNKNOWN_KEY, _unknown_key),
    (_SIGNATURE, _signature),
    (_THROTTLED, _throttled),
    (_UNAVAILABLE, _unavailable),
    (_OVER_LIMIT, _over_limit),
)


def _from_way(error: Exception, what: str) -> DriverError:
    """The request did not come back with an answer."""
    if isinstance(error, (sdk.NoCredentialsError, sdk.PartialCredentialsError)):
        return AccessDenied(
            f"{what}: {error}. boto3 found no credentials: environment, profile, web identity, container, instance."
        )
    if isinstance(
        error,
        (
            sdk.CredentialRetrievalError,
            sdk.TokenRetrievalError,
            sdk.SSOError,
            sdk.UnauthorizedSSOTokenError,
            sdk.RefreshWithMFAUnsupportedError,
        ),
    ):
        return AccessDenied(f"{what}: {error}. The credentials could not be renewed.")
    # Nothing was sent yet: no connection.
    if isinstance(error, (sdk.EndpointConnectionError, sdk.ConnectTimeoutError, sdk.ProxyConnectionError)) or _unverified(
        error
    ):
        return Unavailable(f"{what}: {error}. Is the region right, and the network open to it?")
    if isinstance(error, (sdk.ParamValidationError, sdk.InvalidRegionError)):
        return Refused(f"{what}: {error}")
    return OutcomeUnknown(f"{what}: {error!r}")


def _unverified(error: BaseException | None) -> bool:
    """Say whether the handshake failed on the certificate. Any other TLS error may come after the request went out."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
