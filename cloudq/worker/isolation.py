"""Tasks with `isolate=True`: each runs in a process of its own, which is kept for the next.

A worker's thread hands the message over a socket, waits for the answer, and kills the process, with whatever it has started,
when the answer does not come in time. What crashes is that process: the run has failed, and the worker goes on. A process that
dies before the task has begun is replaced, because no run may count that was none. A fresh interpreter is started, not forked:
a fork would take over half-open connections. It ends when the worker's end of the socket is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Literal

import msgspec

from cloudq.clock import Clock
from cloudq.events import Name
from cloudq.execution import Execution, Job
from cloudq.outcome import Failed, NotRun, Outcome, Rejected, Succeeded
from cloudq.worker.held import Held

#: How long a fresh process may take to import the application and start the task, in seconds.
ISOLATED_START = 60.0
#: How often a waiting thread looks whether the lease is lost or the process dead, in seconds.
_LOOK = 0.5
#: How long idle processes may take to end by themselves, all together, in seconds.
_LAST_WORDS = 2.0
#: A task that could not be started is offered again after this many seconds, and no run is counted.
_ANOTHER_TRY = 30.0
#: What a child is told in the middle of a run whose lease is lost.
LOST = b"lost"
#: What a child must not inherit: the pipe that it names is not open there.
_OF_THE_WORKER = ("CLOUDQ_SUPERVISOR_FD", "CLOUDQ_WORKER_INDEX")


class Order(msgspec.Struct, frozen=True):
    """What a child is to run: a task of a module, on a message, with this path to import from."""

    module: str
    task: str
    body: bytes
    attempt: int
    path: list[str]
    log_level: int


class Reply(msgspec.Struct, frozen=True):
    """What a child says: that the task has started, or could not be, or how and when it ended, and which hooks failed."""

    what: Literal["started", "unstarted", "succeeded", "failed", "rejected"]
    text: str = ""
    trace: str = ""
    after: float | None = None
    ended_at: float | None = None
    #: What each said, and its traceback.
    hook_errors: list[tuple[str, str]] = []


class _Unstarted(Exception):
    """The task did not begin to run."""


class _Child:
    """One process, and the worker's end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603  our own module
                    # -P: the working directory must not shadow the standard library before the task's own path is set.
                    [sys.executable, "-P", "-m", "cloudq.worker.child", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={name: value for name, value in os.environ.items() if name not in _OF_THE_WORKER},
                    # A terminal signals its whole group; and so that what a task has started can be killed with it.
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        self._connection = Connection(ours.detach())
        self.used = False

    def send(self, message: bytes) -> None:
        self._connection.send_bytes(message)

    def reply_within(self, seconds: float) -> Reply | None:
        """Return what the child says, or None. EOFError when it is gone, even while something it forked holds its socket."""
        if not self._connection.poll(max(seconds, 0.0)):
            if self._dead() and not self._connection.poll(0):
                raise EOFError
            return None
        return msgspec.msgpack.decode(self._connection.recv_bytes(), type=Reply)

    def kill(self) -> None:
        """End it, and what it has started, now. It is reaped by `end`."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()

    def hang_up(self) -> None:
        """Let it end by itself."""
        self._connection.close()

    def end(self, patience: float = 0.0) -> str:
        """Wait for its end, kill it when that does not come, and return how it ended, in words."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
        code = self._process.wait()
        self._connection.close()
        return f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    def _dead(self) -> bool:
        # Not reaped by this look: its number must stay its own for as long as its group may have to be killed.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Isolation:
    """The processes of the isolated tasks of one worker: as many as ever ran at once."""

    def __init__(self, execution: Execution, clock: Clock) -> None:
        """No process is started before the first task that needs one."""
        self._execution = execution
        self._clock = clock
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._lock = threading.Lock()
        self._draining = False
        self._ending = False

    def run(self, held: Held) -> Outcome:
        """Run the task in a process of its own, and return when it has ended."""
        job = held.job
        assert job is not None
        reason = ""
        for _ in range(2):  # a process that waited may be dead; a fresh one that does not start either is no accident
            try:
                child = self._take()
            except OSError as error:
                reason = f"no process could be started: {error}"
                break
            if child is None:
                return NotRun()
            try:
                return self._run_in(child, held, job)
            except _Unstarted as error:
                reason = str(error)
            if not child.used:
                break
        if not self._ending:
            self._execution.report(Name.FAILED, job, error=f"it could not be started in a process of its own: {reason}")
        return NotRun(delay=0.0 if self._draining else _ANOTHER_TRY)

    def begin_no_more(self) -> None:
        """Start no task from here on. One whose order is on its way to its process begins."""
        with self._lock:
            self._draining = True

    def cancel_all(self) -> None:
        """Kill what runs: it ends as NotRun. Nothing is started any more."""
        with self._lock:
            self._draining = self._ending = True
            for child in self._busy:
                child.kill()

    def stop(self) -> None:
        """Let the idle ones end, all at once and within a moment, and kill the others: their threads reap them."""
        self.cancel_all()
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.hang_up()
        deadline = self._clock.monotonic() + _LAST_WORDS
        for child in idle:
            child.end(max(0.0, deadline - self._clock.monotonic()))

    def _take(self) -> _Child | None:
        """Return a process for this run; None when the worker ends."""
        with self._lock:
            if self._draining:
                return None
            if self._idle:
                child = self._idle.pop()  # the last that was used: those that are not needed stay untouched
                self._busy.add(child)
                return child
        child = _Child()
        with self._lock:
            if not self._draining:
                self._busy.add(child)
                return child
        child.kill()
        child.end()
        return None

    def _run_in(self, child: _Child, held: Held, job: Job) -> Outcome:
        try:
            ended = self._converse(child, held, job)
        except _Unstarted:
            self._drop(child)
            raise
        except (EOFError, OSError):
            ended = f"ChildProcessError: the process of the task {self._drop(child, _LAST_WORDS)}"
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            self._drop(child)
            ended = f"ChildProcessError: the process of the task answered nonsense: {error}"
        if isinstance(ended, Reply):
            self._give_back(child)
            return self._outcome(job, ended)
        self._drop(child)
        if self._ending:
            return NotRun(started=True)
        outcome = Failed(ended)
        self._execution.failed_outside(job, outcome, held.told_lost)
        return outcome

    def _give_back(self, child: _Child) -> None:
        child.used = True
        with self._lock:
            self._busy.discard(child)
            if not self._ending:
                self._idle.append(child)
                return
        child.hang_up()
        child.end(_LAST_WORDS)

    def _drop(self, child: _Child, patience: float = 0.0) -> str:
        """Kill it, or give it a moment in which it ends by itself, and return how it ended."""
        how = child.end(patience)
        with self._lock:
            self._busy.discard(child)
        return how

    def _converse(self, child: _Child, held: Held, job: Job) -> Reply | str:
        """Hand the message over and return how the run ended, or in words what did not come in time."""
        self._start(child, held, job)
        self._execution.started(job)
        timeout = job.task.timeout
        deadline = float("inf") if timeout is None else self._clock.monotonic() + timeout
        told = False
        while True:
            rest = deadline - self._clock.monotonic()
            reply = child.reply_within(min(rest, _LOOK))
            if reply is not None:
                return reply
            if rest <= 0:
                return f"timed out after {timeout:g} s; its process was killed"
            if not told and held.told_lost():
                told = True
                child.send(LOST)

    def _start(self, child: _Child, held: Held, job: Job) -> None:
        """Hand the message over and wait until the task has begun."""
        order = Order(
            job.task.function.__module__,
            job.task.name,
            bytes(held.delivery.body),
            job.attempt,
            [os.fspath(entry) for entry in sys.path],
            logging.getLogger().getEffectiveLevel(),
        )
        try:
            child.send(msgspec.msgpack.encode(order))
            reply = child.reply_within(ISOLATED_START)
        except (EOFError, OSError, msgspec.MsgspecError, TypeError, ValueError) as error:
            raise _Unstarted(f"its process ended: {error!r}") from error
        if reply is None:
            raise _Unstarted(f"its process did not begin within {ISOLATED_START:g} s")
        if reply.what != "started":
            raise _Unstarted(reply.text)

    def _outcome(self, job: Job, reply: Reply) -> Outcome:
        job.ended_at = reply.ended_at or self._clock.time()
        for error, trace in reply.hook_errors:
            self._execution.hook_failed(job, error, trace)
        match reply.what:
            case "succeeded":
                return Succeeded()
            case "rejected":
                return Rejected(reply.text)
            case _:
                return Failed(reply.text, reply.trace, reply.after)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return f"signal {number}"
