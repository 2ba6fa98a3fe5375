"""Leases: what is received is hidden, comes back when its holder is gone, and is fenced against its former holder."""

from __future__ import annotations

from cloudq.conformance.harness import Harness, collect, message, need, nothing, receive_all, receive_one, send
from cloudq.driver import Release, Settled


async def a_leased_message_is_hidden(harness: Harness) -> None:
    """Nobody else receives it while the lease lasts."""
    async with harness.open() as driver, harness.open() as other:
        queue = await harness.queue()
        await send(driver, queue, [message()])
        await receive_one(driver, queue)
        await nothing(driver, queue)
        await nothing(other, queue)


async def an_abandoned_message_comes_back(harness: Harness) -> None:
    """When a lease runs out, the message is received again, counted higher, and told as a crash where crashes are counted."""
    async with harness.open() as driver, harness.open() as other:
        queue = await harness.queue()
        await send(driver, queue, [message()])
        first = await receive_one(driver, queue)
        await harness.pass_time(queue.lease + harness.tick)
        second = await receive_one(other, queue)
        assert second.body == first.body
        assert second.deliveries == 2
        if driver.limits.counts_crashes:
            assert (first.crashes, second.crashes) == (0, 1)
        else:
            assert second.crashes is None


async def an_extended_lease_lasts(harness: Harness) -> None:
    """A renewed message stays hidden past the end of its first lease."""
    async with harness.open() as driver:
        queue = await harness.queue()
        await send(driver, queue, [message()])
        delivery = await receive_one(driver, queue)
        for _ in range(3):
            await harness.pass_time(queue.lease / 2)
            assert await driver.extend(queue, [delivery], queue.lease) == [Settled.OK]
        await nothing(driver, queue)
        assert await driver.ack(queue, [delivery]) == [Settled.OK]


async def a_late_settlement_does_not_touch_the_next_holder(harness: Harness) -> None:
    """Once the message is somebody else's, an ack, release or extension of the first holder leaves it leased to the second."""
    async with harness.open() as driver:
        need(driver.limits.tells_lost, "a late settlement cannot be told from one in time")
        queue = await harness.queue()
        await send(driver, queue, [message()])
        first = await receive_one(driver, queue)
        await harness.pass_time(queue.lease + harness.tick)
        second = await receive_one(driver, queue)
        assert await driver.extend(queue, [first], queue.lease) == [Settled.LOST]
        assert await driver.ack(queue, [first]) == [Settled.LOST]
        await nothing(driver, queue)
        assert await driver.ack(queue, [second]) == [Settled.OK]


async def crashes_are_counted_apart_from_releases(harness: Harness) -> None:
    """A lease that ran out is a crash, after the first only if it had been extended; a message that was given back is not."""
    async with harness.open() as driver:
        need(driver.limits.counts_crashes, "crashes are not counted")
        queue = await harness.queue()
        await send(driver, queue, [message()])
        for _ in range(3):
            await driver.release(queue, [Release(await receive_one(driver, queue))])
        for extended, crashes in ((False, 0), (False, 1), (True, 1), (True, 2)):
            delivery = await receive_one(driver, queue)
            assert delivery.crashes == crashes
            if extended:
                assert await driver.extend(queue, [delivery], queue.lease) == [Settled.OK]
            await harness.pass_time(queue.lease + harness.tick)
        assert (await receive_one(driver, queue)).crashes == 3


async def many_leases_are_extended_at_once(harness: Harness) -> None:
    """A batch of extensions is answered one by one, and a lost one does not hurt its neighbours."""
    async with harness.open() as driver:
        queue = await harness.queue()
        await send(driver, queue, [message(number) for number in range(5)])
        held = await receive_all(driver, queue, 5)
        assert await driver.ack(queue, [held[2]]) == [Settled.OK]
        answers = await driver.extend(queue, held, queue.lease)
        assert [answer for position, answer in enumerate(answers) if position != 2] == [Settled.OK] * 4
        assert not driver.limits.tells_lost or answers[2] is Settled.LOST


SCENARIOS = collect(globals())
