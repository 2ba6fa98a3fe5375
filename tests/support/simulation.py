"""One seed: the shipped engine on virtual time, with workers that crash and drain and a provider that goes wrong.

Nothing of the engine is replaced but what it is handed: the clock, the random source, the driver and the runner. A run is
drained at the end with all faults off, and then judged. What the simulation cannot show (threads, processes, the GIL, signals)
is tested with real processes.

A scenario that fails gives the same trace again, and is shrunk: to the fewest tasks, workers and faults that still fail.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cloudq import Backoff, CloudQ, Context, Reject, Retry, deadletters
from cloudq.app import _Connection
from cloudq.driver import Part
from cloudq.envelope import decode
from cloudq.errors import EnqueueRejected, EnqueueUnknown, StuckWorker
from cloudq.events import Event, Events, Name
from cloudq.execution import Execution
from cloudq.outcome import NotRun
from cloudq.sending import Sender
from cloudq.worker.engine import Engine
from cloudq.worker.held import Station
from cloudq_local.facts import MEMORY
from cloudq_local.memory import connect
from support import virtual
from support.faults import FaultyBroker, FaultyDriver, Plan
from support.ledger import Ledger
from support.oracle import TOLD, Verdict, judge

TASKS = 50
WORKERS = 3
LEASE = 10.0
#: How often `shrink` tries.
_TRIES = 150

#: What the core can do alone and what a provider does for it, in turns.
PERSONALITIES = {
    "all native": MEMORY.limits,
    "composing": replace(
        MEMORY.limits,
        provider="composing",
        native_dead_letter=False,
        dedup="none",
        counts_crashes=False,
        release_uncounted=False,
        tells_lost=False,
        send_delay=0.0,
        release_delay=60.0,
        ordered_release_delay=60.0,
        ordered_delay=False,
        linger=0.1,
        send_count=10,
        receive_count=10,
        settle_count=10,
    ),
    "copying": replace(
        MEMORY.limits,
        provider="copying",
        counts_crashes=False,
        release_uncounted=False,
        release_delay=0.0,
        ordered_release_delay=60.0,
        ordered_delay=False,
        send_count=10,
        receive_count=10,
        settle_count=10,
    ),
}


class LoopRunner:
    """Runs tasks on the virtual loop itself: they sleep in virtual time and block nobody."""

    def __init__(self, execution):
        self._execution = execution
        self._tasks = set()
        self.dead = False
        self._waiting = {}

    def start(self, done, failed):
        self._done, self._failed = done, failed

    def submit(self, held):
        self._waiting[held] = None
        task = asyncio.get_running_loop().create_task(self._run(held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, held):
        if held not in self._waiting:
            return
        del self._waiting[held]
        outcome = NotRun()
        try:
            outcome = await self._execution.run_async(held.job, held.told_lost)
        finally:
            if not self.dead:
                self._done(held, outcome)

    def begin_no_more(self):
        waiting, self._waiting = self._waiting, {}
        return list(waiting)

    def cancel_all(self):
        for task in sorted(self._tasks, key=lambda task: task.get_name()):
            task.cancel()

    def stop(self):
        pass


@dataclass
class Worker:
    number: int
    engine: Engine
    runner: LoopRunner
    drivers: list[FaultyDriver]
    running: asyncio.Task
    events: Events
    alive: bool = True
    #: The runs under way with their ids (two, where the queue holds two messages of one id), and by id, what was received
    #: and is not known to be settled.
    holds: dict[int, str] = field(default_factory=dict)
    hand: Counter[str] = field(default_factory=Counter)
    #: What was reported retried: if its settlement is not confirmed, the original may be there beside its copy.
    copied: set[tuple[str, int]] = field(default_factory=set)

    def release(self, task_id: str) -> None:
        """One run of this id has ended."""
        run = next((run for run, held in self.holds.items() if held == task_id), None)
        if run is not None:
            del self.holds[run]


@dataclass(frozen=True)
class Scenario:
    """What determines a run, to the last event. `only` are the numbers of the faults that strike, None for all."""

    seed: int
    personality: str | None = None
    tasks: int = TASKS
    workers: int = WORKERS
    only: frozenset[int] | None = None


@dataclass
class Result:
    scenario: Scenario
    personality: str
    verdict: Verdict
    struck: frozenset[int]
    trace: str
    hours: float

    @property
    def bad(self) -> bool:
        """Something was found. A run that shows nothing is not bad: `verdict.clean` tells the two apart."""
        return any(self.verdict.classes.values())

    def __str__(self) -> str:
        scenario = self.scenario
        return (
            f"seed {scenario.seed} ({self.personality}, {self.hours:.1f} h virtual, {scenario.tasks} tasks, "
            f"{scenario.workers} workers): {self.verdict}; trace {self.trace[:12]}"
        )


#: How it is reported that a settlement may not have happened.
_UNSETTLED = (Name.SETTLE_UNKNOWN, Name.SETTLE_LOST, Name.LEASE_LOST)


#: What explains that something runs once more.
_CAUSES = (*_UNSETTLED, Name.RETRIED, Name.INTERRUPTED)


class Simulation:
    def __init__(self, scenario: Scenario, clock):
        self.scenario = scenario
        self.seed = scenario.seed
        self.clock = clock
        self.draw = random.Random(self.seed)
        drawn = self.draw.choice(sorted(PERSONALITIES))
        self.personality = scenario.personality or drawn
        latest = self.draw.choice([0.02, 0.3, 2.0])
        self.plan = Plan(latest=latest, only=scenario.only, observe=lambda what: self.note("fault", what=what))
        facts = replace(MEMORY, limits=PERSONALITIES[self.personality])
        self.broker = FaultyBroker(clock, facts, self.plan, self.draw, self._doubled)
        self.ledger = Ledger()
        self.trace = hashlib.sha256()
        self.runs = 0
        self.number = 0
        self.workers: list[Worker] = []
        self.app = self._app()
        self.idle = asyncio.Event()

    # The application --------------------------------------------------------------------------------------------------

    def _app(self):
        lease = {"lease": LEASE}
        app = CloudQ(
            "memory://unused",
            queues={"main": {**lease, "priorities": ["high", "normal", "low"]}, "ordered": {**lease, "ordered": True}},
            clock=self.clock,
            draw=random.Random(self.seed + 1),
        )
        quick = Backoff(max_attempts=4, first=2, cap=90, factor=4)
        simulation, failures = self, defaultdict(int)

        @app.task(name="work", queue="main", retry=quick, max_concurrency=3)
        async def work(ctx: Context, length: float, fails: int = 0, reject: bool = False) -> None:
            run = simulation.begin(ctx)
            await simulation.busy(ctx, run, length)
            well = False
            try:
                if reject:
                    raise Reject("told to")
                if failures[ctx.task_id] < fails:
                    failures[ctx.task_id] += 1
                    raise Retry(after=7) if failures[ctx.task_id] == 2 else RuntimeError("told to")
                well = True
            finally:
                simulation.end(ctx, run, well)

        @app.task(name="step", queue="ordered", retry=quick)
        async def step(ctx: Context, key: str, number: int, fails: int = 0) -> None:
            run = simulation.begin(ctx, lane=key, number=number)
            await simulation.busy(ctx, run, 0.5)
            well = failures[ctx.task_id] >= fails
            simulation.end(ctx, run, well)
            if not well:
                failures[ctx.task_id] += 1
                raise RuntimeError("told to")

        self.work, self.step = work, step
        return app

    def begin(self, ctx, **facts):
        self.runs += 1
        self.note("start", ctx.task_id, run=self.runs, **facts)
        return self.runs

    def _doubled(self, _what, task_id):
        """The provider has made a second run of this, and perhaps at the same time."""
        self.note("cause", task_id, what="doubled")
        self.note("copy", task_id)

    async def busy(self, ctx, run, length):
        try:
            await asyncio.sleep(length)
        except asyncio.CancelledError:  # killed, or out of grace: either way this run is over
            self.note("loose", ctx.task_id, run=run)
            raise

    def end(self, ctx, run, well):
        self.note("end", ctx.task_id, run=run, well=well)

    def note(self, kind, task_id="", **facts):
        self.ledger.write(kind, task_id, **facts)
        self.trace.update(f"{self.clock.monotonic():.6f} {kind} {task_id} {sorted(facts.items())}\n".encode())

    # Producing --------------------------------------------------------------------------------------------------------

    async def produce(self, count):
        driver = FaultyDriver(connect(self.broker), self.plan, self.draw)
        sender = Sender(driver, self.clock, asyncio.get_running_loop().create_task, self.draw)
        self.app._connections["memory://unused"] = _Connection(driver, sender)
        for number in range(count):
            await asyncio.sleep(self.draw.uniform(0, 3))
            await self._enqueue(self._message(number))

    def _message(self, number):
        draw = self.draw
        if number % 5 == 0:
            key = draw.choice("abc")
            return self.step.options(ordering_key=key).message(key, number, fails=draw.choice([0, 0, 0, 1]))
        options = {"priority": draw.choice(["high", "normal", "low"])}
        if number % 7 == 0:
            options["delay"] = draw.choice([5, 40, 150])
        if number % 11 == 0:
            options["expires"] = draw.choice([0.5, 900])
        length = draw.choice([0.01, 0.5, 3.0, 2.5 * LEASE])
        fails = draw.choice([0, 0, 0, 1, 2, 9])
        return self.work.options(**options).message(length, fails=fails, reject=number % 13 == 0)

    async def _enqueue(self, message):
        self.note("attempt", message.task_id)
        while True:
            try:
                await self.app._enqueue(message)
            except EnqueueUnknown:
                self.note("unknown", message.task_id)
                self.note("cause", message.task_id, what="sent again")
                self.note("copy", message.task_id)
                await asyncio.sleep(1.0)
            except EnqueueRejected:
                self.note("failed", message.task_id)
                return
            else:
                self.note("acked", message.task_id)
                return

    # Working ----------------------------------------------------------------------------------------------------------

    def hire(self):
        self.number += 1
        events = Events()
        driver = FaultyDriver(connect(self.broker), self.plan, self.draw)
        sender = Sender(driver, self.clock, asyncio.get_running_loop().create_task, self.draw)
        stations = []
        for name in ("main", "ordered"):
            addresses = self.app.addresses(name)
            delay, dead = (next(q for q in addresses if q.part is part) for part in (Part.DELAY, Part.DEAD))
            stations += [Station(q, dead, delay, driver, sender) for q in addresses if q.part is Part.MAIN]
        execution = Execution(self.app.declared, self.clock, events, self.draw)
        runner = LoopRunner(execution)
        engine = Engine(stations, execution, runner, clock=self.clock, events=events, draw=self.draw, concurrency=4, grace=15.0)
        worker = Worker(self.number, engine, runner, [driver], None, events)
        events.add(lambda event: self._observe(worker, event))
        worker.running = asyncio.get_running_loop().create_task(engine.run())
        worker.running.add_done_callback(lambda running: self._over(worker, running))
        self.workers.append(worker)
        return worker

    def _over(self, worker, running):
        """An engine with every slot held by a lost run ends its process, and a supervisor would start another."""
        if worker.alive and not running.cancelled() and isinstance(running.exception(), StuckWorker):
            self.kill(worker)
            self.hire()

    def _observe(self, worker, event: Event):
        if not worker.alive:
            return
        self.trace.update(
            f"{event.at:.6f} {worker.number} {event.name.value} {event.task_id} {sorted(event.detail.items())}\n".encode()
        )
        task_id = event.task_id
        if task_id and event.name.value in TOLD:
            # The provider's id of a copy, where the message was not opened, ends in its generation.
            self.note("told", task_id.split(":")[0], what=event.name.value, worker=worker.number, attempt=event.attempt)
        match event.name:
            case Name.STARTED:
                # The run itself is noted by the task, right after this.
                worker.holds[self.runs + 1] = task_id
            case Name.SUCCEEDED | Name.FAILED | Name.REJECTED | Name.INTERRUPTED:
                worker.release(task_id)
            case Name.LEASE_LOST:
                for run in [run for run, held in worker.holds.items() if held == task_id]:
                    self.note("loose", task_id, run=run)
            case Name.RECEIVED:
                worker.hand[str(event.detail["message_id"]).split(":")[0]] += 1
            case Name.DEAD_LETTERED if not self.broker.limits.native_dead_letter:
                pass  # the copy is there; the original is still to be acked
            case Name.ACKED | Name.RELEASED | Name.DEAD_LETTERED:
                worker.hand[task_id.split(":")[0]] -= 1
            case Name.SETTLE_UNKNOWN if event.detail.get("step"):
                self.note("copy", task_id or str(event.detail.get("task_id", "")))
            case _:
                pass
        if event.name in (Name.RETRIED, Name.RELEASED):
            worker.copied.add((task_id, event.attempt))
        if event.name in _UNSETTLED and (task_id, event.attempt) in worker.copied:
            self.note("copy", task_id)
        if event.name in _CAUSES and not event.attempt and not event.detail.get("step"):  # what was not run is no second run
            self.note("doubt", task_id.split(":")[0])
        elif event.name in _CAUSES:
            what = event.name.value if not event.detail.get("step") else "copy unknown"
            of = task_id or str(event.detail.get("task_id", ""))
            self.note("cause", of.split(":")[0], what=what, worker=worker.number, attempt=event.attempt)

    def kill(self, worker):
        """What SIGKILL does: no call has an effect any more, nothing is told, nothing is cleaned up."""
        worker.alive = False
        worker.runner.dead = True
        for driver in worker.drivers:
            driver.cut = True
        for run, task_id in sorted(worker.holds.items()):
            self.note("cause", task_id, what="killed")
            self.note("loose", task_id, run=run)
        # What had ended but was not acked runs again, and its copy, where one was being made, may be there already.
        for task_id in sorted(+worker.hand):
            for _ in range(worker.hand[task_id] - list(worker.holds.values()).count(task_id)):
                self.note("cause", task_id, what="killed before the ack")
                self.note("copy", task_id)
        for task_id in sorted(driver.pumped[key] for driver in worker.drivers for key in driver.pumped):
            self.note("cause", task_id, what="killed in a hop")
            self.note("copy", task_id)
        worker.running.cancel()
        for task in sorted(worker.runner._tasks, key=lambda task: task.get_name()):
            task.cancel()
        self.workers.remove(worker)

    # The whole --------------------------------------------------------------------------------------------------------

    async def run(self) -> Result:
        draw, plan = self.draw, self.plan
        for _ in range(self.scenario.workers):
            self.hire()
        producing = asyncio.get_running_loop().create_task(self.produce(self.scenario.tasks))
        while not producing.done():
            await asyncio.sleep(draw.uniform(5, 40))
            worker, kind = draw.choice(self.workers), draw.random()
            if kind < 0.25 and plan.hits["crash"] + plan.hits["drain"]:  # never the first: each run has its worker that goes
                await self._blackout(draw.uniform(2, 25))
            elif kind < 0.7 and plan.strike("crash"):
                self.kill(worker)
                await asyncio.sleep(draw.uniform(0, 5))
                self.hire()
            elif plan.strike("drain"):
                worker.engine.drain()
                await asyncio.wait([worker.running])
                if worker in self.workers:
                    worker.running.result()
                    self.workers.remove(worker)
                    self.hire()
        producing.result()
        plan.on = False
        await self._drained()
        for worker in list(self.workers):
            worker.engine.drain()
            await worker.running
        assert len(self.workers) == self.scenario.workers
        self._note_dead()
        return Result(
            self.scenario,
            self.personality,
            judge(self.ledger.lines),
            frozenset(plan.struck),
            self.trace.hexdigest(),
            self.clock.monotonic() / 3600,
        )

    async def _blackout(self, length):
        if self.plan.strike("blackout"):
            self.plan.dark = True
            await asyncio.sleep(length)
            self.plan.dark = False

    async def _drained(self) -> None:
        """Wait until nothing but dead letters is left: at most an hour, which is many times every delay and lease."""
        for _ in range(360):
            left = [message for queue in self._living() for message in queue.values()]
            if not left:
                self.note("drained")
                return
            await asyncio.sleep(10)
        for message in left:
            self.note("limbo", decode(message.body).id)
        self.note("drained")

    def _living(self):
        return [messages for name, messages in sorted(self.broker._queues.items()) if not name.endswith("-dlq")]

    def _note_dead(self):
        for name in ("main", "ordered"):
            for delivery in self.broker.peek(self.app.address(name, Part.DEAD), 10_000):
                envelope = decode(delivery.body)
                record = deadletters.read(delivery)
                self.note("dead", envelope.id, why=record.kind)


def simulate(seed: int | Scenario, personality: str | None = None) -> Result:
    scenario = seed if isinstance(seed, Scenario) else Scenario(seed, personality)
    return virtual.run(lambda clock: Simulation(scenario, clock).run())


def shrink(result: Result, simulate: Callable[[Scenario], Result] = simulate) -> Result:
    """Return the smallest run found that still goes wrong, from one that does."""
    tries = iter(range(_TRIES))

    def still_bad(scenario: Scenario) -> Result | None:
        if next(tries, None) is None:
            return None
        tried = simulate(scenario)
        return tried if tried.bad else None

    best = _fewest_faults(result, still_bad)
    for tasks in _fewer(result.scenario.tasks):
        best = still_bad(replace(best.scenario, tasks=tasks)) or best
    for workers in range(1, result.scenario.workers):
        smaller = still_bad(replace(best.scenario, workers=workers))
        if smaller is not None:
            best = smaller
            break
    return best


def _fewer(tasks: int) -> list[int]:
    return [size for size in (tasks // 2, tasks // 4, tasks // 8, tasks // 16, 1) if size]


def _fewest_faults(best: Result, still_bad: Callable[[Scenario], Result | None]) -> Result:
    """Leave out halves of the faults, then quarters, and so on, as long as it still goes wrong."""
    parts = 2
    while len(best.struck) > 1:
        struck = sorted(best.struck)
        size = -(-len(struck) // parts)
        for start in range(0, len(struck), size):
            rest = frozenset(struck[:start] + struck[start + size :])
            smaller = still_bad(replace(best.scenario, only=rest))
            if smaller is not None and len(smaller.struck) < len(best.struck):
                best, parts = smaller, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(struck), parts * 2)
    return best
