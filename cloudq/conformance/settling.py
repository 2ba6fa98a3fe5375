"""Settlements: ack, release, and the way to the dead part."""

from __future__ import annotations

from cloudq.conformance.harness import Harness, collect, message, need, nothing, receive_all, receive_one, send
from cloudq.driver import RECORD, Burial, Part, Release, Settled


async def an_acked_message_is_gone(harness: Harness) -> None:
    """It does not come back, not after its lease either."""
    async with harness.open() as driver:
        queue = await harness.queue()
        await send(driver, queue, [message()])
        assert await driver.ack(queue, [await receive_one(driver, queue)]) == [Settled.OK]
        await harness.pass_time(queue.lease + harness.tick)
        await nothing(driver, queue, 0.2)


async def acking_what_is_gone_is_ok(harness: Harness) -> None:
    """An ack that is repeated because its answer was lost finds its wish fulfilled."""
    async with harness.open() as driver:
        queue = await harness.queue()
        await send(driver, queue, [message()])
        delivery = await receive_one(driver, queue)
        assert await driver.ack(queue, [delivery]) == [Settled.OK]
        assert await driver.ack(queue, [delivery]) == [Settled.OK]


async def a_released_message_comes_back_at_once(harness: Harness) -> None:
    """Given back without a delay, it is there for the next receiver."""
    async with harness.open() as driver, harness.open() as other:
        queue = await harness.queue()
        await send(driver, queue, [message()])
        assert await driver.release(queue, [Release(await receive_one(driver, queue))]) == [Settled.OK]
        assert (await receive_one(other, queue)).deliveries == 2


async def a_release_with_a_delay_waits_at_the_provider(harness: Harness) -> None:
    """It is not received before its time, and is after it."""
    async with harness.open() as driver:
        need(driver.limits.release_delay > 0, "no native delay of a release: the core makes a copy")
        queue = await harness.queue()
        await send(driver, queue, [message()])
        delay = min(harness.tick * 2, driver.limits.release_delay)
        assert await driver.release(queue, [Release(await receive_one(driver, queue), delay)]) == [Settled.OK]
        await nothing(driver, queue)
        await harness.pass_time(delay + harness.tick)
        assert (await receive_one(driver, queue)).deliveries == 2


async def a_release_can_last_longer_than_a_lease(harness: Harness) -> None:
    """The delay of a release is its own, not bounded by the lease."""
    async with harness.open() as driver:
        need(driver.limits.release_delay >= harness.lease * 2, "no native delay of a release beyond a lease")
        queue = await harness.queue()
        await send(driver, queue, [message()])
        await driver.release(queue, [Release(await receive_one(driver, queue), queue.lease * 2)])
        await harness.pass_time(queue.lease * 1.5)
        await nothing(driver, queue)
        await harness.pass_time(queue.lease)
        await receive_one(driver, queue)


async def an_unrun_message_is_given_back_uncounted(harness: Harness) -> None:
    """Where the provider can, a message that was not run comes back with the count it had."""
    async with harness.open() as driver:
        need(driver.limits.release_uncounted, "the provider counts every delivery")
        queue = await harness.queue()
        await send(driver, queue, [message()])
        for _ in range(3):
            delivery = await receive_one(driver, queue)
            assert delivery.deliveries == 1
            assert await driver.release(queue, [Release(delivery, counted=False)]) == [Settled.OK]


async def one_lost_settlement_leaves_its_neighbours(harness: Harness) -> None:
    """In a batch, each item is answered for itself."""
    async with harness.open() as driver:
        queue = await harness.queue()
        await send(driver, queue, [message(number) for number in range(4)])
        held = await receive_all(driver, queue, 4)
        await driver.release(queue, [Release(held[1])])
        again = await receive_one(driver, queue)
        answers = await driver.ack(queue, held)
        assert [answers[0], answers[2], answers[3]] == [Settled.OK] * 3
        if driver.limits.tells_lost:
            assert answers[1] is Settled.LOST
            assert await driver.ack(queue, [again]) == [Settled.OK]


async def a_dead_letter_keeps_its_bytes(harness: Harness) -> None:
    """Moved in one step: gone from the queue, in the dead part with the same body, and with the record."""
    async with harness.open() as driver:
        need(driver.limits.native_dead_letter, "no native move on demand: the core sends a copy, then acks")
        queue, dead = await harness.queue(), await harness.queue(Part.DEAD)
        await send(driver, queue, [message()])
        delivery = await receive_one(driver, queue)
        record = '{"kind": "failed", "reason": "größe"}'
        assert await driver.dead_letter(queue, dead, [Burial(delivery, "failed", record)]) == [Settled.OK]
        kept = await receive_one(driver, dead)
        assert (kept.body, kept.attributes[RECORD]) == (message().body, record)
        await harness.pass_time(queue.lease + harness.tick)
        await nothing(driver, queue)


SCENARIOS = collect(globals())
