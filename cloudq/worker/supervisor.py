"""`--processes N`: a parent that keeps N workers alive. It holds no connection and runs no task.

Each child is a fresh interpreter running the same command (a fork would take over half-open connections), receives for
itself, and drains when the supervisor is gone. A child that dies is replaced, later each time it dies early; signals are
passed on.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

from cloudq.clock import Clock
from cloudq.worker.health import LIVE, READY, HealthServer, of_children
from cloudq.worker.process import SUPERVISOR_FD, WORKER_INDEX

#: A child that lived shorter than this, in seconds, failed to start, and the next one waits.
_EARLY = 5.0
#: How long a child may take to import the application until it must answer for its health, in seconds.
_STARTING = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: How a child ends that gets its first signal while it still imports: nothing is in its hands yet, so it is no failure.
_NOT_YET_UP = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)
#: Exit code of a wrong command line or setting: no child will do better.
_USAGE = 2


@dataclass(slots=True)
class _Child:
    index: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _FIRST_PAUSE
    start_at: float = 0.0
    done: bool = field(default=False)


class Supervisor:
    """Keeps processes of one command running until it is told to stop."""

    def __init__(self, command: Sequence[str], processes: int, clock: Clock, health_port: int | None = None) -> None:
        """`command` is run with two variables set: which child it is, and the pipe that tells it that we live.

        At `health_port` it answers for its children, which answer at the ports behind it.
        """
        self._command = list(command)
        self._children = [_Child(index) for index in range(processes)]
        self._clock = clock
        self._health_port = health_port
        self._stopping = False
        self._arrived: list[int] = []
        self._worked = False
        self._passed_on = 0
        self._exit_code = 0
        # Signals arrive as bytes on this pipe, so that waiting for them and for children is one wait.
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        self._alive, self._keep = os.pipe()

    def run(self) -> int:
        """Run until stopped, or until every child has ended by itself with 0 (a burst). Returns the exit code."""
        previous = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        }
        try:
            with self._answering(), selectors.DefaultSelector() as selector:
                selector.register(self._woken, selectors.EVENT_READ)
                while not all(child.done for child in self._children):
                    self._start_due()
                    selector.select(self._until_next_start())
                    self._drain_wake_pipe()
                    self._pass_signals_on()
                    self._reap()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            for descriptor in (self._woken, self._wake, self._alive, self._keep):
                os.close(descriptor)
        return self._exit_code

    def _answering(self) -> contextlib.AbstractContextManager[object]:
        if self._health_port is None:
            return contextlib.nullcontext()
        return HealthServer(
            self._health_port, of_children(self._ports_of_the_old, LIVE), of_children(self._ports_of_all, READY)
        )

    def _ports_of_all(self) -> list[int]:
        return [self._port_of(child) for child in self._children if not child.done]

    def _ports_of_the_old(self) -> list[int]:
        """Of the children that have had time to start: what does not, is started again from here, not by the platform."""
        now = self._clock.monotonic()
        up = [child for child in self._children if child.process is not None and now - child.started > _STARTING]
        return [self._port_of(child) for child in up]

    def _port_of(self, child: _Child) -> int:
        assert self._health_port is not None
        return self._health_port + 1 + child.index

    def _start_due(self) -> None:
        now = self._clock.monotonic()
        for child in self._children:
            if child.process is None and not child.done and now >= child.start_at:
                child.process = subprocess.Popen(  # noqa: S603  our own command
                    self._command,
                    env={**os.environ, WORKER_INDEX: str(child.index), SUPERVISOR_FD: str(self._alive)},
                    pass_fds=[self._alive],
                    # A terminal signals its whole group: the children hear of it once, from here.
                    process_group=0,
                )
                child.started = now

    def _until_next_start(self) -> float | None:
        waiting = [child.start_at for child in self._children if child.process is None and not child.done]
        return max(0.0, min(waiting) - self._clock.monotonic()) if waiting else None

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            code = child.process.returncode
            child.process = None
            if self._stopping or code == 0:
                child.done = True
                if not (self._passed_on == 1 and code in _NOT_YET_UP):
                    self._exit_code = self._exit_code or (code if code >= 0 else 128 - code)
            elif code == _USAGE and not self._worked:
                self._stop()
                child.done = True
                self._exit_code = _USAGE
            else:
                self._replace_later(child, code)

    def _replace_later(self, child: _Child, code: int) -> None:
        now = self._clock.monotonic()
        early = now - child.started < _EARLY
        self._worked = self._worked or not early
        wait = child.pause if early else 0.0
        child.pause = min(child.pause * 2, _LONGEST_PAUSE) if early else _FIRST_PAUSE
        child.start_at = now + wait
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        sys.stderr.write(
            f"cloudq: worker process {child.index} {how}; its unfinished work comes back when the leases end. "
            f"Starting another{f' in {wait:g} s' if wait else ''}.\n"
        )

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Only noted: the loop may be in the middle of starting a child.
        if number != signal.SIGCHLD:
            self._arrived.append(number)
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: one is as good as many
            os.write(self._wake, b"!")

    def _pass_signals_on(self) -> None:
        # Each as SIGTERM: of a SIGINT, a child that still imports makes an exception, and an exit code like any failure's.
        while self._arrived:
            self._arrived.pop(0)
            self._stop()

    def _stop(self) -> None:
        """Pass the signal on: the children know the difference between the first and the second."""
        self._stopping = True
        self._passed_on += 1
        for child in self._children:
            if child.process is None:
                child.done = True
            else:
                child.process.terminate()

    def _drain_wake_pipe(self) -> None:
        selector = selectors.DefaultSelector()
        with selector:
            selector.register(self._woken, selectors.EVENT_READ)
            while selector.select(0):
                os.read(self._woken, 512)
