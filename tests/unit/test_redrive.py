"""Dead letters taken back: what is meant and no more, confirmed before it is removed, on every kind of provider."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from click.testing import CliRunner

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.deadletters import Wanted, look, open_letter, write
from cloudq.driver import RECORD, Burial, Delivery, Outgoing, Part
from cloudq.envelope import decode
from cloudq.errors import Unavailable
from cloudq.outcome import Bury, Kind
from cloudq.redrive import purge, redrive
from cloudq_local.memory import MemoryDriver
from support.virtual import virtually

MODELS = ("", "?as=sqs", "?as=pubsub", "?as=servicebus")
numbers = itertools.count()
on_each = pytest.mark.parametrize("model", MODELS)


class Killed(BaseException):
    pass


def shop(clock, model=""):
    app = CloudQ(
        f"memory://redrive-{next(numbers)}{model}",
        queues={"mail": {"priorities": ["high", "normal"], "lease": 30}},
        clock=clock,
    )

    @app.task(queue="mail", name="send")
    def send(to: str) -> None: ...

    return app


async def bury(app, count, kind=Kind.FAILED, *, bodies=None, reason="no such address"):
    """Put dead letters where the core would put them."""
    task = app.declared.get("send")
    async with app.driver(app.url_of("mail")) as driver:
        dead = app.address("mail", Part.DEAD)
        for number in range(count):
            message = task.options(priority="high", expires="1s").message(f"{number}@x")
            outgoing = app._compose(message).outgoing
            body = bodies[number] if bodies else outgoing.body
            delivery = Delivery(dead, body, None, 3, 0.0)
            record = write(
                Bury(kind, reason),
                delivery,
                driver.limits,
                now=app.clock.time(),
                task="" if bodies else "send",
                task_id="",
                attempts=3,
            )
            assert not await driver.send(dead, [Outgoing(body, f"m{number}", attributes={RECORD: record, "kept": "yes"})])


async def received(app, part, priority="normal"):
    async with app.driver(app.url_of("mail")) as driver:
        queue = app.address("mail", part, priority)
        found = []
        while batch := await driver.receive(queue, driver.limits.receive_count, 0.0):
            found += batch
        return found


async def dead(app):
    async with app.driver(app.url_of("mail")) as driver:
        return [open_letter(delivery) for delivery in await look(driver, app.address("mail", Part.DEAD), 1000)]


@on_each
@virtually
async def test_what_is_redriven_begins_again_on_its_priority(clock, model):
    app = shop(clock, model)
    await bury(app, 25)
    await asyncio.sleep(5)
    now = clock.time()
    tally = await redrive(app, "mail", Wanted(), limit=1000)
    assert (tally.done, tally.failed, tally.doubtful, tally.kept) == (25, 0, 0, 0)
    back = await received(app, Part.MAIN, "high")
    assert len(back) == 25
    for delivery in back:
        envelope = decode(delivery.body)
        assert (envelope.attempts, envelope.generation, envelope.expires, envelope.since) == (
            0,
            1,
            None,
            now,
        )
        assert delivery.attributes == {"kept": "yes"}
        assert delivery.message_id == f"{envelope.id}:1"
    assert not await dead(app)


@on_each
@virtually
async def test_what_is_not_meant_stays_and_can_be_received_again(clock, model):
    app = shop(clock, model)
    await bury(app, 15, Kind.FAILED)
    await bury(app, 15, Kind.EXPIRED)
    tally = await redrive(app, "mail", Wanted(kinds=("expired",)), limit=1000)
    assert (tally.done, tally.kept) == (15, 15)
    assert {letter.record.kind for letter in await dead(app)} == {"failed"}
    assert len(await dead(app)) == 15


@on_each
@virtually
async def test_what_cannot_be_read_goes_back_byte_for_byte(clock, model):
    app = shop(clock, model)
    await bury(app, 1, Kind.UNREADABLE, bodies=[b"\xff\x00 from elsewhere"])
    assert (await redrive(app, "mail", Wanted(), limit=1000)).done == 1
    assert [delivery.body for delivery in await received(app, Part.MAIN)] == [b"\xff\x00 from elsewhere"]


@on_each
@virtually
async def test_the_limit_and_a_slow_rate_keep_the_rest(clock, model):
    app = shop(clock, model)
    await bury(app, 60)
    began = clock.monotonic()
    tally = await redrive(app, "mail", Wanted(), limit=40, rate=0.5)
    assert tally.done == 40
    assert clock.monotonic() - began >= 79
    assert len(await dead(app)) == 20


@virtually
async def test_what_is_held_is_kept_through_a_walk_longer_than_its_lease(clock):
    app = shop(clock, "?as=sqs")
    await bury(app, 20, Kind.REJECTED)
    await bury(app, 40, Kind.FAILED)
    tally = await redrive(app, "mail", Wanted(kinds=("failed",)), limit=1000, rate=0.5)
    assert (tally.done, tally.kept) == (40, 20)
    assert len(await dead(app)) == 20


@virtually
async def test_a_letter_whose_copy_is_not_confirmed_stays_dead(clock):
    app = shop(clock)
    await bury(app, 3)
    send = MemoryDriver.send

    async def refuse(self, queue, batch):
        if queue.part is Part.MAIN:
            raise Unavailable("down")
        return await send(self, queue, batch)

    MemoryDriver.send = refuse
    try:
        tally = await redrive(app, "mail", Wanted(), limit=1000)
    finally:
        MemoryDriver.send = send
    assert (tally.done, tally.failed, tally.kept, tally.error) == (0, 3, 0, "down")
    assert len(await dead(app)) == 3
    assert not await received(app, Part.MAIN, "high")


@virtually
async def test_a_kill_between_copy_and_ack_leaves_the_letter_dead(clock):
    app = shop(clock)
    await bury(app, 3)
    ack = MemoryDriver.ack

    async def killed(self, queue, batch):
        raise Killed

    MemoryDriver.ack = killed
    try:
        with pytest.raises(Killed):
            await redrive(app, "mail", Wanted(), limit=1000)
    finally:
        MemoryDriver.ack = ack
    assert len(await received(app, Part.MAIN, "high")) == 3
    await asyncio.sleep(31)
    assert len(await dead(app)) == 3


@on_each
@virtually
async def test_purge_removes_what_is_meant_for_good(clock, model):
    app = shop(clock, model)
    await bury(app, 5, reason="no such address")
    await asyncio.sleep(3600)
    await bury(app, 5, reason="timed out")
    tally = await purge(app, "mail", Wanted(before=clock.time() - 1800), limit=1000)
    assert (tally.done, tally.kept) == (5, 5)
    assert {letter.record.reason for letter in await dead(app)} == {"timed out"}
    assert (await purge(app, "mail", Wanted(reason="no such"), limit=1000)).done == 0


PROGRAM = """
from cloudq import CloudQ, Reject
app = CloudQ("sqlite:///q.db")
allowed = False

