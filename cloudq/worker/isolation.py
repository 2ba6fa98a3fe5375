"""Tasks with `isolate=True`: each thread of the worker that runs one has a process for it, kept for the next.

The thread hands the message over a socket, waits for the answer, and kills the process when it does not come in time. What
crashes is that process: the run has failed, and the worker goes on. A fresh interpreter is started, not forked: a fork would
take over half-open connections. It ends by itself when the worker's end of the socket is gone.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Literal

import msgspec

from cloudq.clock import Clock
from cloudq.execution import Execution, Job
from cloudq.outcome import Failed, NotRun, Outcome, Rejected, Succeeded
from cloudq.worker.held import Held

#: How long a fresh process may take to import the application and start the task, in seconds.
ISOLATED_START = 60.0
#: How often a waiting thread looks whether the lease is lost, in seconds.
_LOOK = 0.5
#: How long a process may take to end by itself, in seconds.
_LAST_WORDS = 2.0
#: What a child is told in the middle of a run whose lease is lost.
LOST = b"lost"


class Order(msgspec.Struct, frozen=True):
    """What a child is to run: a task of a module, on a message, with this path to import from."""

    module: str
    task: str
    body: bytes
    attempt: int
    path: list[str]
    log_level: int


class Reply(msgspec.Struct, frozen=True):
    """What a child says: that the task has started, or how and when it ended, and which hooks failed."""

    what: Literal["started", "succeeded", "failed", "rejected"]
    text: str = ""
    trace: str = ""
    after: float | None = None
    ended_at: float | None = None
    hook_errors: list[str] = []


class _Child:
    """One process, and the worker's end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-m", "cloudq.worker.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A terminal signals its whole group; when this one ends is the worker's decision.
                process_group=0,
            )
        self._connection = Connection(ours.detach())

    def send(self, message: bytes) -> None:
        self._connection.send_bytes(message)

    def reply_within(self, seconds: float) -> Reply | None:
        """Return what the child says, or None. EOFError or OSError when it is gone."""
        if not self._connection.poll(seconds):
            return None
        return msgspec.msgpack.decode(self._connection.recv_bytes(), type=Reply)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> int:
        """Wait for its end, which comes when its socket is gone. Returns how it ended, as Popen does.

        One that does not notice, because its code holds the interpreter's lock, is killed.
        """
        self._connection.close()
        try:
            return self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Isolation:
    """The processes of the isolated tasks of one worker."""

    def __init__(self, execution: Execution, clock: Clock) -> None:
        """No process is started before the first task that needs one."""
        self._execution = execution
        self._clock = clock
        self._mine = threading.local()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._cancelled = False

    def run(self, held: Held) -> Outcome:
        """Run the task in the process of this thread, and return when it has ended."""
        job = held.job
        assert job is not None
        try:
            child = self._child()
        except OSError as error:
            outcome = Failed(f"ChildProcessError: the process of the task could not be started: {error}")
        else:
            try:
                ended = self._converse(child, held, job)
            except (EOFError, OSError):
                outcome = Failed(f"ChildProcessError: the process of the task {_ending(self._forget(child))}")
            else:
                if isinstance(ended, Reply):
                    return self._outcome(job, ended)
                child.kill()
                self._forget(child)
                outcome = Failed(ended)
        if self._cancelled:
            return NotRun(started=True)
        self._execution.failed_outside(job, outcome, held.told_lost)
        return outcome

    def cancel_all(self) -> None:
        """Kill what runs: it ends as NotRun."""
        self._cancelled = True
        with self._lock:
            for child in self._children:
                child.kill()

    def stop(self) -> None:
        """Let them end."""
        with self._lock:
            children, self._children = self._children, set()
        for child in children:
            child.close()

    def _child(self) -> _Child:
        child: _Child | None = getattr(self._mine, "child", None)
        if child is None:
            child = self._mine.child = _Child()
            with self._lock:
                self._children.add(child)
        return child

    def _forget(self, child: _Child) -> int:
        self._mine.child = None
        with self._lock:
            self._children.discard(child)
        return child.close()

    def _converse(self, child: _Child, held: Held, job: Job) -> Reply | str:
        """Hand the message over and return how the run ended, or in words what did not come in time."""
        task = job.task
        order = Order(
            task.function.__module__,
            task.name,
            bytes(held.delivery.body),
            job.attempt,
            sys.path,
            logging.getLogger().getEffectiveLevel(),
        )
        child.send(msgspec.msgpack.encode(order))
        reply = child.reply_within(ISOLATED_START)
        if reply is None:
            return f"the process of the task did not start within {ISOLATED_START:g} s and was killed"
        if reply.what != "started":
            return reply
        self._execution.started(job)
        deadline = float("inf") if task.timeout is None else self._clock.monotonic() + task.timeout
        told = False
        while (rest := deadline - self._clock.monotonic()) > 0:
            reply = child.reply_within(min(rest, _LOOK))
            if reply is not None:
                return reply
            if not told and held.told_lost():
                told = True
                child.send(LOST)
        return f"timed out after {task.timeout:g} s; its process was killed"

    def _outcome(self, job: Job, reply: Reply) -> Outcome:
        job.ended_at = reply.ended_at or self._clock.time()
        for error in reply.hook_errors:
            self._execution.hook_failed(job, error)
        match reply.what:
            case "succeeded":
                return Succeeded()
            case "rejected":
                return Rejected(reply.text)
            case _:
                return Failed(reply.text, reply.trace, reply.after)


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
