"""Sending, receiving, counting."""

from __future__ import annotations

import asyncio

from cloudq.conformance.harness import Harness, collect, message, need, nothing, receive_all, receive_one, send
from cloudq.driver import Outgoing, Peeks, Release, Schedules, Settled


async def a_message_arrives_as_it_was_sent(harness: Harness) -> None:
    """Body, attributes and count are what the sender and the contract say."""
    async with harness.open() as driver:
        queue = await harness.queue()
        await send(driver, queue, [message(7, attributes={"kind": "größe"})])
        delivery = await receive_one(driver, queue)
        assert delivery.body == message(7).body
        assert delivery.attributes["kind"] == "größe"
        assert delivery.deliveries == 1
        assert delivery.crashes in (None, 0)
        assert 0 < delivery.leased_for <= queue.lease
        assert delivery.queue == queue


async def a_full_batch_is_confirmed_and_complete(harness: Harness) -> None:
    """As many messages as the provider takes at once all arrive, each once."""
    async with harness.open() as driver:
        queue = await harness.queue()
        count = min(driver.limits.send_count, 100)
        await send(driver, queue, [message(number) for number in range(count)])
        found = await receive_all(driver, queue, count)
        assert {delivery.body for delivery in found} == {message(number).body for number in range(count)}
        await nothing(driver, queue)


async def the_largest_message_arrives(harness: Harness) -> None:
    """A body of exactly the declared limit is taken."""
    async with harness.open() as driver:
        queue = await harness.queue()
        body = b'"' + b"x" * (driver.limits.message_bytes - 2) + b'"'
        await send(driver, queue, [Outgoing(body, "large")])
        assert (await receive_one(driver, queue)).body == body


async def an_empty_queue_answers_empty_in_its_time(harness: Harness) -> None:
    """A receive without messages ends, with nothing, when its wait is over."""
    async with harness.open() as driver:
        queue = await harness.queue()
        async with asyncio.timeout(10):
            assert not await driver.receive(queue, 1, 0.2)


async def a_waiting_receive_wakes_for_a_message(harness: Harness) -> None:
    """A message that is sent while a receive waits ends the wait, long before its time."""
    async with harness.open() as driver, harness.open() as producer:
        queue = await harness.queue()
        waiting = asyncio.create_task(driver.receive(queue, 1, min(15.0, driver.limits.receive_wait)))
        await asyncio.sleep(0)
        await send(producer, queue, [message()])
        async with asyncio.timeout(5):
            assert len(await waiting) == 1


async def a_waiting_receive_holds_nothing_up(harness: Harness) -> None:
    """While a receive waits on an empty queue, settlements and sends on the same driver go on."""
    async with harness.open() as driver:
        queue, other = await harness.queue(), await harness.queue()
        await send(driver, queue, [message()])
        delivery = await receive_one(driver, queue)
        waits = [asyncio.create_task(driver.receive(other, 1, min(10.0, driver.limits.receive_wait))) for _ in range(4)]
        await asyncio.sleep(0)
        async with asyncio.timeout(3):
            assert await driver.ack(queue, [delivery]) == [Settled.OK]
            await send(driver, queue, [message(1)])
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def a_cancelled_receive_strands_nothing(harness: Harness) -> None:
    """A receive that is cancelled while its messages are on the way gives them back: nobody waits for a lease to end."""
    for turns in range(6):
        async with harness.open() as driver:
            queue = await harness.queue()
            await send(driver, queue, [message(number) for number in range(3)])
            receiving = asyncio.create_task(driver.receive(queue, 3, min(10.0, driver.limits.receive_wait)))
            for _ in range(turns):
                await asyncio.sleep(0)
            receiving.cancel()
            answer = (await asyncio.gather(receiving, return_exceptions=True))[0]
            found = [] if isinstance(answer, BaseException) else list(answer)
            async with asyncio.timeout(15):
                found += await receive_all(driver, queue, 3 - len(found), wait=2.0)
            assert len(found) == 3


async def receivers_share_without_overlap(harness: Harness) -> None:
    """Of several receivers at once, each message goes to one."""
    async with harness.open() as driver, harness.open() as other:
        queue = await harness.queue()
        await send(driver, queue, [message(number) for number in range(30)])
        ids: list[bytes] = []

        async def take(who: object) -> None:
            receiver = driver if who == 0 else other
            while found := await receiver.receive(queue, 3, 0.3):
                ids.extend(delivery.body for delivery in found)
                await receiver.ack(queue, found)

        await asyncio.gather(take(0), take(1), take(0), take(1))
        assert sorted(ids) == sorted(message(number).body for number in range(30))


