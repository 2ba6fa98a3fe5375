"""What a scenario needs from the adapter under test."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from cloudq.app import CloudQ
from cloudq.driver import Delivery, Driver, Outgoing, Part, Queue


class Skip(Exception):
    """The provider declares that it does not do this. The reason is the message."""


class Harness(Protocol):
    """One provider, with queues of its own for each scenario."""

    #: A lease that is short and that the provider takes, in seconds. All queues have it.
    lease: float
    #: The shortest delay that the provider keeps, in seconds.
    tick: float

    def open(self) -> AbstractAsyncContextManager[Driver]:
        """Open a driver on the running loop."""
        ...

    async def queue(self, part: Part = Part.MAIN, *, ordered: bool = False, dedup: float = 0.0) -> Queue:
        """Return the address of a queue that exists and is empty."""
        ...

    def app(self, **queues: dict[str, Any]) -> CloudQ:
        """Return an application on this provider whose queues, with these settings and the short lease, exist and are empty."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the provider: on its injected clock, or by waiting."""
        ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """A promise, named as a sentence, and the code that holds an adapter to it."""

    name: str
    run: Callable[[Harness], Awaitable[None]]

    def __str__(self) -> str:
        """The name, as a test id."""
        return self.name


def collect(namespace: dict[str, Any]) -> tuple[Scenario, ...]:
    """Return the coroutine functions of a module whose docstring is a sentence, in the order they stand there."""
    module = namespace["__name__"]
    return tuple(
        Scenario(name, function)
        for name, function in namespace.items()
        if inspect.iscoroutinefunction(function) and function.__module__ == module and not name.startswith("_")
    )


def need(possible: object, reason: str) -> None:
    """Skip where the provider declares that it cannot."""
    if not possible:
        raise Skip(reason)


def message(number: int = 0, **fields: Any) -> Outgoing:
    """Return a small message with a body that every provider can carry: JSON, with characters beyond ASCII."""
    return Outgoing(f'{{"number": {number}, "text": "größe ✓"}}'.encode(), f"id-{number}", **fields)


async def receive_all(driver: Driver, queue: Queue, count: int, wait: float = 5.0, tries: int = 20) -> list[Delivery]:
    """Receive until there are `count`: a provider may answer with fewer than it has, or with nothing."""
    found: list[Delivery] = []
    for _ in range(tries):
        if len(found) >= count:
            break
        ask = min(count - len(found), driver.limits.receive_count)
        found += await driver.receive(queue, ask, wait)
    assert len(found) == count, f"{len(found)} of {count} messages were received"
    return found


async def receive_one(driver: Driver, queue: Queue, wait: float = 5.0) -> Delivery:
    """Receive one message."""
    return (await receive_all(driver, queue, 1, wait))[0]


async def nothing(driver: Driver, queue: Queue, wait: float = 0.0) -> None:
    """Assert that there is nothing to receive."""
    found = await driver.receive(queue, driver.limits.receive_count, wait)
    assert not found, f"{len(found)} messages were received where none should be: {[d.message_id for d in found]}"


async def send(driver: Driver, queue: Queue, batch: Sequence[Outgoing]) -> None:
    """Send, in batches that the provider takes, and assert that all is confirmed."""
    size = driver.limits.send_count
    for start in range(0, len(batch), size):
        failures = await driver.send(queue, batch[start : start + size])
        assert not failures, f"not confirmed: {failures}"
