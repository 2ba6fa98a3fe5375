"""What was handed to a runner, and has not begun when it may begin no more."""

from __future__ import annotations

import asyncio
import random
import threading

import msgspec
import pytest

from cloudq import CloudQ
from cloudq.driver import Delivery, Queue
from cloudq.envelope import Envelope, encode
from cloudq.events import Events
from cloudq.execution import Execution
from cloudq.outcome import NotRun, Succeeded
from cloudq.worker.held import Held
from cloudq.worker.runners import ThreadRunner
from cloudq_local.facts import LIMITS
from support.clocks import ManualClock

CLOCK = ManualClock()
PATIENCE = 20.0


def isolated() -> None:
    """At the level of the module, where a process of its own could import it."""


class Stage:
    """One thread, a task that blocks it or its loop until it is let go, and one behind it."""

    def __init__(self, *, coroutines):
        self.others = set(threading.enumerate())  # of other tests
        self.begun, self.let_go, self.ran = threading.Event(), threading.Event(), []
        self.app = app = CloudQ("memory://runners")

        def block():
            self.ran.append("first")
            self.begun.set()
            assert self.let_go.wait(PATIENCE)

        app.task(name="isolated", isolate=True)(isolated)
        if coroutines:

            @app.task(name="first")
            async def first() -> None:
                block()

            @app.task(name="second")
            async def second() -> None:
                self.ran.append("second")
        else:

            @app.task(name="first")
            def first() -> None:
                block()

            @app.task(name="second")
            def second() -> None:
                self.ran.append("second")

        self.execution = Execution(app.declared, CLOCK, Events(), random.Random(1))
        self.runner = ThreadRunner(self.execution, 1, CLOCK)
        self.ended = asyncio.Queue()
        self.runner.start(lambda held, outcome: self.ended.put_nowait((held.task_name, outcome)), self.ended.put_nowait)

    async def hand_over_both(self):
        self.runner.submit(self.held("first"))
        assert await asyncio.to_thread(self.begun.wait, PATIENCE)
        self.runner.submit(self.held("second"))

    def held(self, task):
        body = encode(Envelope(cloudq=1, id=task, type=task, time=CLOCK.time(), data=msgspec.Raw(b"{}")))
        delivery = Delivery(Queue("main", "m"), body, None, 1, 60.0, crashes=0)
        job = self.execution.open(delivery, LIMITS)
        # A runner asks nothing of the station.
        return Held(delivery, None, CLOCK, lease_end=float("inf"), renew_at=float("inf"), job=job)

    def join(self):
        for thread in set(threading.enumerate()) - self.others:
            if thread.name.startswith("cloudq-task"):
                thread.join(PATIENCE)
                assert not thread.is_alive()

    async def next_end(self):
        async with asyncio.timeout(PATIENCE):
            return await self.ended.get()


@pytest.mark.parametrize("coroutines", [False, True], ids=["thread", "loop"])
async def test_what_has_not_begun_is_given_back_before_what_blocks_it_has_ended(coroutines):
    stage = Stage(coroutines=coroutines)
    await stage.hand_over_both()
    assert [held.task_name for held in stage.runner.begin_no_more()] == ["second"]
    stage.let_go.set()
    assert await stage.next_end() == ("first", Succeeded())
    stage.runner.stop()
    await asyncio.to_thread(stage.join)
    assert stage.ran == ["first"]
    assert stage.ended.empty()


@pytest.mark.parametrize("coroutines", [False, True], ids=["thread", "loop"])
async def test_nothing_begins_after_the_stop_of_a_runner(coroutines):
    stage = Stage(coroutines=coroutines)
    await stage.hand_over_both()
    stage.runner.stop()
    stage.let_go.set()
    await asyncio.to_thread(stage.join)
    assert stage.ran == ["first"]


async def test_coroutines_that_arrive_together_have_not_all_begun():
    stage, before = Stage(coroutines=True), threading.Event()

    @stage.app.task(name="before")
    async def hold() -> None:
        assert before.wait(PATIENCE)

    for task in ("before", "first", "second"):
        stage.runner.submit(stage.held(task))
    before.set()  # the loop finds the other two at once, and the first of them blocks it
    assert await asyncio.to_thread(stage.begun.wait, PATIENCE)
    assert [held.task_name for held in stage.runner.begin_no_more()] == ["second"]
    stage.let_go.set()
    stage.runner.stop()
    await asyncio.to_thread(stage.join)
    assert stage.ran == ["first"]


async def test_an_isolated_task_that_a_thread_has_just_taken_is_given_back_without_a_process():
    stage = Stage(coroutines=False)
    stage.runner.begin_no_more()
    stage.runner.submit(stage.held("isolated"))
    assert await stage.next_end() == ("isolated", NotRun())
    stage.runner.stop()
