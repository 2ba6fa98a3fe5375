"""What the emulators of the adapters have in common: a clock that can be moved, planned faults, and a server on 127.0.0.1.

An emulator stands in for a provider over its own protocol, for tests and for a developer's machine. The part that differs is in
the adapter, and it is nearly all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Generic, Self, TypeVar

from cloudq.clock import Clock, SystemClock
from cloudq.errors import ConfigError

_HOST = "127.0.0.1"
#: A server that nobody asked for by hand ends by itself: so many seconds after its last request.
LINGER = 600.0
_START = 15.0

_log = logging.getLogger("cloudq.emulation")


class MovedClock:
    """The machine's clock, and ahead of it by as much as somebody asked for."""

    def __init__(self) -> None:
        """It starts at the machine's time."""
        self._real = SystemClock()
        self.ahead: float = 0.0

    def time(self) -> float:
        """Return seconds since the epoch."""
        return self._real.time() + self.ahead

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps back."""
        return self._real.monotonic() + self.ahead


# Faults ------------------------------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """One way to fail, for the requests that it fits. What happens then, the adapter's own class says."""

    #: The provider's name of the operation; "*" for all.
    action: str = "*"
    _: KW_ONLY
    #: Of the requests that it fits.
    share: float = 1.0
    #: Passes over so many first.
    skip: int = 0
    #: Then happens so often at the most; 0 for no end.
    times: int = 0

    @property
    def name(self) -> str:
        """Under what it is counted."""
        return "error"


F = TypeVar("F", bound=Fault)
T = TypeVar("T")


class Plan(Generic[F]):
    """Faults in the order in which they are asked, with a chance of their own that repeats."""

    def __init__(self, faults: Sequence[F] = (), seed: int = 0) -> None:
        """`seed` makes shares of requests the same ones in each run."""
        self._faults = [(fault, Counter[str]()) for fault in faults]
        self._draw = random.Random(seed)
        #: How often each kind happened.
        self.happened: Counter[str] = Counter()

    def next(self, action: str) -> F | None:
        """Return the first fault that happens to this request."""
        for fault, count in self._faults:
            if fault.action not in ("*", action) or (fault.share < 1 and self._draw.random() >= fault.share):
                continue
            if count["passed"] < fault.skip:
                count["passed"] += 1
            elif not fault.times or count["done"] < fault.times:
                count["done"] += 1
                self.happened[fault.name] += 1
                return fault
        return None


# Servers -----------------------------------------------------------------------------------------------------------------


class EmulatorServer(ABC):
    """A server that listens: `start()` from anywhere, `serve()` on a loop of your own.

    It lives on one loop in one thread. What another thread touches is under `lock`.
    """

    def __init__(self, port: int = 0, clock: Clock | None = None) -> None:
        """Port 0 takes a free one. Without a clock of yours, it has one that `advance` moves."""
        self.clock: Clock = clock or MovedClock()
        self.lock: threading.RLock = threading.RLock()
        self.port: int = port
        self._last_request = time.monotonic()  # noqa: TID251  a moved clock must not end it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._end: asyncio.Event | None = None
        self._error: BaseException | None = None

    @abstractmethod
    async def listen(self) -> int:
        """Take connections on 127.0.0.1 at `port`, and return the port that it is. OSError: it is taken."""

    @abstractmethod
    async def close(self) -> None:
        """Drop every connection."""

    @abstractmethod
    def look_at_all(self) -> None:
        """Let happen what is due by the clock. Called on the server's loop."""

    def start(self) -> Self:
        """Listen, on a thread of its own. Returns when connections are taken."""
        self._thread = threading.Thread(target=self._run, name="cloudq-emulator", daemon=True)
        self._thread.start()
        self._listening.wait()
        if self._error is not None:
            raise self._error
        return self

    def stop(self) -> None:
        """End the thread that `start` made; a second call does nothing. What the queues hold is gone."""
        if self._loop is not None and self._end is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self.serve())
        except BaseException as error:  # whoever waits for it to listen is told
            self._error = error
            self._listening.set()

    async def serve(self) -> None:
        """Listen until `stop`, or until cancelled. OSError: the port is taken."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.current_thread()
        self._end = asyncio.Event()
        self.port = await self.listen()
        self._listening.set()
        try:
            await self._end.wait()
        finally:
            await self.close()

    def on_loop(self, work: Callable[[], None]) -> None:
        """Have something done on the server's loop, from any thread."""
        if self._loop is None:
            return
        if threading.current_thread() is self._thread:
            self._loop.call_soon(work)
        else:
            self._loop.call_soon_threadsafe(work)

    def asked(self) -> None:
        """Note that a request came in."""
        self._last_request = time.monotonic()  # noqa: TID251  as above

    def idle_until(self, linger: float) -> float:
        """Return in how many seconds the last request will be `linger` seconds ago."""
        return self._last_request + linger - time.monotonic()  # noqa: TID251  as above

    def advance(self, seconds: float) -> None:
        """Move the clock, and let what is due by then happen. Callable from any thread."""
        if not isinstance(self.clock, MovedClock):
            raise TypeError("this emulator was given a clock of its own: move that, then call `look`")
        with self.lock:
            self.clock.ahead += seconds
        self.look()

    def look(self) -> None:
        """Look at the clock anew. Callable from any thread; returns when it was done."""
        self.ask(self.look_at_all)

    def ask(self, question: Callable[[], T]) -> T:
        """Have something done on the server's loop, from any thread, and return what it returns."""
        if self._loop is None or threading.current_thread() is self._thread:
            return question()

        async def answer() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(30)


