"""Health over HTTP, for the platform that runs the container: off unless a port is given.

    GET /livez    200 while the worker makes progress: its control loop turns, whatever the provider does. 503 with the reason.
    GET /readyz   200 while it works on its queues: it does not drain, and they can be received from. 503 with the reason.

It answers from a thread of its own, so that a loop that stands still is told and not only felt. With several processes, the
supervisor answers at the port, and asks its children at the ports that follow it.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cloudq.clock import Clock
from cloudq.errors import ConfigError

#: Returns what is wrong, or an empty text.
Probe = Callable[[], str]

LIVE, READY = "/livez", "/readyz"
#: Seconds between two beats of the loop, and without one until it is no longer alive. A task that holds the interpreter's lock
#: stops the loop too, and is the task's affair for a while.
_EVERY, _STILL = 1.0, 30.0
#: How long a child may take to answer its supervisor, in seconds.
_ASKING = 2.0


class Heartbeat:
    """What a worker's loop leaves behind as it turns."""

    def __init__(self, clock: Clock) -> None:
        """It counts from now."""
        self._clock = clock
        self._last = clock.monotonic()

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            self._last = self._clock.monotonic()
            await asyncio.sleep(_EVERY)

    def live(self) -> str:
        """Tell since when the loop stands still, where it does."""
        still = self._clock.monotonic() - self._last
        return f"the control loop has stood still for {still:.0f} s" if still > _STILL else ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class HealthServer:
    """Answers for as long as its block lasts, on every interface: the platform asks from outside."""

    def __init__(self, port: int, live: Probe, ready: Probe) -> None:
        """ConfigError: the port cannot be had."""
        try:
            self._server = _Server(("", port), _handler({LIVE: live, READY: ready}))
        except OSError as error:
            raise ConfigError(f"--health-port {port} cannot be listened on: {error.strerror}. Choose another.") from error
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="cloudq-health", daemon=True
        ).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def ask(port: int, path: str, patience: float = _ASKING) -> str:
    """Ask a worker on this machine. Returns what is wrong, or an empty text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"no answer at port {port}: {error}. Is it the worker's --health-port?"
    finally:
        connection.close()
    return "" if answer.status == 200 else said or f"port {port} answered {answer.status}"


def of_children(ports: Callable[[], Sequence[int]], path: str) -> Probe:
    """Return a probe that asks every child that runs, all at a time, and tells what is wrong with one of them."""

    def probe() -> str:
        asked = ports()
        if not asked:
            return ""
        with ThreadPoolExecutor(len(asked), thread_name_prefix="cloudq-health") as pool:
            return next(filter(None, pool.map(ask, asked, [path] * len(asked))), "")

    return probe


def _handler(probes: dict[str, Probe]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        #: Of a caller who says nothing, in seconds.
        timeout = 5

        def do_GET(self) -> None:
            probe = probes.get(self.path)
            wrong = "there is /livez and /readyz" if probe is None else probe()
            body = f"{wrong or 'ok'}\n".encode()
            self.send_response(404 if probe is None else 503 if wrong else 200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it
            """Say nothing: a probe every few seconds is no news."""

    return Handler
