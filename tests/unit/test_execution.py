"""What the user's code may do in a task, and in its arguments, without deciding what becomes of the message by accident."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import msgspec

from cloudq import CloudQ, deadletters
from cloudq.driver import Delivery, Queue
from cloudq.envelope import Envelope, encode
from cloudq.events import Events
from cloudq.execution import Execution, Job
from cloudq.outcome import Bury, Failed, Kind
from cloudq_local.facts import LIMITS as SQLITE
from support.clocks import ManualClock

CLOCK = ManualClock()


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@dataclasses.dataclass
class Picky:
    number: int

    def __post_init__(self):
        assert self.number > 0, "positive only"


def opened(task_function, data=b"{}"):
    app = CloudQ("memory://execution")
    app.task(name="x")(task_function)
    execution = Execution(app.declared, CLOCK, Events(), random.Random(1))
    body = encode(Envelope(cloudq=1, id="t", type="x", time=CLOCK.time(), data=msgspec.Raw(data)))
    delivery = Delivery(Queue("main", "m"), body, None, 1, 60.0, crashes=0)
    return execution, execution.open(delivery, SQLITE)


def outcome_of(task_function):
    execution, job = opened(task_function)
    assert isinstance(job, Job)
    if job.task.is_async:
        return asyncio.run(execution.run_async(job, lambda: False))
    return execution.run_sync(job, lambda: False)


def test_an_exception_that_cannot_be_printed_is_a_failure():
    def sync() -> None:
        raise Unprintable

    async def coroutine() -> None:
        raise Unprintable

    for function in (sync, coroutine):
        outcome = outcome_of(function)
        assert isinstance(outcome, Failed)
        assert "Unprintable" in outcome.error


def test_leaving_by_system_exit_is_a_failure():
    def leaves() -> None:
        raise SystemExit(3)

    assert isinstance(outcome_of(leaves), Failed)


def test_a_coroutine_that_nobody_runs_is_a_failure_and_no_success():
    async def inner() -> None: ...

    def outer() -> None:
        return inner()  # type: ignore[return-value]  # that is the mistake

    outcome = outcome_of(outer)
    assert isinstance(outcome, Failed)
    assert "async def" in outcome.error


def test_arguments_whose_own_code_raises_are_unreadable():
    def takes(picky: Picky) -> None: ...

    takes.__annotations__["picky"] = Picky
    _, (settlement, envelope) = opened(takes, b'{"picky":{"number":-1}}')
    assert isinstance(settlement, Bury)
    assert settlement.kind is Kind.UNREADABLE
    assert envelope is not None


def test_a_record_holds_what_utf8_cannot():
    delivery = Delivery(Queue("main", "m"), b"{}", None, 1, 60.0)
    bury = Bury(Kind.FAILED, "no file /data/\udcff.csv", "trace \udcff")
    text = deadletters.write(bury, delivery, SQLITE, now=1.0, task="x", task_id="t", attempts=1)
    assert "udcff" in msgspec.json.decode(text.encode())["reason"]


def test_a_record_is_cut_to_its_room_with_the_end_of_the_trace_kept():
    from dataclasses import replace

    bury = Bury(Kind.FAILED, "r" * 9000, "first line\n" * 3000 + "the mistake")
    delivery = Delivery(Queue("main", "m"), b"{}", None, 1, 60.0)
    for room in (65536, 1024, 400, 200):
        text = deadletters.write(
            bury, delivery, replace(SQLITE, attribute_bytes=room), now=1.0, task="x", task_id="t", attempts=1
        )
        assert len(text.encode()) <= room
        record = msgspec.json.decode(text, type=deadletters.Record)
        assert record.cut
        assert room < 1024 or record.trace.endswith("the mistake")
