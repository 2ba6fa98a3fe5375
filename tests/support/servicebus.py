"""The Service Bus emulator for tests: a server on sockets, and drivers and applications of the real SDK that talk to it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from cloudq import CloudQ
from cloudq.driver import Outgoing, Part, Queue
from cloudq_servicebus.driver import ServiceBusDriver
from cloudq_servicebus.options import read
from conftest import missing
from support.clocks import JumpingClock
from support.processes import until

_numbers = itertools.count()


def need_proton() -> None:
    """Skip, or in CI fail, where the emulator cannot run."""
    if find_spec("proton") is None:
        missing("proton", "it is built from source, which needs a C compiler: pip install python-qpid-proton")


class Emulated:
    """A server on a clock that the test moves."""

    def __init__(self, port: int = 0, clock: Any = None, **server: Any) -> None:
        from cloudq_servicebus.emulator import Server

        self.clock = clock or JumpingClock()
        self.server = Server(clock=self.clock, **server).start()
        #: Where clients connect: a proxy may stand before the server.
        self.port = port or self.server.port

    @property
    def place(self) -> dict[str, str]:
        return {"endpoint": f"127.0.0.1:{self.port}", "admin": f"127.0.0.1:{self.server.admin_port}"}

    @property
    def url(self) -> str:
        return "servicebus://?" + "&".join(f"{name}={value}" for name, value in self.place.items())

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.look()

    def asked(self, action: str) -> int:
        return self.server.requests.by_action[action]

    def until_asked(self, action: str, times: int = 1) -> None:
        until(lambda: self.asked(action) >= times, f"nobody asks for {action}")

    def held(self, queue: Queue) -> list[Any]:
        """The messages that are in a queue, locked or not."""
        return self.server.ask(lambda: list(self.server.queues[queue.physical].messages.values()))

    @asynccontextmanager
    async def driver(self, **options: str) -> AsyncIterator[ServiceBusDriver]:
        driver = ServiceBusDriver(read("", {**self.place, **options}), self.clock)
        try:
            yield driver
        finally:
            await driver.aclose()

    async def queue(self, part: Part = Part.MAIN, *, ordered: bool = False, lease: float = 30.0, dedup: float = 0.0) -> Queue:
        queue = Queue("main", f"t-{next(_numbers)}", ordered=ordered, lease=lease, dedup=dedup)
        async with self.driver() as driver:
            await driver.create([queue])
        return self.dead(queue) if part is Part.DEAD else queue

    @staticmethod
    def dead(queue: Queue) -> Queue:
        """The dead part of a queue that was made here."""
        return replace(queue, physical=f"{queue.physical}-dlq", part=Part.DEAD, ordered=False, mains=(queue.physical,))

    def app(self, *, clock: bool = True, sinks: Any = (), **queues: dict[str, Any]) -> CloudQ:
        """An application whose queues `create` makes."""
        app = CloudQ(self.url, namespace=f"n{next(_numbers)}", queues=queues, clock=self.clock if clock else None, sinks=sinks)

        async def create() -> None:
            async with self.driver() as driver:
                for name in queues:
                    await driver.create(app.addresses(name))

        self.create = create
        return app


@contextmanager
def emulated(**server: Any) -> Iterator[Emulated]:
    made = Emulated(**server)
    try:
        yield made
    finally:
        made.server.stop()


def message(number: int = 0, **fields: Any) -> Outgoing:
    return Outgoing(f'{{"number": {number}}}'.encode(), f"id-{number}", **fields)