@app.task
def send(to: str) -> None:
    import os
    if not os.path.exists("repaired"):
        raise Reject(f"no such address: {to}")
    print(f"sent to {to}")
"""


@pytest.fixture
def cli(tmp_path, monkeypatch):
    (tmp_path / "redriven_shop.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CODESPACES", "1")

    def run(*arguments, **options):
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False, **options)

    return run


def test_the_bad_day(cli, tmp_path):
    for address in ("a", "b"):
        assert cli("enqueue", "redriven_shop:app", "redriven_shop.send", address).exit_code == 0
    assert cli("worker", "redriven_shop:app", "--burst").exit_code == 0
    listed = json.loads(cli("dlq", "ls", "redriven_shop:app", "--json").output)
    assert [letter["kind"] for letter in listed] == ["rejected", "rejected"]
    one = listed[0]["task_id"]
    assert "no such address" in cli("dlq", "show", "redriven_shop:app", one[:8]).output
    assert "1 would be redriven" in cli("dlq", "redrive", "redriven_shop:app", "--id", one[:8], "--dry-run").output
    assert len(json.loads(cli("dlq", "ls", "redriven_shop:app", "--json").output)) == 2
    (tmp_path / "repaired").touch()
    assert cli("dlq", "redrive", "redriven_shop:app", "--id", one[:8]).output == "default: 1 redriven, 1 kept\n"
    assert "sent to a" in cli("worker", "redriven_shop:app", "--burst").output
    assert cli("dlq", "purge", "redriven_shop:app", input="n\n").exit_code == 1
    assert len(json.loads(cli("dlq", "ls", "redriven_shop:app", "--json").output)) == 1
    assert cli("dlq", "purge", "redriven_shop:app", "--yes").output == "default: 1 purged\n"
    assert cli("dlq", "ls", "redriven_shop:app").output == "no dead letters\n"


def test_filters_are_checked(cli):
    assert cli("dlq", "ls", "redriven_shop:app", "--queue", "defualt").exit_code == 2
    assert cli("dlq", "ls", "redriven_shop:app", "--kind", "fialed").exit_code == 2
    assert cli("dlq", "ls", "redriven_shop:app", "--older-than", "soon").exit_code == 2


@virtually
async def test_what_cannot_be_read_is_not_dropped_as_a_duplicate_of_itself(clock):
    app = CloudQ(f"memory://redrive-{next(numbers)}", queues={"mail": {"dedup": "1h"}}, clock=clock)
    app.task(queue="mail", name="send")(lambda: None)
    async with app.driver(app.url_of("mail")) as driver:
        main_queue, dead_queue = app.address("mail", Part.MAIN), app.address("mail", Part.DEAD)
        assert not await driver.send(main_queue, [Outgoing(b"\xff", "foreign-1")])
        (delivery,) = await driver.receive(main_queue, 1, 0.0)
        await driver.dead_letter(main_queue, dead_queue, [Burial(delivery, "unreadable", "{}")])
    assert (await redrive(app, "mail", Wanted(), limit=10)).done == 1
    assert len(await received(app, Part.MAIN)) == 1


@virtually
async def test_an_ack_without_an_answer_is_told_as_doubtful(clock):
    app = shop(clock)
    await bury(app, 3)
    ack = MemoryDriver.ack

    async def down(self, queue, batch):
        raise Unavailable("down")

    MemoryDriver.ack = down
    try:
        tally = await redrive(app, "mail", Wanted(), limit=10)
    finally:
        MemoryDriver.ack = ack
    assert (tally.done, tally.doubtful, tally.error) == (0, 3, "down")


@virtually
async def test_a_rate_slower_than_a_lease_loses_nothing_that_is_held(clock):
    app = shop(clock, "?as=sqs")
    await bury(app, 4, Kind.REJECTED)
    await bury(app, 3, Kind.FAILED)
    tally = await redrive(app, "mail", Wanted(kinds=("failed",)), limit=100, rate=0.02)
    assert (tally.done, tally.kept) == (3, 4)


@virtually
async def test_what_dies_meanwhile_is_left(clock):
    app = shop(clock)
    await bury(app, 1)
    send = MemoryDriver.send

    async def dies_again(self, queue, batch):
        if queue.part is Part.MAIN:
            await asyncio.sleep(1)
            await bury(app, 1)
        return await send(self, queue, batch)

    MemoryDriver.send = dies_again
    try:
        tally = await redrive(app, "mail", Wanted(), limit=10)
    finally:
        MemoryDriver.send = send
    assert (tally.done, tally.kept) == (1, 1)


@virtually
async def test_the_ordering_key_comes_along(clock):
    app = CloudQ(f"memory://redrive-{next(numbers)}", queues={"mail": {"ordered": True}}, clock=clock)
    task = app.task(queue="mail", name="send")(lambda: None)
    async with app.driver(app.url_of("mail")) as driver:
        outgoing = app._compose(task.options(ordering_key="k").message()).outgoing
        assert not await driver.send(app.address("mail", Part.DEAD), [outgoing])
    await redrive(app, "mail", Wanted(), limit=10)
    assert [delivery.group for delivery in await received(app, Part.MAIN)] == ["k"]