def run(server: EmulatorServer, linger: float | None = None) -> None:
    """Serve until interrupted, or until `linger` seconds after the last request. OSError: the port is taken."""

    async def serve() -> None:
        serving = asyncio.ensure_future(server.serve())
        while linger is not None and not serving.done() and (rest := server.idle_until(linger)) > 0:
            await asyncio.wait([serving], timeout=rest)
        if linger is not None and not serving.done():
            serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


def main(what: str, port: int, make: Callable[[int], EmulatorServer]) -> None:
    """Be the program that `LocalEmulator` starts: read the port from the command line, and serve."""
    parser = argparse.ArgumentParser(description=f"{what} on {_HOST}.")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--linger", type=float, help="End so many seconds after the last request.")
    arguments = parser.parse_args()
    run(make(arguments.port), arguments.linger)


@dataclass(frozen=True, slots=True)
class LocalEmulator:
    """`<scheme>://local`: an emulator as a process of its own, shared by all that say so on this machine.

    The first that needs it starts it. `module` is run with `python -m`, and calls `main`. `answers` returns the pid of the
    emulator that listens on a port, 0 when nobody does; ConfigError when somebody else does.
    """

    scheme: str
    module: str
    answers: Callable[[int], int]

    def ensure(self, port: int) -> str:
        """Return host and port, with a server there. ConfigError: none could be started."""
        if not self.answers(port):
            # In a session of its own: Ctrl-C in a terminal ends the worker there, not the queue that others use.
            command = [sys.executable, "-m", self.module, "--port", str(port), "--linger", str(LINGER)]
            process = subprocess.Popen(  # noqa: S603  a module of the adapter
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            self._wait_for(port, process)
        return f"{_HOST}:{port}"

    def _wait_for(self, port: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START  # noqa: TID251  a real process starts in real time
        while time.monotonic() < deadline:  # noqa: TID251  as above
            if pid := self.answers(port):
                if pid == process.pid:  # else another process was quicker, and that one says so
                    _log.warning(
                        "started the emulator of %s:// on %s:%d, pid %d: in memory, and gone %d min after its last request",
                        self.scheme, _HOST, port, process.pid, LINGER // 60,
                    )  # fmt: skip
                return
            time.sleep(0.02)
        raise ConfigError(
            f"{self.scheme}://local: the emulator did not answer on {_HOST}:{port} within {_START:g} s. "
            f"`cloudq emulate {self.scheme} --port {port}` shows why."
        )

    def taken(self, port: int) -> ConfigError:
        """Return what to raise when the port is somebody else's."""
        return ConfigError(
            f"{self.scheme}://local: port {port} belongs to something else. Choose another: "
            f"{self.scheme}://local?port={port + 1}"
        )
