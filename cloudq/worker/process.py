"""One worker process: the engine with real connections, real threads and the operating system's signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

from cloudq import mapping
from cloudq.app import CloudQ
from cloudq.clock import Clock
from cloudq.driver import Driver, Part
from cloudq.durations import seconds
from cloudq.errors import ConfigError, nearest
from cloudq.execution import Execution
from cloudq.middleware import Middleware
from cloudq.opening import open_driver, refuse_impossible
from cloudq.sending import Sender
from cloudq.task import Task
from cloudq.worker.engine import Engine
from cloudq.worker.health import HealthServer, Heartbeat
from cloudq.worker.held import Station
from cloudq.worker.runners import Runner, ThreadRunner

#: The supervisor holds the other end of this pipe: when it is gone, so is the supervisor, and the worker drains.
SUPERVISOR_FD = "CLOUDQ_SUPERVISOR_FD"
#: Two signals within this many seconds are one request: `timeout`, for one, signals its child and its group.
_ONE_REQUEST = 0.3
#: Which of the supervisor's processes this is, from 0. The first runs the pump.
WORKER_INDEX = "CLOUDQ_WORKER_INDEX"
#: This process was started by a supervisor, which has said all there is to say about it.
SUPERVISED = SUPERVISOR_FD in os.environ


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a worker is to do."""

    queues: Sequence[str]
    concurrency: int = 10
    grace: float = 25.0
    burst: bool = False
    pump: bool = True


def plan(
    app: CloudQ, queues: Sequence[str] = (), concurrency: int | None = None, *, burst: bool = False, pump_only: bool = False
) -> Plan:
    """Return the plan: the given queues, or every declared one. `pump_only` runs no task.

    ConfigError for a queue that nothing declares, and for a setting that its provider cannot keep.
    """
    known = app.queue_names()
    if not known:
        raise ConfigError("the application declares no task and its settings name no queue: there is nothing to work on.")
    for queue in queues:
        if queue not in known:
            raise ConfigError(f"no task is declared on the queue {queue!r}.{nearest(queue, known)}")
    for task in app.declared.as_mapping().values():
        task.signature.prepare()
        if task.isolate:
            _importable(task)
    mapping.refuse_findings(app, queues or known)
    settings = app.settings.worker
    return Plan(
        queues=tuple(queues) or tuple(known),
        concurrency=0 if pump_only else concurrency or settings.concurrency,
        grace=seconds(settings.grace),
        burst=burst,
        pump=pump_only or os.environ.get(WORKER_INDEX, "0") == "0",
    )


def _importable(task: Task[Any, Any]) -> None:
    """Raise ConfigError for an isolated task that its own process could not find."""
    name = task.function.__module__
    found = vars(sys.modules.get(name, sys)).values()
    if name == "__main__" or not any(value is task for value in found):
        raise ConfigError(
            f"the task {task.name} has isolate=True, and a process of its own could not import it as a variable of the module "
            f"{name}. Declare it at the level of a module that is imported, not run, and leave it its name there."
        )


def serve(app: CloudQ, work: Plan, health_port: int | None = None) -> None:
    """Work until SIGTERM or SIGINT, or to the end of a burst. Raises what broke the engine."""
    # First of all, so that a signal during the start is not the default's sudden death.
    stop = _Stop(app.clock)
    with stop:
        asyncio.run(_serve(app, work, stop, health_port))


async def _serve(app: CloudQ, work: Plan, stop: _Stop, health_port: int | None) -> None:
    heartbeat = Heartbeat(app.clock)
    engine: Engine | None = None

    def unready() -> str:
        return "it starts" if engine is None else engine.unready()

    async with AsyncExitStack() as stack:
        if health_port is not None:
            stack.enter_context(HealthServer(health_port, heartbeat.live, unready))
            beating = asyncio.create_task(heartbeat.run())
            stack.callback(beating.cancel)
        engine = await stack.enter_async_context(engine_of(app, work))
        stop.watch(asyncio.get_running_loop(), engine.drain)
        await engine.run()


