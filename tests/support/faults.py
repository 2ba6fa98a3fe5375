"""What a provider may do to its clients, on a seeded plan: a driver that goes wrong, and a broker that does.

Of the driver: a call that fails before its effect (refused, throttled), after it (the answer is lost), for a part of its batch,
or late; and blackouts, in which every call fails. Of the broker: a message delivered a second time, a lease that ends early,
a disorder that the provider allows itself.

Every fault has a number, in the order in which they strike. A plan can be told which numbers to keep (`only`), so that a run
that fails can be tried again with fewer of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cloudq.driver import Part, Settled
from cloudq.envelope import decode
from cloudq.errors import OutcomeUnknown, Throttled, Unavailable
from cloudq_local.memory import MemoryBroker

_CALLS = ("send", "receive", "ack", "release", "extend", "dead_letter")
#: Every fault that there is. One that never strikes shows nothing.
KINDS = (
    *(f"{call} {when}" for call in _CALLS for when in ("before", "after", "part") if (call, when) != ("receive", "part")),
    "late", "duplicate", "lease loss", "reorder", "crash", "drain", "blackout",
)  # fmt: skip
#: A call this late, in seconds, is counted among the faults.
_LATE = 1.0


@dataclass
class Plan:
    """Probabilities per call. `on` False ends all faults, so that a run can drain."""

    before: float = 0.04
    after: float = 0.04
    part: float = 0.06
    #: Longest time that a call is late, in seconds.
    latest: float = 0.3
    duplicate: float = 0.01
    lease_loss: float = 0.01
    reorder: float = 0.2
    on: bool = True
    #: In a blackout every call fails before its effect.
    dark: bool = False
    only: frozenset[int] | None = None
    number: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    #: Which struck, as they are counted in `hits`.
    struck: list[int] = field(default_factory=list)
    #: Told of every fault that strikes.
    observe: Callable[[str], None] = lambda _what: None

    def strikes(self, what: str, probability: float, draw: random.Random) -> bool:
        """Decide whether this fault strikes now. The random number is drawn in any case, so that one fault less is no other."""
        hit = draw.random() < probability
        return hit and self.on and self.strike(what)

    def strike(self, what: str) -> bool:
        """Count this fault, unless the plan leaves it out."""
        self.number += 1
        if self.only is not None and self.number not in self.only:
            return False
        self.hits[what] += 1
        self.struck.append(self.number)
        self.observe(what)
        return True


class FaultyDriver:
    """Cut off, it does nothing any more and never answers: what its process would have done after SIGKILL."""

    def __init__(self, driver, plan: Plan, draw: random.Random) -> None:
        self._driver = driver
        self._plan = plan
        self._draw = draw
        self.cut = False
        #: What a pump has in hand of the delay part: by receipt, the task's id.
        self.pumped: dict[object, str] = {}

    @property
    def limits(self):
        return self._driver.limits

    async def _call(self, name, *args):
        plan, draw = self._plan, self._draw
        await self._dead_or_alive()
        if plan.on:
            late = draw.uniform(0.0, plan.latest)
            if late < _LATE or plan.strike("late"):
                await asyncio.sleep(late)
            await self._dead_or_alive()
            if plan.strikes(f"{name} before", plan.before, draw):
                raise Unavailable(f"{name}: refused by the fault plan") if draw.random() < 0.5 else Throttled()
            if plan.dark:
                raise Unavailable(f"{name}: the provider is away, by the fault plan")
        answer = await getattr(self._driver, name)(*args)
        await self._dead_or_alive()
        if plan.strikes(f"{name} after", plan.after, draw):
            raise OutcomeUnknown(f"{name}: the answer was dropped by the fault plan")
        return answer

    async def _dead_or_alive(self):
        if self.cut:
            await asyncio.get_running_loop().create_future()

    def _hit(self, what, batch):
        """Return the positions of a batch that go wrong."""
        return {i for i in range(len(batch)) if self._plan.strikes(what, self._plan.part, self._draw)}

    async def send(self, queue, batch):
        refused = {i: Throttled("refused by the fault plan") for i in self._hit("send part", batch)}
        kept = [i for i in range(len(batch)) if i not in refused]
        failures = await self._call("send", queue, [batch[i] for i in kept]) if kept else {}
        return refused | {kept[i]: error for i, error in failures.items()}

    async def receive(self, queue, max_messages, wait):
        deliveries = await self._call("receive", queue, max_messages, wait)
        if queue.part is Part.DELAY:
            self.pumped |= {delivery.receipt: decode(delivery.body).id for delivery in deliveries}
        return deliveries

    async def _settle(self, name, queue, batch, *more):
        """Some of the batch is not done, or done without an answer."""
        silent = self._hit(f"{name} part", batch)
        undone = {i for i in sorted(silent) if self._draw.random() < 0.5}
        done = [i for i in range(len(batch)) if i not in undone]
        called = await self._call(name, queue, *more[:-1], [batch[i] for i in done], *more[-1:]) if done else []
        answers = dict(zip(done, called, strict=True))
        return [Settled.UNKNOWN if i in silent else answers[i] for i in range(len(batch))]

    async def ack(self, queue, batch):
        answers = await self._settle("ack", queue, batch)
        for delivery in batch:
            self.pumped.pop(delivery.receipt, None)
        return answers

    async def release(self, queue, batch):
        answers = await self._settle("release", queue, batch)
        for item in batch:
            self.pumped.pop(item.delivery.receipt, None)
        return answers

    async def extend(self, queue, batch, lease):
        return await self._settle("extend", queue, batch, lease)

    async def dead_letter(self, queue, dead, batch):
        silent = self._hit("dead_letter part", batch)
        answers = await self._call("dead_letter", queue, dead, batch)
        return [Settled.UNKNOWN if i in silent else answer for i, answer in enumerate(answers)]

    async def stats(self, queue):
        return await self._driver.stats(queue)

    def unwrap(self, kind):
        return self._driver.unwrap(kind)

    async def aclose(self):
        pass


class FaultyBroker(MemoryBroker):
    """Does what at-least-once allows a provider, where the facts say that order and duplicates are not promised."""

    def __init__(self, clock, facts, plan: Plan, draw: random.Random, note: Callable[[str, str], None]) -> None:
        """`note(what, task_id)` is told of every message that is doubled or loses its lease."""
        super().__init__(clock, facts)
        self._plan = plan
        self._draw = draw
        self._note = note

    def take(self, queue, max_messages):
        deliveries = super().take(queue, max_messages)
        for delivery in deliveries:
            message = delivery.receipt.message
            # Ordered queues promise more: neither a second message nor another order.
            if not queue.ordered and self._plan.strikes("duplicate", self._plan.duplicate, self._draw):
                twin = replace(message, number=next(self._numbers), lease=None, deliveries=0)
                twin.visible_at = self.clock.monotonic() + self._draw.uniform(0.0, 2 * queue.lease)
                self._put(queue.physical, twin)
                self._note("duplicate", decode(message.body).id)
            if self._plan.strikes("lease loss", self._plan.lease_loss, self._draw):
                message.visible_at = self.clock.monotonic() + self._draw.uniform(0.0, queue.lease)
                self._note("lease loss", decode(message.body).id)
        return deliveries

    def _due(self, queue, now):
        due = super()._due(queue, now)
        if queue.ordered or not self._plan.strikes("reorder", self._plan.reorder, self._draw):
            return due
        shuffled = list(due)
        self._draw.shuffle(shuffled)
        return iter(shuffled)