async def a_delay_is_kept_by_the_provider(harness: Harness) -> None:
    """A delayed message is not received before its time, and is after it, whoever lives."""
    async with harness.open() as driver:
        need(driver.limits.send_delay > 0, "no native delay: the core composes it")
        queue = await harness.queue()
        delay = harness.tick * 2
        await send(driver, queue, [message(delay=delay)])
        await nothing(driver, queue)
        await harness.pass_time(delay + harness.tick)
        assert (await receive_one(driver, queue)).deliveries == 1


async def a_repeated_id_is_dropped_in_its_window(harness: Harness) -> None:
    """Where the provider deduplicates, a second message of the same id is confirmed and dropped, also after the first's ack."""
    async with harness.open() as driver:
        need(driver.limits.dedup != "none", "no native deduplication")
        queue = await harness.queue(dedup=300.0, ordered=driver.limits.dedup == "ordered")
        await send(driver, queue, [message(1)])
        await send(driver, queue, [message(1), message(2)])
        found = await receive_all(driver, queue, 2)
        assert {delivery.body for delivery in found} == {message(1).body, message(2).body}
        await driver.ack(queue, found)
        await send(driver, queue, [message(1)])
        await nothing(driver, queue)


async def what_is_scheduled_can_be_taken_back(harness: Harness) -> None:
    """Where the provider can: what was cancelled never comes, its neighbour does, and what came cannot be cancelled."""
    async with harness.open() as driver:
        need(driver.limits.cancels, "nothing is taken back")
        assert isinstance(driver, Schedules)
        queue = await harness.queue()
        tokens = [await driver.schedule(queue, message(number, delay=60.0)) for number in range(2)]
        assert await driver.cancel(queue, tokens[0]) is True
        assert await driver.cancel(queue, tokens[0]) is False
        released = await driver.schedule(queue, message(2, delay=harness.tick))
        await harness.pass_time(harness.tick * 2)
        held = await receive_one(driver, queue)
        await driver.release(queue, [Release(held, min(30.0, driver.limits.release_delay), counted=False)])
        assert await driver.cancel(queue, released) is False
        await harness.pass_time(60.0 + harness.tick)
        bodies = {delivery.body for delivery in await receive_all(driver, queue, 2)}
        assert bodies == {message(1).body, message(2).body}
        assert await driver.cancel(queue, tokens[1]) is False
        await nothing(driver, queue)


async def what_is_counted_is_true_or_unknown(harness: Harness) -> None:
    """Ready, in flight and delayed are right where the provider tells them, and None where it does not: never a made-up 0."""
    async with harness.open() as driver:
        queue = await harness.queue()
        batch = [message(number) for number in range(5)]
        if driver.limits.send_delay > 0:
            batch.append(message(5, delay=min(600.0, driver.limits.send_delay)))
        await send(driver, queue, batch)
        await receive_all(driver, queue, 2)
        stats = await driver.stats(queue)
        assert stats.ready in (None, 3)
        assert stats.in_flight in (None, 2)
        assert stats.unsettled in (None, 5)
        assert stats.delayed in (None, len(batch) - 5)
        assert stats.oldest_age is None or stats.oldest_age >= 0


async def a_peek_changes_nothing(harness: Harness) -> None:
    """Where messages can be looked at, looking leaves them as they were."""
    async with harness.open() as driver:
        need(isinstance(driver, Peeks), "no peek")
        assert isinstance(driver, Peeks)
        queue = await harness.queue()
        await send(driver, queue, [message(number) for number in range(3)])
        for _ in range(3):
            assert [delivery.body for delivery in await driver.peek(queue, 2)] == [message(0).body, message(1).body]
        assert {delivery.deliveries for delivery in await receive_all(driver, queue, 3)} == {1}


async def unwrapping_to_what_it_is_not_is_a_type_error(harness: Harness) -> None:
    """The escape hatch says what there is instead of returning something else."""
    async with harness.open() as driver:
        refusal = ""
        try:
            driver.unwrap(complex)
        except TypeError as error:
            refusal = str(error)
        assert "can be unwrapped to" in refusal


async def closing_twice_is_closing_once(harness: Harness) -> None:
    """A second close does nothing."""
    async with harness.open() as driver:
        await driver.stats(await harness.queue())
        await driver.aclose()
        await driver.aclose()


SCENARIOS = collect(globals())
