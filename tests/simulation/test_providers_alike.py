"""The same program on every provider: runs, order, attempts and dead letters are the same, or `check` says where they are not.

Each scenario is one promise. It runs in virtual time on `memory://`, which keeps every promise natively, and on
`memory://?as=<provider>`, with that provider's limits and semantics. The traces must be equal, except where DIFFERENCES names
the aspect, and there `cloudq check` must declare it: refused, or kept with a note of where it falls short.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import sys
from datetime import UTC, datetime

import pytest

from cloudq import Backoff, Reject, Retry
from cloudq.facts import How, facts_of
from cloudq.mapping import assess
from cloudq.task import Declared
from support import virtual
from support.stage import LEASE, Stage

PROVIDERS = ("sqs", "pubsub", "servicebus")
MINUTE, HOUR, DAY = 60, 3600, 86400
PLAIN = {"main": {}}
ORDERED = {"main": {"ordered": True}}
LEVELS = {"main": {"priorities": ["high", "normal", "low"]}}
TWICE = Backoff(max_attempts=2, first=5, cap=5)
QUICK = Backoff(max_attempts=4, first=10, cap=60)

#: (scenario, provider) -> the aspect in which they differ. `check` must say so.
DIFFERENCES = {
    **{("a_delay_with_a_key_is_kept_or_refused", provider): "delay" for provider in PROVIDERS},
    **{("what_is_sent_twice_within_the_window_runs_once", provider): "dedup" for provider in ("sqs", "pubsub")},
    ("ordered_work_sent_twice_within_the_window_runs_once", "pubsub"): "dedup",
    **{("a_task_that_ends_its_worker_again_and_again_is_given_up", provider): "attempts" for provider in PROVIDERS},
    **{("what_a_drain_gives_back_unrun_is_run_elsewhere", provider): "attempts" for provider in PROVIDERS},
    ("a_long_story_is_cut_to_the_room_there_is", "pubsub"): "dead-letter",
    ("a_coroutine_is_cancelled_at_its_timeout_and_tried_again", "pubsub"): "dead-letter",  # its traceback is cut
    ("a_long_story_is_cut_to_the_room_there_is", "servicebus"): "dead-letter",
}

#: How often it was offered, or how many runs fit into ten minutes, is the jitter's matter; what became of it is not.
COUNTED_ROUGHLY = ("a_newer_envelope_is_offered_and_then_kept", "what_is_too_old_is_given_up")


def fails(times, error=RuntimeError):
    """A body that raises the first so many times."""
    left = {}

    async def body(ctx, label):
        left.setdefault(label, times)
        if left[label]:
            left[label] -= 1
            raise error("told to")

    return body


def takes(seconds):
    async def body(ctx, label):
        await asyncio.sleep(seconds)

    return body


# Running and failing -------------------------------------------------------------------------------------------------------


async def what_succeeds_is_removed(stage):
    await stage.enqueue(stage.task(), "a")
    await stage.work(MINUTE)


async def what_fails_once_runs_again(stage):
    await stage.enqueue(stage.task(body=fails(1), retry=QUICK), "a")
    await stage.work(10 * MINUTE)


async def what_fails_always_is_kept_after_its_last_attempt(stage):
    await stage.enqueue(stage.task(body=fails(9), retry=QUICK), "a")
    await stage.work(HOUR)


async def a_retry_waits_at_the_provider_and_lets_others_run(stage):
    task = stage.task(body=fails(1), retry=Backoff(max_attempts=2, first=60, cap=60))
    await stage.enqueue(task, "a")
    async with stage.worker():
        await asyncio.sleep(1)
        await stage.enqueue(task, "b")
        await asyncio.sleep(10 * MINUTE)


async def a_task_asks_for_its_own_retry(stage):
    async def body(ctx, label):
        if ctx.attempt < 3:
            raise Retry(after=20 * ctx.attempt)

    await stage.enqueue(stage.task(body=body), "a")
    await stage.work(10 * MINUTE)


async def a_backoff_of_twenty_minutes_is_kept(stage):
    await stage.enqueue(stage.task(body=fails(2), retry=Backoff(max_attempts=4, first="20m", cap="20m")), "a")
    await stage.work(2 * HOUR)


async def a_backoff_of_twelve_hours_is_kept(stage):
    await stage.enqueue(stage.task(body=fails(1), retry=Backoff(max_attempts=4, first="13h", cap="13h", max_age="3d")), "a")
    await stage.work(14 * HOUR)


async def attempts_are_counted_across_copies(stage):
    await stage.enqueue(stage.task(body=fails(9), retry=Backoff(max_attempts=5, first="2m", factor=4, cap="7h")), "a")
    await stage.work(4 * HOUR)


async def a_rejected_task_never_runs_again(stage):
    await stage.enqueue(stage.task(body=fails(9, Reject)), "a")
    await stage.work(HOUR)


async def what_is_too_old_is_given_up(stage):
    await stage.enqueue(stage.task(body=fails(99), retry=Backoff(first=60, cap=60, max_attempts=50, max_age="10m")), "a")
    await stage.work(HOUR)


async def a_coroutine_is_cancelled_at_its_timeout_and_tried_again(stage):
    await stage.enqueue(stage.task(body=takes(HOUR), timeout="5s", retry=TWICE), "a")
    await stage.work(10 * MINUTE)


async def a_long_run_keeps_its_lease(stage):
    await stage.enqueue(stage.task(body=takes(5 * LEASE)), "a")
    await stage.work(10 * LEASE, concurrency=2)


async def what_is_enqueued_twice_runs_twice(stage):
    task = stage.task()
    await stage.enqueue(task, "a", task_id="same")
    await stage.enqueue(task, "a", task_id="same")
    await stage.work(MINUTE)


async def many_run_once_each(stage):
    task = stage.task()
    await asyncio.gather(*(stage.enqueue(task, f"{number:02}") for number in range(25)))
    await stage.work(10 * MINUTE, concurrency=4)
    stage.trace.sort()


async def a_middleware_may_reject(stage):
    from contextlib import contextmanager

    @stage.app.middleware
    @contextmanager
    def translate(ctx):
        try:
            yield
        except LookupError as error:
            raise Reject("no such thing") from error

    await stage.enqueue(stage.task(body=fails(9, LookupError)), "a")
    await stage.work(HOUR)


async def hooks_are_called_at_the_end(stage):
    task = stage.task(
        body=fails(1),
        retry=TWICE,
        on_success=lambda ctx, result: stage.say("on_success", ctx.attempt),
        on_failure=lambda ctx, error: stage.say("on_failure", ctx.attempt),
    )
    other = stage.task(name="other", body=fails(9), retry=TWICE, on_failure=lambda ctx, error: stage.say("gone", ctx.attempt))
    await stage.enqueue(task, "a")
    await stage.work(5 * MINUTE)
    await stage.enqueue(other, "b")
    await stage.work(5 * MINUTE)


async def no_more_than_its_cap_runs_at_once(stage):
    task = stage.task(body=takes(10), max_concurrency=1)
    for label in "abc":
        await stage.enqueue(task, label)
    await stage.work(5 * MINUTE, concurrency=4)


# What cannot be run --------------------------------------------------------------------------------------------------------


async def an_unknown_task_is_offered_and_then_kept(stage):
    await stage.enqueue(stage.task(), "a")
    await stage.work(3 * HOUR, knows=Declared())


async def an_unknown_task_runs_on_a_worker_that_knows_it(stage):
    await stage.enqueue(stage.task(), "a")
    await stage.work(10 * MINUTE, knows=Declared())
    await stage.work(10 * MINUTE)


async def what_cannot_be_read_is_kept_byte_for_byte(stage):
    stage.task()
    await stage.send(b"\x00\xff not for you")
    await stage.work(MINUTE)


async def arguments_that_do_not_fit_are_kept(stage):
    stage.task()
    await stage.send(_foreign({"label": 5}))
    await stage.work(MINUTE)


async def a_newer_envelope_is_offered_and_then_kept(stage):
    stage.task()
    await stage.send(_foreign({}, version=2))
    await stage.work(3 * HOUR)


async def another_producer_needs_five_fields(stage):
    stage.task()
    await stage.send(_foreign({"label": "foreign"}))
    await stage.work(MINUTE)


async def a_long_story_is_cut_to_the_room_there_is(stage):
    async def body(ctx, label):
        raise Reject("x" * 500 + "y" * 5000)

    await stage.enqueue(stage.task(body=body), "a")
    await stage.work(MINUTE)


# Time ----------------------------------------------------------------------------------------------------------------------


async def what_has_expired_is_kept_and_not_run(stage):
    await stage.enqueue(stage.task(), "a", expires=60)
    await asyncio.sleep(2 * MINUTE)
    await stage.work(MINUTE)


async def what_has_expired_is_dropped_where_it_may(stage):
    await stage.enqueue(stage.task(on_expiry="drop"), "a", expires=60)
    await asyncio.sleep(2 * MINUTE)
    await stage.work(MINUTE)


async def what_is_run_in_time_does_not_expire(stage):
    await stage.enqueue(stage.task(), "a", delay=100, expires="1h")
    await stage.work(10 * MINUTE)


def delayed(seconds):
    async def scenario(stage):
        async with stage.worker():
            await stage.enqueue(stage.task(), "a", delay=seconds)
            await asyncio.sleep(seconds - 2)
            stage.say("not yet")
            await asyncio.sleep(MINUTE)

    return scenario


a_delay_of_seconds_is_kept = delayed(8)
a_delay_of_twenty_minutes_is_kept = delayed(20 * MINUTE)
a_delay_of_hours_is_kept = delayed(7 * HOUR)
a_delay_of_more_than_a_day_is_kept = delayed(DAY + 5)


async def a_time_of_day_is_kept(stage):
    async with stage.worker():
        at = datetime.fromtimestamp(stage.clock.time() + 3 * HOUR, UTC)
        await stage.enqueue(stage.task(), "a", at=at)
        await asyncio.sleep(3 * HOUR - 2)
        stage.say("not yet")
        await asyncio.sleep(MINUTE)


async def delays_end_in_their_order(stage):
    task = stage.task()
    for label, delay in (("c", 3 * HOUR), ("a", 30), ("b", 25 * MINUTE)):
        await stage.enqueue(task, label, delay=delay)
    await stage.work(4 * HOUR)


async def a_delay_outlives_a_crash(stage):
    await stage.enqueue(stage.task(), "a", delay=2 * HOUR)
    async with stage.worker() as worker:
        await asyncio.sleep(HOUR)
        await worker.crash()
    await stage.work(2 * HOUR)


async def what_failed_after_a_delay_is_retried_from_there(stage):
    await stage.enqueue(stage.task(body=fails(2), retry=QUICK), "a", delay=HOUR)
    await stage.work(2 * HOUR)


# Priority and order --------------------------------------------------------------------------------------------------------


async def the_higher_priority_goes_first(stage):
    task = stage.task()
    for label in ("low", "normal", "high"):
        await stage.enqueue(task, label, priority=label)
    await stage.work(MINUTE)


async def a_delayed_task_keeps_its_priority(stage):
    async def body(ctx, label):
        stage.say("on", ctx.priority)

    task = stage.task(body=body)
    for label, delay in (("high", HOUR), ("low", HOUR + 10), ("normal", HOUR + 20)):
        await stage.enqueue(task, label, priority=label, delay=delay)
    await stage.work(2 * HOUR)


async def a_retry_keeps_its_priority(stage):
    task = stage.task(body=fails(1), retry=Backoff(max_attempts=2, first="30m", cap="30m"))
    await stage.enqueue(task, "high", priority="high")
    await stage.work(2 * HOUR)


async def tasks_of_one_key_run_in_order(stage):
    task = stage.task(body=takes(1))
    for label in "abcde":
        await stage.enqueue(task, label, ordering_key="k")
    await stage.work(MINUTE, concurrency=4)


async def a_failed_head_is_run_again_before_the_next_of_its_key(stage):
    task = stage.task(body=fails(1), retry=Backoff(max_attempts=3, first=20, cap=20))
    for label in "abc":
        await stage.enqueue(task, label, ordering_key="k")
    await stage.work(20 * MINUTE, concurrency=4)


async def what_waits_behind_a_failing_head_is_run(stage):
    head = stage.task("head", body=fails(9), retry=Backoff(max_attempts=10, first=5, cap=5))
    once = stage.task("once", retry=Backoff(max_attempts=1))
    await stage.enqueue(head, "h", ordering_key="k")
    for label in "abc":
        await stage.enqueue(once, label, ordering_key="k")
    await stage.work(HOUR, concurrency=4)


async def a_rejected_head_frees_its_key(stage):
    async def body(ctx, label):
        if label == "a":
            raise Reject("bad")

    task = stage.task(body=body)
    for label in "abc":
        await stage.enqueue(task, label, ordering_key="k")
    await stage.work(MINUTE, concurrency=4)


async def a_delay_with_a_key_is_kept_or_refused(stage):
    task = stage.task()
    await stage.enqueue(task, "a", ordering_key="k", delay=60)
    await stage.work(5 * MINUTE)


async def what_is_sent_twice_within_the_window_runs_once(stage):
    await what_is_enqueued_twice_runs_twice(stage)


async def ordered_work_sent_twice_within_the_window_runs_once(stage):
    task = stage.task()
    await stage.enqueue(task, "a", task_id="same", ordering_key="k")
    await stage.enqueue(task, "a", task_id="same", ordering_key="k")
    await stage.work(MINUTE)


# Workers that end ----------------------------------------------------------------------------------------------------------


async def a_crash_gives_the_task_to_another_worker(stage):
    await stage.enqueue(stage.task(body=takes(20)), "a")
    async with stage.worker() as worker:
        await asyncio.sleep(5)
        await worker.crash()
    await stage.work(5 * MINUTE)


async def a_task_that_ends_its_worker_again_and_again_is_given_up(stage):
    await stage.enqueue(stage.task(body=takes(20), retry=QUICK), "a")
    for _ in range(12):
        async with stage.worker() as worker:
            await asyncio.sleep(5)
            await worker.crash()
        await asyncio.sleep(LEASE + 1)


async def what_a_drain_gives_back_unrun_is_run_elsewhere(stage):
    # The second is in hand when the worker is told to end: it waits behind the first of its kind.
    task = stage.task(body=takes(3), max_concurrency=1)
    await stage.enqueue(task, "a")
    await stage.enqueue(task, "b")
    await stage.work(1, concurrency=4)
    await stage.work(MINUTE)


async def a_run_that_is_cut_off_counts(stage):
    await stage.enqueue(stage.task(body=takes(60)), "a")
    await stage.work(10, grace=5)
    await stage.work(10 * MINUTE)


# Taken back ----------------------------------------------------------------------------------------------------------------


async def what_is_redriven_has_all_its_attempts_again(stage):
    await stage.enqueue(stage.task(body=fails(3), retry=TWICE), "a")
    await stage.work(5 * MINUTE)
    await stage.redrive()
    await stage.work(5 * MINUTE)


async def what_had_expired_runs_when_it_is_redriven(stage):
    await stage.enqueue(stage.task(), "a", expires=10)
    await asyncio.sleep(MINUTE)
    await stage.work(MINUTE)
    await stage.redrive(kinds=("expired",))
    await stage.work(MINUTE)


async def what_cannot_be_read_is_dead_again_after_a_redrive(stage):
    stage.task()
    await stage.send(b"no json")
    await stage.work(MINUTE)
    await stage.redrive()
    await stage.work(MINUTE)


async def only_what_is_meant_is_redriven(stage):
    task = stage.task(body=fails(9, Reject))
    other = stage.task(name="other", body=fails(1, Reject))
    await stage.enqueue(task, "a")
    await stage.enqueue(other, "b")
    await stage.work(MINUTE)
    await stage.redrive(tasks=("other",))
    await stage.work(MINUTE)


def _foreign(arguments, version=1):
    """An envelope as docs/envelope.md describes it for other languages."""
    return json.dumps(
        {"cloudq": version, "id": "from-elsewhere", "type": "work", "time": 1_700_000_000, "data": arguments}
    ).encode()


QUEUES = {
    "the_higher_priority_goes_first": LEVELS,
    "a_delayed_task_keeps_its_priority": LEVELS,
    "a_retry_keeps_its_priority": LEVELS,
    "tasks_of_one_key_run_in_order": ORDERED,
    "a_failed_head_is_run_again_before_the_next_of_its_key": ORDERED,
    "a_rejected_head_frees_its_key": ORDERED,
    "what_waits_behind_a_failing_head_is_run": ORDERED,
    "a_delay_with_a_key_is_kept_or_refused": ORDERED,
    "what_is_sent_twice_within_the_window_runs_once": {"main": {"dedup": 300}},
    "ordered_work_sent_twice_within_the_window_runs_once": {"main": {"dedup": 300, "ordered": True}},
}
SCENARIOS = {
    name: value
    for name, value in list(vars(sys.modules[__name__]).items())
    if inspect.iscoroutinefunction(value) and value.__module__ == __name__
}


@functools.cache
def play(name, provider):
    """Return the trace, and what `check` says of the application on that provider."""

    async def scene(clock):
        stage = Stage(clock, provider, QUEUES.get(name, PLAIN))
        try:
            await SCENARIOS[name](stage)
        except Exception as error:  # a refusal is part of what can be seen
            stage.say("raised", type(error).__name__, error)
        trace = await stage.ended()
        if name in COUNTED_ROUGHLY:
            trace = [line.partition(" attempts ")[0] for line in trace if not line.startswith(("run", "raised"))]
        return trace, assess(stage.app, facts_of(provider))

    return virtual.run(scene)


def test_there_are_enough_scenarios():
    assert len(SCENARIOS) >= 40
    assert set(QUEUES) <= set(SCENARIOS)
    assert {name for name, _ in DIFFERENCES} <= set(SCENARIOS)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_alike(name, provider):
    expected, _ = play(name, "memory")
    trace, lines = play(name, provider)
    aspect = DIFFERENCES.get((name, provider))
    if aspect is None:
        assert trace == expected
        return
    assert trace != expected, "they do not differ any more: take it out of DIFFERENCES"
    declared = [line for line in lines if line.aspect == aspect and (line.note or line.how is How.REFUSED)]
    assert declared, f"{provider} differs in {aspect}, and check does not say so"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_reference_shows_something(name):
    """A scenario in which nothing happens would be alike everywhere."""
    trace, _ = play(name, "memory")
    assert any(line.startswith(("run", "dead", "left in main 0")) for line in trace)
