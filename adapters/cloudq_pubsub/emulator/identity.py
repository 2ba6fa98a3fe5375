"""A stand-in for Google's accounts: a key of its own, the tokens that it signs, and the public half for whoever checks them.

with Identity() as identity:
server = Server(sign=identity.sign).start()
asgi = push_app(app, audience=..., service_account=..., keys_url=identity.keys_url)
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

#: How long a token of Google is good, in seconds (docs, authenticate push subscriptions).
_GOOD_FOR = 3600


class Identity:
    """Signs as Google would, for the tests of whoever checks."""

    def __init__(self, key_id: str = "emulated") -> None:
        """Make a key, and serve its public half on 127.0.0.1."""
        self.key_id: str = key_id
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.public: str = (
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
        )
        self._signer: Any = crypt.RSASigner.from_string(private, key_id)  # type: ignore[no-untyped-call]  # google.auth's
        #: How often the keys were asked for, and whether they are given.
        self.asked: int = 0
        self.reachable: bool = True
        #: For how long the keys may be kept, in seconds.
        self.kept: int = 20_000
        #: What is published; more keys may be added.
        self.keys: dict[str, str] = {key_id: self.public}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _published(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def keys_url(self) -> str:
        """Where the public keys are."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/certs"

    def sign(self, oidc_token: Any, endpoint: str) -> str:
        """Return the token of a push: what `Server(sign=...)` takes."""
        return self.token(audience=oidc_token.audience or endpoint, email=oidc_token.service_account_email)

    def token(self, *, audience: str, email: str, claims: Mapping[str, Any] | None = None) -> str:
        """Return a token; `claims` are written over its own, and those that are None are left out."""
        now = int(time.time())  # noqa: TID251  a token is looked at by the real clock
        own = {
            "iss": "https://accounts.google.com",
            "aud": audience,
            "sub": "100000000000000000000",
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + _GOOD_FOR,
        }
        payload = {name: value for name, value in {**own, **(claims or {})}.items() if value is not None}
        encoded: Any = jwt.encode(self._signer, payload)  # type: ignore[no-untyped-call]  # google.auth's
        return str(encoded.decode())

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


def _published(identity: Identity) -> type[BaseHTTPRequestHandler]:
    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            identity.asked += 1
            body = json.dumps(identity.keys).encode()
            self.send_response(200 if identity.reachable else 503)
            self.send_header("Cache-Control", f"public, max-age={identity.kept}, must-revalidate")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it
            """Say nothing."""

    return Keys
