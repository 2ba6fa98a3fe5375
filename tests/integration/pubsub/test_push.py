"""Behind a push subscription: the emulator pushes over HTTP to the app on a real server, with tokens that are checked."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager, contextmanager

import pytest
from google.auth import crypt, jwt
from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1 import SubscriberAsyncClient, types

from cloudq import CloudQ
from cloudq.errors import ConfigError
from cloudq.testing import ManualClock
from cloudq_pubsub import push_app
from cloudq_pubsub.emulator.identity import Identity
from cloudq_pubsub.tokens import Keys, KeysUnreachable, Tokens
from support.processes import environment, until
from support.pubsub import PROJECT, emulated
from support.served import LOG, Tasks, runs

pytest.importorskip("uvicorn")
pytest.importorskip("functions_framework")

AUDIENCE, ACCOUNT = "https://tasks.example/", "push@test-project.iam.gserviceaccount.com"
MAIN = """
import logging
import os

from cloudq import CloudQ
from cloudq_pubsub import event_function, push_app, push_function
from support.served import Tasks

logging.getLogger("cloudq").setLevel(logging.CRITICAL)
app = CloudQ()
Tasks(app)
signed = dict(audience=os.environ["AUDIENCE"], service_account=os.environ["ACCOUNT"], keys_url=os.environ["KEYS"])
asgi = push_app(app, **signed)
push = push_function(app, **signed)
event = event_function(app)
"""
UVICORN = ["uvicorn", "main:asgi", "--host", "127.0.0.1", "--log-level", "warning", "--port"]
FRAMEWORK = ["functions_framework", "--source", "main.py", "--host", "127.0.0.1", "--target"]


class Served:
    """A pushed queue on the emulator, and where it is pushed to."""

    def __init__(self, pubsub, identity, path):
        self.pubsub, self.identity, self.path, self.log = pubsub, identity, path, path / "runs"
        self.app = CloudQ(pubsub.url, namespace="served", queues={"default": {"lease": "60s", "max_attempts": 4}})
        self.tasks = Tasks(self.app)
        self.subscription = f"projects/{PROJECT}/subscriptions/served-default"
        (path / "main.py").write_text(MAIN)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    async def create(self, *, unwrapped=False):
        async with self.pubsub.driver() as driver:
            await driver.create(self.app.addresses("default"))
            push = types.PushConfig(
                push_endpoint=f"http://127.0.0.1:{self.port}/",
                oidc_token=types.PushConfig.OidcToken(service_account_email=ACCOUNT, audience=AUDIENCE),
            )
            if unwrapped:
                push.no_wrapper = types.PushConfig.NoWrapper(write_metadata=True)
            policy = types.RetryPolicy(
                minimum_backoff=duration_pb2.Duration(seconds=15), maximum_backoff=duration_pb2.Duration(seconds=600)
            )
            wanted = types.Subscription(name=self.subscription, push_config=push, retry_policy=policy)
            mask = field_mask_pb2.FieldMask(paths=["push_config", "retry_policy"])
            await driver.unwrap(SubscriberAsyncClient).update_subscription(subscription=wanted, update_mask=mask)

    @contextmanager
    def server(self, *command):
        environ = environment(
            CLOUDQ_URL=self.pubsub.url,
            CLOUDQ_NAMESPACE="served",
            CLOUDQ_QUEUES__DEFAULT__LEASE="60s",
            CLOUDQ_QUEUES__DEFAULT__MAX_ATTEMPTS="4",
            AUDIENCE=AUDIENCE,
            ACCOUNT=ACCOUNT,
            KEYS=self.identity.keys_url,
            **{LOG: self.log},
        )
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=self.path, env=environ)
        try:
            until(self._listens, "the server does not listen")
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(20)

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def kept(self):
        return self.pubsub.server.service.subscriptions[self.subscription]._all

    def idle(self):
        """No push waits for its answer: the clock may be moved without one being taken for late."""
        return not any(self.pubsub.server._pusher._open.values())

    def post(self, body=b"", token=None, path="/", **headers):
        if token is not None:
            headers["Authorization"] = token
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  this server's
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


@asynccontextmanager
async def serving(path, *, unwrapped=False):
    with Identity() as identity, emulated(sign=identity.sign) as pubsub:
        served = Served(pubsub, identity, path)
        await served.create(unwrapped=unwrapped)
        try:
            yield served
        finally:
            served.app.close()


async def dead(served):
    async with served.pubsub.driver() as driver:
        found = []
        part = next(queue for queue in served.app.addresses("default") if queue.part.value == "dead")
        while batch := await driver.receive(part, 100, 1.0):
            found += batch
        return [delivery.attributes["cloudq-dead"] for delivery in found]


async def a_thousand(served, report, what):
    draw = random.Random(9)
    numbers = list(range(1000))
    failing = set(draw.sample(numbers, 50))
    poisonous = set(draw.sample(sorted(set(numbers) - failing), 10))
    served.app.enqueue_many(
        served.tasks.poison.message(number)
        if number in poisonous
        else served.tasks.work.message(number, fails=2 if number in failing else 0)
        for number in numbers
    )
    until(lambda: len(served.kept) == 50, "more than the failing ones is kept", patience=60)
    until(lambda: len(runs(served.log)) == 1000, "not all have run")
    assert {run["number"] for run in runs(served.log)} == set(numbers)
    for attempt in (2, 3):
        # Not before the subscription's own backoff, whatever the task says; then the failing ones alone.
        until(served.idle, "a push is not answered")
        assert len(runs(served.log)) == 1000 + 50 * (attempt - 2)
        served.pubsub.advance(61)
        until(lambda: len(runs(served.log)) == 1000 + 50 * (attempt - 1), "the failing ones do not come again")  # noqa: B023  called here
        again = runs(served.log)[-50:]
        assert {run["number"] for run in again} == failing
        assert {run["attempt"] for run in again} == {attempt}
    until(lambda: not served.kept, "something is kept")
    records = await dead(served)
    assert len(records) == 10
    assert all('"kind":"rejected"' in record and "is poison" in record for record in records)
    report(f"{what}: 1,000 messages, {served.identity.asked} request(s) for keys")


async def test_a_thousand_with_failures_and_poison(tmp_path, report):
    async with serving(tmp_path) as served:
        with served.server(*UVICORN, str(served.port)):
            await a_thousand(served, report, "push to uvicorn")


async def test_a_thousand_under_functions_framework(tmp_path, report):
    async with serving(tmp_path) as served:
        with served.server(*FRAMEWORK, "push", "--port", str(served.port)):
            await a_thousand(served, report, "push to functions-framework")


async def test_unwrapped_messages_run(tmp_path):
    async with serving(tmp_path, unwrapped=True) as served:
        with served.server(*UVICORN, str(served.port)):
            served.tasks.awork.enqueue(7)
            until(lambda: runs(served.log, 7), "it does not run")
            until(lambda: not served.kept, "it is kept")


async def test_a_shutdown_drains_and_loses_nothing(tmp_path):
    async with serving(tmp_path) as served:
        with served.server(*UVICORN, str(served.port)) as process:
            served.app.enqueue_many(served.tasks.work.message(number, seconds=0.5) for number in range(30))
            until(lambda: len(runs(served.log)) >= 10, "nothing runs")
            process.terminate()
            process.wait(20)
        with served.server(*UVICORN, str(served.port)):

            def none_kept():
                served.pubsub.advance(25)  # less than the deadline of what is being run
                return not served.kept

            until(none_kept, "something is kept", every=0.5)
        assert sorted({run["number"] for run in runs(served.log)}) == list(range(30))


def wrapped(served, number=1, **more):
    body = {
        "cloudq": 1,
        "id": f"forged-{number}",
        "type": "work",
        "time": time.time(),  # noqa: TID251  a message of now
        "data": {"number": number},
    }
    message = {"data": base64.b64encode(json.dumps(body).encode()).decode(), "messageId": "1"}
    return json.dumps({"message": message, "subscription": served.subscription, **more}).encode()


def _parts(token):
    return token.split(".")


def _encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(identity):
    """Return tokens that must not be taken, by kind."""
    now = int(time.time())  # noqa: TID251  as a token has it
    other = Identity(identity.key_id)  # the same name, another key
    other.close()
    stranger = Identity("stranger")
    stranger.close()

    def token(issuer=identity, audience=AUDIENCE, email=ACCOUNT, **claims):
        return f"Bearer {issuer.token(audience=audience, email=email, claims=claims)}"

    good = token().removeprefix("Bearer ")
    header, payload, signature = _parts(good)
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    by_hash = jwt.encode(_Hmac(identity.public, identity.key_id), claims).decode()
    return {
        "none": None,
        "empty": "Bearer ",
        "another scheme": f"Basic {good}",
        "garbage": "Bearer not.a.token",
        "two parts": f"Bearer {header}.{payload}",
        "nested without end": f"Bearer {base64.urlsafe_b64encode(b'[' * 6000).decode()}.{payload}.{signature}",
        "too long": f"Bearer {header}.{payload}.{'x' * 10_000}",
        "no algorithm": f"Bearer {_encoded({'alg': 'none', 'kid': identity.key_id})}.{payload}.",
        "signed with the public key": f"Bearer {by_hash}",
        "another's key of the same name": token(other),
        "a key that is not published": token(stranger),
        "claims changed": f"Bearer {header}.{_encoded({**claims, 'sub': '1'})}.{signature}",
        "signature cut": f"Bearer {header}.{payload}.{signature[:-8]}",
        "expired": token(iat=now - 7200, exp=now - 3600),
        "not yet": token(iat=now + 3600, exp=now + 7200),
        "without an end": token(exp=None),
        "another audience": token(audience="https://elsewhere.example/"),
        "no audience": token(aud=None),
        "another account": token(email="somebody@else.iam.gserviceaccount.com"),
        "no account": token(email=None),
        "account not verified": token(email_verified=False),
        "another issuer": token(iss="https://issuer.example"),
        "signed by the account itself": token(iss=ACCOUNT),
    }


class _Hmac(crypt.Signer):
    """Takes a public key for a shared secret: a classic confusion of algorithms."""

    def __init__(self, secret, key_id):
        self._secret, self._id = secret.encode(), key_id

    @property
    def key_id(self):
        return self._id

    def sign(self, message):
        import hashlib
        import hmac

        return hmac.new(self._secret, message, hashlib.sha256).digest()


async def test_forged_tokens_run_nothing(tmp_path):
    async with serving(tmp_path) as served:
        with served.server(*UVICORN, str(served.port)):
            kinds = forged(served.identity)
            assert len(kinds) >= 16
            for kind, token in kinds.items():
                assert served.post(wrapped(served), token) == 401, kind
            assert runs(served.log) == []
            assert served.post(wrapped(served), f"Bearer {served.identity.token(audience=AUDIENCE, email=ACCOUNT)}") == 204
            assert len(runs(served.log)) == 1


async def test_without_keys_nothing_is_run(tmp_path):
    async with serving(tmp_path) as served:
        served.identity.reachable = False
        token = f"Bearer {served.identity.token(audience=AUDIENCE, email=ACCOUNT)}"
        with served.server(*UVICORN, str(served.port)):
            assert served.post(wrapped(served), token) == 503
            assert runs(served.log) == []


async def test_keys_that_may_not_be_kept_are_good_for_a_moment(tmp_path):
    with Identity() as identity:
        identity.kept = 0
        tokens = Tokens(Keys(identity.keys_url, ManualClock()), AUDIENCE, ACCOUNT)
        for _ in range(3):
            tokens.check(f"Bearer {identity.token(audience=AUDIENCE, email=ACCOUNT)}")
        assert identity.asked == 1


async def test_unknown_keys_are_not_asked_for_each_time(tmp_path):
    async with serving(tmp_path) as served:
        stranger = Identity("stranger")
        stranger.close()
        token = f"Bearer {stranger.token(audience=AUDIENCE, email=ACCOUNT)}"
        with served.server(*UVICORN, str(served.port)):
            assert {served.post(wrapped(served), token) for _ in range(20)} == {401}
            assert served.identity.asked == 1


async def test_what_is_no_push_is_refused(tmp_path):
    async with serving(tmp_path) as served:
        token = f"Bearer {served.identity.token(audience=AUDIENCE, email=ACCOUNT)}"
        with served.server(*UVICORN, str(served.port)):
            assert served.post(b"{", token) == 400
            assert served.post(b"[]", token) == 400
            assert served.post(json.dumps({"message": 7, "subscription": served.subscription}).encode(), token) == 400
            assert (
                served.post(json.dumps({"message": {"data": "&"}, "subscription": served.subscription}).encode(), token) == 400
            )
            assert served.post(wrapped(served, subscription="projects/p/subscriptions/other"), token) == 404
            assert served.post(wrapped(served, subscription=f"{served.subscription}-delay"), token) == 404
            assert served.post(b" " * 16_000_001, token) == 413
            assert runs(served.log) == []


async def test_half_of_a_request_is_no_message():
    """Unwrapped, its empty beginning would be a message that cannot be read, and be dead-lettered."""
    with Identity() as identity:
        app = CloudQ("pubsub://my-project?endpoint=http://127.0.0.1:9", namespace="served", queues={"default": {}})
        Tasks(app)
        asgi = push_app(app, audience=AUDIENCE, service_account=ACCOUNT, keys_url=identity.keys_url)
        headers = {
            "authorization": f"Bearer {identity.token(audience=AUDIENCE, email=ACCOUNT)}",
            "x-goog-pubsub-subscription-name": "projects/my-project/subscriptions/served-default",
        }
        coming = [{"type": "http.request", "body": b'{"clou', "more_body": True}, {"type": "http.disconnect"}]
        answered = []

        async def receive():
            return coming.pop(0)

        async def send(message):
            answered.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        async with asyncio.timeout(10):
            await asgi(scope, receive, send)
        assert answered == []


async def test_keys_that_are_none_are_no_keys():
    with Identity() as identity:
        identity.keys = []
        with pytest.raises(KeysUnreachable, match="something else than keys"):
            Keys(identity.keys_url, ManualClock()).find("emulated")


async def test_under_functions_framework_a_request_too_large_is_refused(tmp_path):
    async with serving(tmp_path) as served:
        token = f"Bearer {served.identity.token(audience=AUDIENCE, email=ACCOUNT)}"
        with served.server(*FRAMEWORK, "push", "--port", str(served.port)):
            assert served.post(b" " * 16_000_001, token) == 413


async def test_an_eventarc_function(tmp_path):
    """The framework converts what Eventarc sends: a CloudEvent whose data are the message."""
    async with serving(tmp_path) as served:
        headers = {
            "ce-specversion": "1.0",
            "ce-id": "1",
            "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
            "ce-source": f"//pubsub.googleapis.com/projects/{PROJECT}/topics/served-default",
            "Content-Type": "application/json",
        }
        with served.server(*FRAMEWORK, "event", "--signature-type", "cloudevent", "--port", str(served.port)):
            assert served.post(wrapped(served, 1), **headers) == 200
            # Without a count of deliveries, each is the first attempt.
            body = json.loads(wrapped(served, 2))
            data = json.loads(base64.b64decode(body["message"]["data"]))
            data["data"]["fails"] = 1
            body["message"]["data"] = base64.b64encode(json.dumps(data).encode()).decode()
            assert served.post(json.dumps(body).encode(), **headers) == 500
            assert served.post(json.dumps(body).encode(), **headers) == 500
        assert [run["attempt"] for run in runs(served.log)] == [1, 1, 1]


@pytest.mark.parametrize("missing", ["audience", "service_account"])
def test_an_app_that_would_run_everything_is_refused(missing):
    app = CloudQ("pubsub://my-project")
    Tasks(app)
    with pytest.raises(ConfigError, match="it would run what anybody sends"):
        push_app(app, **{"audience": AUDIENCE, "service_account": ACCOUNT, missing: ""})


def test_exactly_once_is_for_pulls():
    app = CloudQ("pubsub://my-project?exactly_once=true")
    Tasks(app)
    with pytest.raises(ConfigError, match="exactly_once=true is for subscriptions that are pulled"):
        push_app(app, audience=AUDIENCE, service_account=ACCOUNT)
