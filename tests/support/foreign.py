"""Servers that others have written: moto, LocalStack in an environment of its own, and Google's Pub/Sub emulator."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCALSTACK = Path(__file__).parents[2] / ".localstack" / "bin" / "python"
#: Where the Google Cloud CLI and its Debian packages put the emulator.
_SDKS = (Path("/usr/lib/google-cloud-sdk"), Path("/opt/google-cloud-sdk"), Path.home() / "google-cloud-sdk")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def moto_for_terraform() -> Iterator[str]:
    """moto, with what the AWS provider waits for in vain: three mends of its SQS.

    It takes RedriveAllowPolicy and never gives it back, drops the Policy at the next change of anything else, and gives a
    RedrivePolicy back with other white space.
    """
    from moto.sqs.models import Queue

    set_attributes, shown, known = Queue._set_attributes, Queue.attributes, list(Queue.BASE_ATTRIBUTES)

    def keep_policy(self, attributes, now=None):
        if "Policy" not in attributes and hasattr(self, "_policy_json"):
            attributes = {**attributes, "Policy": self.policy}
        set_attributes(self, attributes, now)

    def compact(self):
        found = shown.fget(self)
        if found.get("RedrivePolicy"):
            found["RedrivePolicy"] = json.dumps(json.loads(found["RedrivePolicy"]), separators=(",", ":"))
        return found

    Queue.BASE_ATTRIBUTES.append("RedriveAllowPolicy")
    Queue.redrive_allow_policy = None
    Queue._set_attributes, Queue.attributes = keep_policy, property(compact)
    try:
        with moto() as endpoint:
            # It keeps what it has for as long as its process lives: what an earlier test has made too.
            urllib.request.urlopen(f"{endpoint}/moto-api/reset", data=b"", timeout=10).close()  # noqa: S310  our own server
            yield endpoint
    finally:
        Queue._set_attributes, Queue.attributes = set_attributes, shown
        Queue.BASE_ATTRIBUTES[:] = known
        del Queue.redrive_allow_policy


@contextmanager
def moto() -> Iterator[str]:
    """Its endpoint. In this process, on a thread."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


@contextmanager
def localstack(patience: float = 90.0) -> Iterator[str]:
    """Its endpoint. A process of its own, ended by its pid."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))},
            "SERVICES": "sqs",
            "EAGER_SERVICE_LOADING": "1",
            "STRICT_SERVICE_LOADING": "1",
            # The default server listens on every address.
            "GATEWAY_SERVER": "hypercorn",
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0",
            "PERSISTENCE": "0",
            "XDG_CACHE_HOME": directory,
            "LOCALSTACK_VOLUME_DIR": directory,
        }
        with (Path(directory) / "log").open("w+") as log:
            process = subprocess.Popen(
                [LOCALSTACK, "-m", "localstack.runtime.main"],
                env=environment, cwd=directory, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                _wait(f"http://127.0.0.1:{port}/_localstack/health", process, patience)
                yield f"http://127.0.0.1:{port}"
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def google_pubsub_jar() -> Path | None:
    """Google's emulator, where it and a Java to run it are found."""
    jars = [jar for sdk in _SDKS for jar in sdk.glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")]
    return jars[-1] if jars and shutil.which("java") else None


@contextmanager
def google_pubsub(patience: float = 60.0) -> Iterator[str]:
    """Its host and port: PUBSUB_EMULATOR_HOST, or a process of its own, ended by its pid."""
    if os.environ.get("PUBSUB_EMULATOR_HOST"):
        yield os.environ["PUBSUB_EMULATOR_HOST"]
        return
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            ["java", "-jar", str(google_pubsub_jar()), "--host=127.0.0.1", f"--port={port}"], stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + patience  # noqa: TID251  a real process starts in real time
            while True:
                assert process.poll() is None, "Google's emulator ended while it started"
                assert time.monotonic() < deadline, f"Google's emulator did not listen within {patience:g} s"  # noqa: TID251  as above
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(15)


def _wait(url: str, process: subprocess.Popen[bytes], patience: float) -> None:
    deadline = time.monotonic() + patience  # noqa: TID251  a real process starts in real time
    while time.monotonic() < deadline:  # noqa: TID251  as above
        assert process.poll() is None, "LocalStack ended while it started"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own address
                if b'"sqs"' in answer.read():
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise AssertionError(f"LocalStack did not answer within {patience:g} s")