@asynccontextmanager
async def working(app: CloudQ, work: Plan) -> AsyncGenerator[Engine]:
    """Have a worker on the running loop for the length of a block, drained at its end: for tests and embedding.

    What breaks the engine meanwhile is raised at the end of the block.
    """
    async with engine_of(app, work) as engine:
        running = asyncio.create_task(engine.run())
        try:
            yield engine
        finally:
            engine.drain()
            await running


@asynccontextmanager
async def engine_of(
    app: CloudQ,
    work: Plan,
    runner: Callable[[Execution], Runner] | None = None,
    outermost: Sequence[Middleware] = (),
    handed: Callable[[str], Driver] | None = None,
) -> AsyncGenerator[Engine]:
    """Have an engine with connections of its own, not yet running. `runner` and `outermost` middleware are for test kits.

    `handed` opens, for a provider URL, a driver whose messages a platform hands over (`cloudq.functions`).
    """
    async with _stations(app, work.queues, handed) as stations:
        grace = seconds(app.settings.worker.unknown_grace)
        middleware = [*outermost, *app.middlewares]
        execution = Execution(app.declared, app.clock, app.events, app.draw, grace, middleware)
        yield Engine(
            stations,
            execution,
            ThreadRunner(execution, work.concurrency, app.clock) if runner is None else runner(execution),
            clock=app.clock,
            events=app.events,
            draw=app.draw,
            concurrency=work.concurrency,
            grace=work.grace,
            burst=work.burst,
            pump=work.pump,
        )


@asynccontextmanager
async def _stations(
    app: CloudQ, queues: Sequence[str], handed: Callable[[str], Driver] | None
) -> AsyncGenerator[list[Station]]:
    """Open one driver for each provider, and close them at the end."""
    drivers: dict[str, Driver] = {}
    senders: dict[str, Sender] = {}
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    try:
        stations: list[Station] = []
        for name in queues:
            url = app.url_of(name)
            if url not in drivers:
                drivers[url] = open_driver(url, app.clock) if handed is None else handed(url)
                senders[url] = Sender(drivers[url], app.clock, spawn, app.draw)
            addresses = app.addresses(name)
            delay, dead = (next(q for q in addresses if q.part is part) for part in (Part.DELAY, Part.DEAD))
            for queue in (q for q in addresses if q.part is Part.MAIN):
                refuse_impossible(queue, drivers[url].limits)
                stations.append(Station(queue, dead, delay, drivers[url], senders[url], renews=handed is None))
        yield stations
    finally:
        for driver in drivers.values():
            await driver.aclose()


class _Stop:
    """The first SIGTERM or SIGINT drains, a second one ends at once: the leases bring the work back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: Callable[[], None] | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave back

    def watch(self, loop: asyncio.AbstractEventLoop, drain: Callable[[], None]) -> None:
        """From now on there is an engine to drain."""
        self._loop, self._drain = loop, drain
        inherited = os.environ.get(SUPERVISOR_FD)
        if inherited is not None:
            loop.add_reader(int(inherited), self._supervisor_gone, int(inherited))
        if self._asked_at is not None:
            drain()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = self._clock.monotonic()
        if self._asked_at is not None:
            if now - self._asked_at < _ONE_REQUEST:
                return
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), b"cloudq: second signal, ending at once; unfinished work comes back\n")
            os._exit(128 + number)
        self._ask()

    def _supervisor_gone(self, descriptor: int) -> None:
        assert self._loop is not None
        self._loop.remove_reader(descriptor)
        if self._asked_at is None:
            self._ask()

    def _ask(self) -> None:
        self._asked_at = self._clock.monotonic()
        if self._loop is not None and self._drain is not None:
            self._loop.call_soon_threadsafe(self._drain)
