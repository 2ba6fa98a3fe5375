"""The Pub/Sub emulator for tests: a server on a socket, and drivers and applications of the real SDK that talk to it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from cloudq import CloudQ
from cloudq.driver import Outgoing, Part, Queue
from cloudq_pubsub.driver import PubSubDriver
from cloudq_pubsub.emulator import Server
from cloudq_pubsub.options import Options
from support.clocks import JumpingClock
from support.processes import until

_numbers = itertools.count()
PROJECT = "test-project"


class Emulated:
    """A server on a clock that the test moves."""

    def __init__(self, endpoint: str | None = None, clock: Any = None, **server: Any) -> None:
        self.clock = clock or JumpingClock()
        self.server = Server(clock=self.clock, **server).start()
        #: Where clients connect: a proxy may stand before the server.
        self.endpoint = endpoint or self.server.endpoint

    @property
    def url(self) -> str:
        return f"pubsub://{PROJECT}?endpoint=http://{self.endpoint}"

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.look()

    def asked(self, method: str) -> int:
        return self.server.requests.by_method[method]

    def until_asked(self, method: str, times: int = 1) -> None:
        until(lambda: self.asked(method) >= times, f"nobody asks for {method}")

    def held(self, queue: Queue) -> list[Any]:
        """The messages that the queue's subscription keeps, acknowledged or not."""
        return list(self.server.service.subscriptions[f"projects/{PROJECT}/subscriptions/{queue.physical}"]._all.values())

    @asynccontextmanager
    async def driver(self, **options: Any) -> AsyncIterator[PubSubDriver]:
        driver = PubSubDriver(Options(**{"project": PROJECT, "endpoint": self.endpoint, "plain": True, **options}), self.clock)
        try:
            yield driver
        finally:
            await driver.aclose()

    async def queue(self, part: Part = Part.MAIN, *, ordered: bool = False, lease: float = 30.0, **options: Any) -> Queue:
        queue = Queue("main", f"t-{next(_numbers)}", part, ordered=ordered, lease=lease)
        dead = replace(queue, physical=f"{queue.physical}-dlq", part=Part.DEAD, ordered=False)
        async with self.driver(**options) as driver:
            await driver.create([queue, dead])  # attempts are counted with a dead-letter policy alone
        return queue

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
