"""Who sent a push: the OpenID Connect token that Pub/Sub signs as the subscription's service account.

Sources: docs, "Authenticate push subscriptions" (the token is in `Authorization`, its claims `iss`, `aud`, `email`,
`email_verified`, `exp`); docs, "Verify OpenID tokens" (the keys, and for how long they may be kept: Cache-Control).
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any, cast

from google.auth import exceptions, jwt
from google.auth.transport.requests import Request

from cloudq.clock import Clock

_log = logging.getLogger("cloudq.pubsub")

#: Google's public keys, as certificates by key id.
GOOGLE_KEYS = "https://www.googleapis.com/oauth2/v1/certs"
_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
#: Seconds: how long keys are kept that come without a time, until they are asked for again in vain, or for a key that is not
#: among them, and how long an answer may take.
_KEPT, _AGAIN, _PATIENCE = 3600.0, 30.0, 5.0
#: By how many seconds clocks may differ.
_SKEW = 10
#: Those of Google have about a thousand characters; one of many is not even looked at.
_LONGEST = 8192
_MAX_AGE = re.compile(r"max-age=(\d+)")


class Forged(Exception):
    """The token is missing, or not what it must be. The text says what, and repeats nothing of the token."""


class KeysUnreachable(Exception):
    """Nothing can be told of any token: there are no keys."""


class Keys:
    """The public keys, as they are published, kept for as long as their answer says."""

    def __init__(self, url: str, clock: Clock) -> None:
        """Nothing is fetched yet."""
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: Mapping[str, str] = {}
        self._good_until = self._asked_at = float("-inf")
        self._request: Any = None

    def find(self, key_id: str) -> Mapping[str, str]:
        """Return the keys, asked for anew where they are too old or this one is not among them. KeysUnreachable."""
        # First without the lock: whoever asks for a key that is there does not wait for one who asks for another.
        if self._clock.monotonic() < self._good_until and key_id in self._keys:
            return self._keys
        with self._lock:
            now = self._clock.monotonic()
            asked_lately = now - self._asked_at < _AGAIN
            if now < self._good_until and (key_id in self._keys or asked_lately):
                return self._keys
            if asked_lately and now >= self._good_until:
                raise KeysUnreachable(f"{self._url} did not answer a moment ago")
            self._asked_at = now
            self._keys, kept = self._fetch()
            # Keys that may not be kept at all are kept until they may be asked for again.
            self._good_until = now + max(kept, _AGAIN)
            return self._keys

    def _fetch(self) -> tuple[Mapping[str, str], float]:
        self._request = self._request or Request()
        try:
            answer: Any = self._request(self._url, method="GET", timeout=_PATIENCE)
            if answer.status != 200:
                raise KeysUnreachable(f"{self._url} answered {answer.status}")
            found = json.loads(answer.data)
            if not isinstance(found, dict):
                raise KeysUnreachable(f"{self._url} answered with something else than keys by their ids")
        except (exceptions.TransportError, ValueError) as error:
            raise KeysUnreachable(f"{self._url}: {error}") from error
        told = _MAX_AGE.search(str(answer.headers.get("cache-control", "")))
        return cast("dict[str, str]", found), float(told[1]) if told else _KEPT


class Tokens:
    """Admits what was signed for this audience, as this account."""

    def __init__(self, keys: Keys, audience: str, account: str) -> None:
        """`account` is the e-mail address of the subscription's service account."""
        self._keys = keys
        self._audience = audience
        self._account = account

    def check(self, authorization: str | None) -> None:
        """Return when the header is good. Forged tells why not; KeysUnreachable, that it cannot be known."""
        scheme, _, token = (authorization or "").partition(" ")
        if len(token) > _LONGEST:
            raise Forged(f"it has more than {_LONGEST} characters")
        if scheme.lower() != "bearer" or not token.strip():
            raise Forged("there is no Authorization: Bearer <token>; set oidc_token on the subscription's push_config")
        claims = self._claims(token.strip())
        if claims.get("iss") not in _ISSUERS:
            raise Forged("its issuer is not Google")
        if claims.get("email") != self._account:
            raise Forged(f"it is not of the account {self._account}")
        if claims.get("email_verified") is not True:
            raise Forged("its account is not verified")

    def _claims(self, token: str) -> Mapping[str, Any]:
        try:
            header: Any = cast("Any", jwt).decode_header(token)  # google.auth has no types
        except (ValueError, RecursionError, exceptions.GoogleAuthError) as error:
            raise Forged("it is no token that can be read") from error
        key_id = header.get("kid") if isinstance(header, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  JSON
        if not isinstance(key_id, str):
            raise Forged("it names no key")
        keys = self._keys.find(key_id)
        if key_id not in keys:
            raise Forged("it is signed with a key that Google does not have")
        try:
            found: Any = jwt.decode(token, certs=dict(keys), audience=self._audience, clock_skew_in_seconds=_SKEW)  # type: ignore[no-untyped-call]  # google.auth's
        except (ValueError, TypeError, KeyError, RecursionError, exceptions.GoogleAuthError) as error:
            # Signature, audience, times: which of them is for the log, not for whoever sent it.
            _log.debug("a token was refused", exc_info=error)
            raise Forged("its signature, its audience or its times are not good") from error
        return cast("Mapping[str, Any]", found)
