"""The process of an isolated task. Started by `cloudq.worker.isolation`, it speaks to it over a socket, and reports nothing.

Tasks run on the main thread, where code that wants signals finds them. A second thread listens: for the next message, for the
news that the lease is lost, and for the end of the worker, which is the end of this process too, in the middle of a run or not.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import queue
import random
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from cloudq.app import CloudQ
from cloudq.clock import SystemClock
from cloudq.errors import ConfigError
from cloudq.events import Event, Events, Name
from cloudq.execution import Execution, said
from cloudq.outcome import Failed, Outcome, Rejected, Succeeded
from cloudq.task import Task
from cloudq.worker.isolation import LOST, Order, Reply


class _Line:
    """The socket to the worker."""

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._running = False
        self.lost = False
        threading.Thread(target=self._listen, name="cloudq-isolated", daemon=True).start()

    def next(self) -> Order | None:
        """Return what to run next, None when the worker is gone."""
        self._running = False
        order = self._orders.get()
        self._running = True
        return order

    def say(self, reply: Reply) -> None:
        self._connection.send_bytes(msgspec.msgpack.encode(reply))

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv_bytes()
            except (EOFError, OSError):
                if self._running:
                    os._exit(1)  # nobody waits for this run any more, and its message comes back
                self._orders.put(None)
                return
            if message == LOST:
                self.lost = True
            else:
                self.lost = False
                self._orders.put(msgspec.msgpack.decode(message, type=Order))


def main() -> None:
    """Run what comes until the worker is gone."""
    # When a run ends is the worker's decision: it has the grace, and kills.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = _Line(int(sys.argv[1]))
    while (order := line.next()) is not None:
        if not logging.getLogger().handlers:
            logging.basicConfig(level=order.log_level, format="%(asctime)s %(process)d %(levelname)-7s %(message)s")
        line.say(_run(order, line))
        # Whatever ends this process next, what the task printed is out.
        sys.stdout.flush()
        sys.stderr.flush()


def _run(order: Order, line: _Line) -> Reply:
    sys.path[:] = order.path
    hook_errors: list[str] = []

    def report(event: Event) -> None:
        if event.name is Name.STARTED:
            line.say(Reply("started"))
        elif event.name is Name.HOOK_FAILED:
            hook_errors.append(str(event.detail.get("error", "")))

    clock = SystemClock()
    try:
        task, app = _find(order)
        execution = Execution(app.declared, clock, Events.only(report), random.Random(), middleware=app.middlewares)
        job = execution.reopen(task, order.body, order.attempt)
    except BaseException as error:
        return Reply("failed", f"it could not be started in a process of its own: {said(error)}", ended_at=clock.time())
    lost: Callable[[], bool] = lambda: line.lost  # noqa: E731  a name for one expression
    outcome = asyncio.run(execution.run_async(job, lost)) if task.is_async else execution.run_sync(job, lost)
    return _reply(outcome, job.ended_at or clock.time(), hook_errors)


def _find(order: Order) -> tuple[Task[Any, Any], CloudQ]:
    module = importlib.import_module(order.module)
    apps = [value.app for value in vars(module).values() if isinstance(value, Task) and value.name == order.task]
    for app in apps:
        if isinstance(app, CloudQ):
            return app.declared.named(order.task), app
    raise ConfigError(f"importing {order.module} does not declare the task {order.task!r} at the level of the module")


def _reply(outcome: Outcome, ended_at: float, hook_errors: list[str]) -> Reply:
    match outcome:
        case Succeeded():
            return Reply("succeeded", ended_at=ended_at, hook_errors=hook_errors)
        case Rejected():
            return Reply("rejected", outcome.reason, ended_at=ended_at, hook_errors=hook_errors)
        case Failed():
            return Reply("failed", outcome.error, outcome.trace, outcome.after, ended_at, hook_errors)
        case _:
            return Reply("failed", "CancelledError: the task was cancelled by its own code", ended_at=ended_at)


if __name__ == "__main__":
    main()
