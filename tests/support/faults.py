"""A driver around a driver that goes wrong on a seeded plan: before the effect, after it, for a part of a batch, late."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from cloudq.driver import Settled
from cloudq.errors import OutcomeUnknown, Throttled, Unavailable


@dataclass
class Plan:
    """Probabilities per call. `on` False ends all faults, so that a run can drain."""

    before: float = 0.04
    after: float = 0.04
    part: float = 0.06
    latest: float = 0.3
    on: bool = True
    hits: Counter[str] = field(default_factory=Counter)


class FaultyDriver:
    """Cut off, it does nothing any more and never answers: what its process would have done after SIGKILL."""

    def __init__(self, driver, plan: Plan, draw: random.Random) -> None:
        self._driver = driver
        self._plan = plan
        self._draw = draw
        self.cut = False

    @property
    def limits(self):
        return self._driver.limits

    async def _call(self, name, *args):
        plan = self._plan
        await self._dead_or_alive()
        if plan.on:
            await asyncio.sleep(self._draw.uniform(0.0, plan.latest))
            await self._dead_or_alive()
            if self._draw.random() < plan.before:
                plan.hits[f"{name} before"] += 1
                raise Unavailable(f"{name}: refused by the fault plan") if self._draw.random() < 0.5 else Throttled()
        answer = await getattr(self._driver, name)(*args)
        await self._dead_or_alive()
        if plan.on and self._draw.random() < plan.after:
            plan.hits[f"{name} after"] += 1
            raise OutcomeUnknown(f"{name}: the answer was dropped by the fault plan")
        return answer

    async def _dead_or_alive(self):
        if self.cut:
            await asyncio.get_running_loop().create_future()

    async def send(self, queue, batch):
        refused = {
            i: Throttled("refused by the fault plan")
            for i in range(len(batch))
            if self._plan.on and self._draw.random() < self._plan.part
        }
        self._plan.hits["send part"] += len(refused)
        kept = [i for i in range(len(batch)) if i not in refused]
        failures = await self._call("send", queue, [batch[i] for i in kept]) if kept else {}
        return refused | {kept[i]: error for i, error in failures.items()}

    async def receive(self, queue, max_messages, wait):
        return await self._call("receive", queue, max_messages, wait)

    async def _settle(self, name, queue, batch, *more):
        """Some of the batch is not done, or done without an answer."""
        silent = {i for i in range(len(batch)) if self._plan.on and self._draw.random() < self._plan.part}
        undone = {i for i in silent if self._draw.random() < 0.5}
        self._plan.hits[f"{name} part"] += len(silent)
        done = [i for i in range(len(batch)) if i not in undone]
        answers = (
            dict(zip(done, await self._call(name, queue, *more[:-1], [batch[i] for i in done], *more[-1:]), strict=True))
            if (done)
            else {}
        )
        return [Settled.UNKNOWN if i in silent else answers[i] for i in range(len(batch))]

    async def ack(self, queue, batch):
        return await self._settle("ack", queue, batch)

    async def release(self, queue, batch):
        return await self._settle("release", queue, batch)

    async def extend(self, queue, batch, lease):
        return await self._settle("extend", queue, batch, lease)

    async def dead_letter(self, queue, dead, batch):
        silent = {i for i in range(len(batch)) if self._plan.on and self._draw.random() < self._plan.part}
        answers = await self._call("dead_letter", queue, dead, batch)
        return [Settled.UNKNOWN if i in silent else answer for i, answer in enumerate(answers)]

    async def stats(self, queue):
        return await self._driver.stats(queue)

    def unwrap(self, kind):
        return self._driver.unwrap(kind)

    async def aclose(self):
        pass
