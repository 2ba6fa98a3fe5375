"""One seed: the shipped engine on virtual time, with workers that crash and drain and a provider that goes wrong.

Nothing of the engine is replaced but what it is handed: the clock, the random source, the driver and the runner. A run is
drained at the end with all faults off, and then judged. What the simulation cannot show (threads, processes, the GIL, signals)
is tested with real processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from cloudq import Backoff, CloudQ, Context, Reject, Retry, deadletters
from cloudq.app import _Connection
from cloudq.driver import Part
from cloudq.envelope import decode
from cloudq.errors import EnqueueRejected, EnqueueUnknown
from cloudq.events import Event, Events, Name
from cloudq.execution import Execution
from cloudq.outcome import NotRun
from cloudq.sending import Sender
from cloudq.worker.engine import Engine
from cloudq.worker.held import Station
from cloudq_local.facts import MEMORY
from cloudq_local.memory import MemoryBroker, connect
from support import virtual
from support.faults import FaultyDriver, Plan
from support.ledger import Ledger, Verdict, judge

TASKS = 60
WORKERS = 3
LEASE = 10.0

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

    def start(self, done, failed):
        self._done, self._failed = done, failed

    def submit(self, held):
        task = asyncio.get_running_loop().create_task(self._run(held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, held):
        outcome = NotRun()
        try:
            outcome = await self._execution.run_async(held.job, held.told_lost)
        finally:
            if not self.dead:
                self._done(held, outcome)

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

    def release(self, task_id: str) -> None:
        """One run of this id has ended."""
        run = next((run for run, held in self.holds.items() if held == task_id), None)
        if run is not None:
            del self.holds[run]


@dataclass
class Result:
    seed: int
    personality: str
    verdict: Verdict
    faults: Counter
    trace: str
    hours: float
    limbo: int

    def __str__(self) -> str:
        return (
            f"seed {self.seed} ({self.personality}, {self.hours:.1f} h virtual): {self.verdict}, limbo {self.limbo}; "
            f"faults {sum(self.faults.values())}; trace {self.trace[:12]}"
        )


class Simulation:
    def __init__(self, seed, clock, personality=None):
        self.seed = seed
        self.clock = clock
        self.draw = random.Random(seed)
        self.personality = personality or self.draw.choice(sorted(PERSONALITIES))
        self.broker = MemoryBroker(clock, replace(MEMORY, limits=PERSONALITIES[self.personality]))
        self.plan = Plan(latest=self.draw.choice([0.02, 0.3, 2.0]))
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

        @app.task(name="work", queue="main", retry=quick)
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
            run = simulation.begin(ctx)
            await simulation.busy(ctx, run, 0.5)
            well = failures[ctx.task_id] >= fails
            simulation.end(ctx, run, well)
            if not well:
                failures[ctx.task_id] += 1
                raise RuntimeError("told to")

        self.work, self.step = work, step
        return app

    def begin(self, ctx):
        self.runs += 1
        self.note("start", ctx.task_id, run=self.runs)
        return self.runs

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
            options["delay"] = draw.choice([5, 100, 4000])
        if number % 11 == 0:
            options["expires"] = draw.choice([0.5, 3600])
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
        engine = Engine(stations, execution, runner, clock=self.clock, events=events, draw=self.draw, concurrency=4, grace=8.0)
        worker = Worker(self.number, engine, runner, [driver], None, events)
        events.add(lambda event: self._observe(worker, event))
        worker.running = asyncio.get_running_loop().create_task(engine.run())
        self.workers.append(worker)
        return worker

    def _observe(self, worker, event: Event):
        if not worker.alive:
            return
        self.trace.update(
            f"{event.at:.6f} {worker.number} {event.name.value} {event.task_id} {sorted(event.detail.items())}\n".encode()
        )
        task_id = event.task_id
        match event.name:
            case Name.STARTED:
                # The run itself is noted by the task, right after this.
                worker.holds[self.runs + 1] = task_id
            case Name.SUCCEEDED | Name.FAILED | Name.REJECTED | Name.INTERRUPTED:
                worker.release(task_id)
            case Name.LEASE_LOST:
                self.note("cause", task_id, what="lease lost")
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
        if event.name in (Name.SETTLE_UNKNOWN, Name.SETTLE_LOST, Name.RETRIED, Name.RELEASED, Name.FORWARDED):
            self.note("cause", task_id or str(event.detail.get("task_id", "")), what=event.name.value)

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
        for task_id in self._pumped():
            self.note("cause", task_id, what="killed in a hop")
            self.note("copy", task_id)
        worker.running.cancel()
        for task in sorted(worker.runner._tasks, key=lambda task: task.get_name()):
            task.cancel()
        self.workers.remove(worker)

    def _pumped(self):
        """Ids that some pump has in hand."""
        for name, messages in sorted(self.broker._queues.items()):
            if name.endswith("-delay"):
                for message in messages.values():
                    if message.lease is not None:
                        yield decode(message.body).id

    # The whole --------------------------------------------------------------------------------------------------------

    async def run(self) -> Result:
        for _ in range(WORKERS):
            self.hire()
        producing = asyncio.get_running_loop().create_task(self.produce(TASKS))
        while not producing.done():
            await asyncio.sleep(self.draw.uniform(5, 40))
            worker = self.draw.choice(self.workers)
            if self.draw.random() < 0.6:
                self.plan.hits["crash"] += 1
                self.kill(worker)
            else:
                self.plan.hits["drain"] += 1
                worker.engine.drain()
                await worker.running
                self.workers.remove(worker)
            await asyncio.sleep(self.draw.uniform(0, 5))
            self.hire()
        producing.result()
        self.plan.on = False
        limbo = await self._drained()
        for worker in list(self.workers):
            worker.engine.drain()
            await worker.running
        self._note_dead()
        return Result(
            self.seed,
            self.personality,
            judge(self.ledger.lines),
            self.plan.hits,
            self.trace.hexdigest(),
            self.clock.monotonic() / 3600,
            limbo,
        )

    async def _drained(self) -> int:
        """Wait until nothing but dead letters is left: at most three hours, which is many times every delay and lease."""
        for _ in range(1080):
            left = self._left()
            if not left:
                return 0
            await asyncio.sleep(10)
        return left

    def _left(self) -> int:
        return sum(len(messages) for name, messages in self.broker._queues.items() if not name.endswith("-dlq"))

    def _note_dead(self):
        for name in ("main", "ordered"):
            for delivery in self.broker.peek(self.app.address(name, Part.DEAD), 10_000):
                envelope = decode(delivery.body)
                record = deadletters.read(delivery)
                self.note("dead", envelope.id, why=record.kind)


def simulate(seed: int, personality: str | None = None) -> Result:
    return virtual.run(lambda clock: Simulation(seed, clock, personality).run())
