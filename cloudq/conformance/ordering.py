"""Ordered queues: within a group, in the order of sending, one after the other."""

from __future__ import annotations

from cloudq.conformance.harness import Harness, collect, message, need, nothing, receive_all, receive_one, send
from cloudq.driver import Release


async def a_group_comes_in_order(harness: Harness) -> None:
    """Messages of one group are received in the order in which they were sent."""
    async with harness.open() as driver:
        need(driver.limits.native_order, "no native order")
        queue = await harness.queue(ordered=True)
        await send(driver, queue, [message(number, group="a") for number in range(6)])
        bodies: list[bytes] = []
        while len(bodies) < 6:
            found = await receive_all(driver, queue, 1)
            bodies += [delivery.body for delivery in found]
            await driver.ack(queue, found)
        assert bodies == [message(number).body for number in range(6)]


async def a_group_waits_for_its_leased_head(harness: Harness) -> None:
    """While one message of a group is leased, later ones are not given to anybody else; other groups go on."""
    async with harness.open() as driver, harness.open() as other:
        need(driver.limits.native_order, "no native order")
        queue = await harness.queue(ordered=True)
        await send(driver, queue, [message(0, group="a"), message(1, group="a")])
        head = await receive_one(driver, queue)
        await send(driver, queue, [message(2, group="b")])  # later: which group comes first, nobody promises
        assert [delivery.group for delivery in await other.receive(queue, 10, 1.0)] == ["b"]
        await driver.ack(queue, [head])
        assert (await receive_one(other, queue)).body == message(1).body


async def a_delayed_head_holds_its_group_back(harness: Harness) -> None:
    """A head that is given back with a delay comes first again: what stands behind it waits."""
    async with harness.open() as driver:
        need(driver.limits.native_order, "no native order")
        queue = await harness.queue(ordered=True)
        await send(driver, queue, [message(0, group="a"), message(1, group="a")])
        head = await receive_one(driver, queue)
        await driver.release(queue, [Release(head, harness.tick * 2)])
        await nothing(driver, queue)
        await harness.pass_time(harness.tick * 3)
        assert (await receive_one(driver, queue)).body == message(0).body


SCENARIOS = collect(globals())
