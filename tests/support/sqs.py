"""The SQS emulator for tests: a server on a socket, and drivers and applications of the real SDK that talk to it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from cloudq import CloudQ
from cloudq.driver import Outgoing, Part, Queue
from cloudq_sqs.driver import SQSDriver
from cloudq_sqs.emulator import Server
from cloudq_sqs.options import Options
from support.clocks import JumpingClock
from support.processes import until

_numbers = itertools.count()


class Emulated:
    """A server on a clock that the test moves."""

    def __init__(self, endpoint: str | None = None, **server: Any) -> None:
        self.clock = JumpingClock()
        self.server = Server(clock=self.clock, **server).start()
        self.endpoint = endpoint or self.server.endpoint

    def options(self, **more: Any) -> Options:
        return Options(**{"region": "us-east-1", "endpoint": self.endpoint, "keys": ("test", "test"), **more})

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.look()

    def until_asked(self, action: str, times: int = 1) -> None:
        until(lambda: self.server.requests.by_action[action] >= times, f"nobody asks for {action}")

    @asynccontextmanager
    async def driver(self, **options: Any) -> AsyncIterator[SQSDriver]:
        driver = SQSDriver(self.options(**options), self.clock)
        try:
            yield driver
        finally:
            await driver.aclose()

    async def queue(self, part: Part = Part.MAIN, *, ordered: bool = False, lease: float = 30.0) -> Queue:
        queue = Queue("main", f"t-{next(_numbers)}", part, ordered=ordered, lease=lease)
        async with self.driver() as driver:
            await driver.create([queue])
        return queue

    def app(self, *, clock: bool = True, sinks: Any = (), **queues: dict[str, Any]) -> CloudQ:
        """An application whose queues `create` makes. Needs AWS_ACCESS_KEY_ID and the secret in the environment."""
        app = CloudQ(
            f"sqs://us-east-1?endpoint={self.endpoint}&account=000000000000",
            namespace=f"n{next(_numbers)}",
            queues=queues,
            clock=self.clock if clock else None,
            sinks=sinks,
        )

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
