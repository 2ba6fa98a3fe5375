"""The application that storms are run on. Its workers write what they do to ledgers in STORM_DIR, one file a process.

STORM_DIR     where the ledgers are
STORM_AS      "composing": as if the provider could do nothing natively, so that the core composes retries, delays and dead
              letters; "copying": as if it could not move to its dead part
STORM_CLOSED  a file: while it is there, the dead part cannot be written
STORM_WORKER  set in the processes that work
STORM_CRASH   a named point at which the process ends without a word, and at which occurrence: "ack main before:2"
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from pathlib import Path
from typing import Self

from cloudq import Backoff, CloudQ, Context, Reject
from cloudq.driver import Delivery, Part
from cloudq.envelope import Envelope, decode
from cloudq.errors import Unavailable
from cloudq.events import Event, Name
from cloudq.worker import process
from support.gil import hold_the_lock
from support.ledger import FileLedger
from support.oracle import TOLD
from support.wrapped import COMPOSING, COPYING, Wrapped

ledger = FileLedger(Path(os.environ["STORM_DIR"]))
_runs = itertools.count(1)
_occurrences: dict[str, itertools.count[int]] = {}
_point, _, _nth = os.environ.get("STORM_CRASH", "").rpartition(":")
_closed = os.environ.get("STORM_CLOSED", "")
#: By task id, the run under way, where a report concerns it.
_running: dict[str, str] = {}
_lock = threading.Lock()
#: Where the provider has ids of its own: by such an id, the task's. What was not opened is told of under the first.
_ids: dict[str, str] = {}


def now() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # one clock for all processes of the machine


def passing(point: str) -> None:
    """A named point: here the process may end, as by SIGKILL, or the provider be away."""
    if point in ("send dead before", "dead_letter main before") and _closed and Path(_closed).exists():
        ledger.write("fault", at=now(), what=f"the dead part is closed: {point}")
        raise Unavailable("the dead part is closed")
    if point != _point:
        return
    with _lock:
        nth = next(_occurrences.setdefault(point, itertools.count(1)))
    if nth == int(_nth):
        ledger.write("fault", at=now(), what=f"crash at: {point}")
        os._exit(9)


app = CloudQ()  # the URL and the lease are in the environment and in the cloudq.toml of the working directory


class _Run:
    """One run, in the ledger from its start to its end. `well` is for its task to say."""

    def __init__(self, ctx: Context, **place: object) -> None:
        self._place = place
        self._task_id = ctx.task_id
        self._run = f"{os.getpid()}-{next(_runs)}"
        self.well = True

    def __enter__(self) -> Self:
        _running[self._task_id] = self._run
        ledger.write("start", self._task_id, run=self._run, at=now(), **self._place)
        passing("task begun")
        return self

    def __exit__(self, *exc: object) -> None:
        self.well = self.well and exc[0] is None
        ledger.write("end", self._task_id, run=self._run, at=now(), well=self.well)
        _running.pop(self._task_id, None)


@app.task(queue="storm", name="work", retry=Backoff(first=0.2, cap=1))
def work(ctx: Context, length: float) -> None:
    with _Run(ctx):
        time.sleep(length)


@app.task(queue="storm", name="few", retry=Backoff(max_attempts=2, first=0.2, cap=1))
def few(ctx: Context, length: float) -> None:
    with _Run(ctx):
        time.sleep(length)


@app.task(queue="storm", name="flaky", retry=Backoff(max_attempts=5, first=0.2, cap=0.4))
def flaky(ctx: Context, length: float, fails: int) -> None:
    with _Run(ctx):
        time.sleep(length)
        if ctx.attempt <= fails:
            raise RuntimeError("told to")


@app.task(queue="storm", name="step", retry=Backoff(max_attempts=8, first=0.2, cap=0.4))
def step(ctx: Context, key: str, number: int, fails: int) -> None:
    with _Run(ctx, lane=key, number=number):
        time.sleep(0.005)
        if ctx.attempt <= fails:
            raise RuntimeError("told to")


@app.task(queue="storm", name="hopeless")
def hopeless(ctx: Context) -> None:
    with _Run(ctx) as run:
        run.well = False
    raise Reject("told to")


@app.task(queue="storm", name="spin", retry=Backoff(first=0.2, cap=1))
def spin(ctx: Context, length: float) -> None:
    with _Run(ctx):
        end = time.perf_counter() + length
        while time.perf_counter() < end:
            sum(range(200))


@app.task(queue="storm", name="hold", retry=Backoff(first=0.2, cap=1))
def hold(ctx: Context, length: float) -> None:
    with _Run(ctx):
        hold_the_lock(length if ctx.attempt == 1 else 0.0)


@app.task(queue="storm", name="hold_isolated", retry=Backoff(first=0.2, cap=1), isolate=True)
def hold_isolated(ctx: Context, length: float) -> None:
    with _Run(ctx):
        hold_the_lock(length)


@app.task(queue="storm", name="deadly", retry=Backoff(max_attempts=2))
def deadly(ctx: Context) -> None:
    _Run(ctx).__enter__()
    ledger.write("fault", ctx.task_id, at=now(), what="the task ends its process")
    os._exit(13)


@app.task(queue="storm", name="nothing")
def nothing() -> None: ...


_CAUSES = frozenset({Name.LEASE_LOST, Name.SETTLE_LOST, Name.SETTLE_UNKNOWN, Name.RETRIED, Name.INTERRUPTED})


def observe(event: Event) -> None:
    # The provider's id of a copy, where the message was not opened, ends in its generation.
    task_id = (event.task_id or str(event.detail.get("task_id", ""))).split(":")[0]
    task_id = _ids.get(task_id, task_id)
    if event.name.value in TOLD and task_id:
        ledger.write("told", task_id, at=now(), what=event.name.value, attempt=event.attempt)
    if event.name is Name.WORKER_STARTED:
        ledger.write("began", at=now())
    if event.name is Name.WORKER_DRAINING:
        ledger.write("draining", at=now())
    if event.name in _CAUSES and not event.attempt and not event.detail.get("step"):  # what was not run is no second run
        ledger.write("doubt", task_id, at=now())
    elif event.name in _CAUSES:
        what = event.name.value if not event.detail.get("step") else "copy unknown"
        ledger.write("cause", task_id, at=now(), what=what, attempt=event.attempt)
    if event.name in (Name.LEASE_LOST, Name.INTERRUPTED) and task_id in _running:
        ledger.write("loose", task_id, at=now(), run=_running[task_id])
    if event.name in (Name.SETTLE_UNKNOWN, Name.SETTLE_LOST) and _less is not None:
        ledger.write("copy", task_id, at=now())
    passing(f"event {event.name.value}")


def received(delivery: Delivery) -> None:
    """In hand from here on: under the task's id, whatever id the provider has for it."""
    envelope = decode(delivery.body)
    if isinstance(envelope, Envelope) and not app.url_of("storm").startswith("sqlite:"):
        _ids[delivery.message_id] = envelope.id
    if delivery.queue.part is Part.MAIN:
        ledger.write("received", _ids.get(delivery.message_id, delivery.message_id), at=now())


_less = {"composing": COMPOSING, "copying": COPYING}.get(os.environ.get("STORM_AS", ""))
app.events.add(observe)
if os.environ.get("STORM_WORKER"):  # not in the process that enqueues and watches
    _open = process.open_driver
    process.open_driver = lambda url, clock: Wrapped(_open(url, clock), _less, passing, received)
