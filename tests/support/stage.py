"""One application on `memory://?as=<provider>` in virtual time, and what can be seen of it: runs, attempts, dead letters."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import asynccontextmanager

from cloudq import CloudQ, Context, redrive
from cloudq.deadletters import Wanted, look, open_letter
from cloudq.driver import Outgoing, Part
from cloudq.errors import EnqueueRejected
from cloudq.events import Events
from cloudq.execution import Execution
from cloudq.sending import Sender
from cloudq.worker.engine import Engine
from cloudq.worker.held import Station
from support.simulation import LoopRunner

LEASE = 30.0
_names = itertools.count()


class Stage:
    def __init__(self, clock, model, queues):
        self.clock = clock
        self.model = model
        option = f"?as={model}" if model != "memory" else ""
        self.app = CloudQ(
            f"memory://stage-{next(_names)}{option}",
            queues={name: {"lease": LEASE, **settings} for name, settings in queues.items()},
            clock=clock,
            draw=random.Random(7),
        )
        self.trace = []
        self._workers = 0

    def say(self, *words):
        self.trace.append(" ".join(str(word) for word in words))

    def task(self, name="work", queue="main", body=None, **options):
        """Declare a task of one argument, `label`, that says what it does; `body(ctx, label)` may wait and raise."""

        @self.app.task(name=name, queue=queue, **options)
        async def task(ctx: Context, label: str = "") -> None:
            self.say("run", label or ctx.task, "attempt", ctx.attempt)
            try:
                if body is not None:
                    await body(ctx, label)
            except Exception as error:
                self.say("raised", label or ctx.task, type(error).__name__)
                raise
            except asyncio.CancelledError:
                self.say("cut off", label or ctx.task)
                raise
            self.say("done", label or ctx.task)

        return task

    async def enqueue(self, task, label="", **options):
        """Enqueue, and say so when it is refused."""
        try:
            await self.app._enqueue(task.options(**options).message(label))
        except EnqueueRejected as error:
            self.say("refused", label, type(error).__name__)

    async def send(self, body, queue="main", part=Part.MAIN, **attributes):
        """Put bytes into a queue, as a producer in another language would."""
        async with self.app.driver(self.app.url_of(queue)) as driver:
            assert not await driver.send(self.app.address(queue, part), [Outgoing(body, "foreign", attributes=attributes)])

    @asynccontextmanager
    async def worker(self, **options):
        """A worker for the length of the block, drained at its end, or killed by `crash`."""
        worker = _Worker(self, **options)
        try:
            yield worker
        finally:
            await worker.drain()

    async def work(self, seconds, **options):
        """Have a worker for so long."""
        async with self.worker(**options):
            await asyncio.sleep(seconds)

    async def redrive(self, queue="main", **wanted):
        tally = await redrive.redrive(self.app, queue, Wanted(**wanted), limit=1000)
        self.say("redriven", tally.done)

    async def ended(self):
        """Say what is dead and what is left, and return the whole trace."""
        for queue in self.app.queue_names():
            async with self.app.driver(self.app.url_of(queue)) as driver:
                for delivery in await look(driver, self.app.address(queue, Part.DEAD), 1000):
                    record = open_letter(delivery).record
                    self.say("dead", record.kind, record.task, "attempts", record.attempts, "reason", record.reason[:600])
                    self.say("its trace", len(record.trace), "cut", record.cut, "body", delivery.body[:20])
                left = 0
                for address in self.app.addresses(queue):
                    if address.part is not Part.DEAD:
                        left += len(driver._broker._queues.get(address.physical, {}))
                self.say("left in", queue, left)
        return self.trace


class _Worker:
    def __init__(self, stage, concurrency=1, grace=5.0, knows=None):
        app, loop = stage.app, asyncio.get_running_loop()
        self.drivers = {}
        stations = []
        for queue in app.queue_names():
            url = app.url_of(queue)
            if url not in self.drivers:
                from cloudq.opening import open_driver

                driver = open_driver(url, app.clock)
                self.drivers[url] = driver, Sender(driver, app.clock, loop.create_task, app.draw)
            driver, sender = self.drivers[url]
            addresses = app.addresses(queue)
            delay, dead = (next(q for q in addresses if q.part is part) for part in (Part.DELAY, Part.DEAD))
            stations += [Station(q, dead, delay, driver, sender) for q in addresses if q.part is Part.MAIN]
        declared = app.declared if knows is None else knows
        events = Events()
        self.events = []
        events.add(self.events.append)
        execution = Execution(declared, stage.clock, events, random.Random(3), middleware=app.middlewares)
        self.runner = LoopRunner(execution)
        self.engine = Engine(
            stations,
            execution,
            self.runner,
            clock=stage.clock,
            events=events,
            draw=random.Random(5),
            concurrency=concurrency,
            grace=grace,
        )
        self.running = loop.create_task(self.engine.run())
        self.alive = True

    async def crash(self):
        """End at once, as by SIGKILL: nothing is settled, and the leases run out."""
        self.alive = False
        self.runner.dead = True
        self.runner.cancel_all()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def drain(self):
        if self.alive:
            self.engine.drain()
            await self.running
