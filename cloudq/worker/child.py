"""The process of an isolated task. Started by `cloudq.worker.isolation`, it speaks to it over a socket, and reports nothing.

Tasks run on the main thread, where code that wants signals finds them. A second thread listens: for the next message, for the
news that the lease is lost, and for the end of the worker, which is the end of this process too, in the middle of a run or not.
Code that holds the interpreter's lock keeps that thread from hearing it; on Linux, the kernel then ends the process.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import logging
import os
import queue
import random
import signal
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import msgspec

from cloudq.app import CloudQ
from cloudq.clock import SystemClock
from cloudq.deadletters import writable
from cloudq.errors import ConfigError
from cloudq.events import Event, Events, Name
from cloudq.execution import Execution, said
from cloudq.outcome import Failed, NotRun, Outcome, Rejected
from cloudq.task import Task
from cloudq.worker.isolation import LOST, Order, Reply

_PR_SET_PDEATHSIG = 1


class _Line:
    """The socket to the worker."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._connection = Connection(descriptor)
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = 0
        self.lost = False
        threading.Thread(target=self._listen, name="cloudq-isolated", daemon=True).start()

    def next(self) -> Order | None:
        """Return what to run next, None when the worker is gone."""
        return self._orders.get()

    def done(self) -> None:
        """What `next` returned has been run."""
        with self._lock:
            self._open -= 1

    def say(self, reply: Reply) -> None:
        try:
            self._connection.send_bytes(msgspec.msgpack.encode(reply))
        except OSError:
            os._exit(1)  # nobody listens any more

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv_bytes()
            except (EOFError, OSError):
                with self._lock:
                    if self._open:
                        os._exit(1)  # nobody waits for this run any more, and its message comes back
                self._orders.put(None)
                return
            if message == LOST:
                self.lost = True
                continue
            self.lost = False
            with self._lock:
                self._open += 1
            self._orders.put(msgspec.msgpack.decode(message, type=Order))


def main() -> None:
    """Run what comes until the worker is gone."""
    # When a run ends is the worker's decision: it has the grace, and kills. Handlers, because what is merely ignored would
    # be ignored by every program that a task starts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _not_now)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    line = _Line(int(sys.argv[1]))
    while (order := line.next()) is not None:
        if not logging.getLogger().handlers:
            logging.basicConfig(level=order.log_level, format="%(asctime)s %(process)d %(levelname)-7s %(message)s")
        reply = _run(order, line)
        # Whatever ends this process next, what the task printed is out.
        sys.stdout.flush()
        sys.stderr.flush()
        line.done()
        line.say(reply)


def _not_now(_number: int, _frame: FrameType | None) -> None: ...


def _run(order: Order, line: _Line) -> Reply:
    sys.path[:] = order.path
    hook_errors: list[tuple[str, str]] = []

    def report(event: Event) -> None:
        if event.name is Name.STARTED:
            line.say(Reply("started"))
        elif event.name is Name.HOOK_FAILED:
            detail = event.detail
            hook_errors.append((writable(str(detail.get("error", ""))), writable(str(detail.get("trace", "")))))

    clock = SystemClock()
    try:
        task, app = _find(order)
        execution = Execution(app.declared, clock, Events.only(report), random.Random(), middleware=app.middlewares)
        job = execution.reopen(task, order.body, order.attempt)
    except BaseException as error:
        return Reply("unstarted", writable(said(error)))

    def lost() -> bool:
        return line.lost

    outcome = asyncio.run(execution.run_async(job, lost)) if task.is_async else execution.run_sync(job, lost)
    return _reply(outcome, job.ended_at or clock.time(), hook_errors)


def _find(order: Order) -> tuple[Task[Any, Any], CloudQ]:
    module = importlib.import_module(order.module)
    apps = [value.app for value in vars(module).values() if isinstance(value, Task) and value.name == order.task]
    for app in apps:
        if isinstance(app, CloudQ):
            return app.declared.named(order.task), app
    raise ConfigError(f"importing {order.module} does not declare the task {order.task!r} at the level of the module")


def _reply(outcome: Outcome, ended_at: float, hook_errors: list[tuple[str, str]]) -> Reply:
    match outcome:
        case Rejected():
            return Reply("rejected", writable(outcome.reason), ended_at=ended_at, hook_errors=hook_errors)
        case Failed():
            error, trace = writable(outcome.error), writable(outcome.trace)
            return Reply("failed", error, trace, outcome.after, ended_at, hook_errors)
        case NotRun():
            return Reply("failed", "the loop of the task was stopped under it", ended_at=ended_at)
        case _:
            return Reply("succeeded", ended_at=ended_at, hook_errors=hook_errors)


if __name__ == "__main__":
    main()
