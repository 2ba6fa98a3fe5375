from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq.driver import Delivery, Queue
from cloudq.envelope import Envelope, Newer, Unreadable
from cloudq.outcome import (
    CRASHES,
    EARLY,
    UNRUN_FORGIVEN,
    Ack,
    Bury,
    Failed,
    GiveBack,
    Kind,
    NotRun,
    Policy,
    Rejected,
    Resend,
    Retry,
    Run,
    Succeeded,
    admit,
    decide,
)
from cloudq.retry import Backoff
from cloudq_local.facts import LIMITS as SQLITE

NOW = 1_000_000.0
GRACE = 3600.0
QUEUE = Queue("main", "t-main")
COUNTING = replace(SQLITE, counts_crashes=False)
POLICY = Policy(Backoff(max_attempts=3, first=10, factor=2, cap=3600, max_age="1d"))


def envelope(**fields):
    return Envelope(**{"cloudq": 1, "id": "t", "type": "x", "time": NOW - 60, "data": msgspec.Raw(b"{}"), **fields})


def delivery(deliveries=1, crashes=0, **fields):
    return Delivery(
        **{
            "queue": QUEUE,
            "body": b"",
            "receipt": None,
            "deliveries": deliveries,
            "leased_for": 60,
            "crashes": crashes,
            **fields,
        }
    )


def admitted(reading, held=None, policy=POLICY, limits=SQLITE):
    return admit(reading, held or delivery(), policy, limits, NOW, GRACE)


def decided(outcome, held=None, limits=SQLITE, policy=POLICY, draw=0.5, **fields):
    return decide(outcome, envelope(**fields), held or delivery(), policy, limits, NOW, draw)


def test_an_ordinary_message_is_run_with_its_attempt():
    assert admitted(envelope()) == Run(1)
    assert admitted(envelope(attempts=4), delivery(2)) == Run(6)


def test_the_unreadable_is_buried_with_its_reason():
    assert admitted(Unreadable("no JSON")) == Bury(Kind.UNREADABLE, "no JSON")


def test_an_expired_task_is_buried_or_dropped():
    late = envelope(expires=NOW - 1)
    assert admitted(late).kind is Kind.EXPIRED
    assert admitted(late, policy=Policy(on_expiry="drop")) == Ack()
    assert admitted(envelope(expires=NOW + 1)) == Run(1)


def test_three_crashes_are_the_end_where_crashes_are_counted():
    assert admitted(envelope(), delivery(50, crashes=CRASHES - 1)) == Run(50)
    assert admitted(envelope(), delivery(50, crashes=CRASHES)).kind is Kind.CRASHED


def test_where_only_deliveries_are_counted_unrun_ones_are_forgiven():
    bound = POLICY.retry.max_attempts + UNRUN_FORGIVEN
    assert admitted(envelope(), delivery(1, None), limits=COUNTING) == Run(1)
    assert admitted(envelope(), delivery(bound, None), limits=COUNTING) == Run(bound)
    assert admitted(envelope(), delivery(bound + 1, None), limits=COUNTING).kind is Kind.CRASHED


def test_what_is_not_due_goes_back_without_counting():
    early = envelope(due=NOW + 100)
    assert admitted(early) == GiveBack(100, counted=False)
    assert admitted(envelope(due=NOW + 0.5)) == Run(1)
    assert admitted(early, delivery(3), limits=replace(SQLITE, release_delay=50)) == Resend(100, 2)


@pytest.mark.parametrize("reading", [envelope(), Newer(2)], ids=["unknown task", "newer version"])
def test_what_another_version_may_know_is_offered_for_the_grace_with_growing_delay(reading):
    policy = None
    waited, last = 0.0, 0.0
    for offer in range(1, 100):
        held = delivery(offer)
        verdict = admitted(reading, held, policy)
        if isinstance(verdict, Bury):
            break
        assert isinstance(verdict, (GiveBack, Resend))
        assert verdict.delay >= min(last, 1.0)
        waited, last = waited + verdict.delay, verdict.delay
    assert isinstance(verdict, Bury)
    assert GRACE <= waited <= GRACE + 300


def test_offers_of_an_unknown_task_are_not_attempts():
    verdict = admitted(envelope(attempts=1, offers=4), delivery(1), policy=None)
    assert verdict == Resend(80.0, 1, verdict.reason, offers=5)
    assert "'x'" in verdict.reason


def test_copies_made_for_a_long_delay_are_no_offers():
    assert admitted(envelope(generation=80), delivery(1), policy=None).delay == 5.0


def test_success_is_acked_and_rejection_buried():
    assert decided(Succeeded()) == Ack()
    assert decided(Rejected("no")) == Bury(Kind.REJECTED, "no")


def test_unrun_work_goes_back_at_once():
    assert decided(NotRun()) == GiveBack(0, counted=False)
    assert decided(NotRun(started=True)) == GiveBack(0, counted=True)


def test_a_failure_is_retried_with_backoff_until_its_last_attempt():
    assert decided(Failed("x"), draw=1.0) == GiveBack(10)
    assert decided(Failed("x"), delivery(2), draw=1.0) == GiveBack(20)
    assert decided(Failed("x"), delivery(2), draw=0.0) == GiveBack(10)
    last = decided(Failed("boom"), delivery(3))
    assert last.kind is Kind.FAILED
    assert "boom" in last.reason
    assert "attempt 3 of 3" in last.reason


def test_a_task_chooses_its_own_delay():
    assert decided(Failed("x", after=77)) == GiveBack(77)


def test_an_old_failure_is_given_up_by_age():
    assert decided(Failed("x"), time=NOW - 90_000).kind is Kind.FAILED
    # A task counts from when it was due, not from its enqueue.
    assert decided(Failed("x"), time=NOW - 90_000, due=NOW - 10) == GiveBack(7.5)


def test_a_delay_that_the_provider_cannot_hold_is_a_copy_and_never_for_ordered_work():
    short = replace(SQLITE, release_delay=5.0, ordered_release_delay=5.0)
    assert decided(Failed("x"), draw=1.0, limits=short) == Resend(10, 1)
    assert decided(Failed("x"), draw=1.0, limits=short, ordering_key="k") == GiveBack(5)


# To the edge ------------------------------------------------------------------------------------------------------------------


def test_the_bounds_are_the_documented_ones():
    assert (CRASHES, UNRUN_FORGIVEN, EARLY) == (3, 5, 1.0)


def test_at_the_second_of_its_expiry_a_task_is_expired():
    assert admitted(envelope(expires=NOW)).kind is Kind.EXPIRED
    assert admitted(envelope(expires=NOW - 30)).reason == "expired 30 s before a worker took it"
    assert admitted(envelope(expires=NOW - 1), policy=Policy(on_expiry="dead-letter")).kind is Kind.EXPIRED


def test_what_is_due_within_a_second_is_run():
    assert admitted(envelope(due=NOW + 1.0)) == Run(1)
    assert admitted(envelope(due=NOW + 1.1)) == GiveBack(pytest.approx(1.1), counted=False)


def test_the_longest_release_delay_is_still_a_release():
    longest = replace(SQLITE, release_delay=100.0)
    assert admitted(envelope(due=NOW + 100), limits=longest) == GiveBack(100, counted=False)
    assert isinstance(admitted(envelope(due=NOW + 100.1), limits=longest), Resend)
    assert decided(Failed("x", after=100), limits=longest) == GiveBack(100)
    assert decided(Failed("x", after=100.1), limits=longest) == Resend(100.1, 1)
    assert decided(NotRun(delay=200.0), limits=longest) == GiveBack(100, counted=False)


def test_a_short_grace_is_kept_too():
    def offered(number, grace):
        return admit(envelope(offers=number - 1), delivery(1), None, SQLITE, NOW, grace)

    assert offered(1, 5.0).delay == 5
    assert offered(2, 5.0).kind is Kind.UNKNOWN_TASK
    assert offered(2, 5.5).delay == 1.0  # never so soon that it is only a busy loop


def test_more_crashes_than_the_bound_are_the_end_too():
    assert admitted(envelope(), delivery(50, crashes=CRASHES + 1)).kind is Kind.CRASHED


def test_a_retry_names_its_delay_or_leaves_it_to_the_backoff():
    assert (Retry("90s").after, Retry().after) == (90.0, None)


def test_at_its_maximum_age_a_failure_is_given_up():
    assert decided(Failed("x"), time=NOW - 86_400).reason == "x (attempt 1, 86400 s old, max_age 1d)"
    assert isinstance(decided(Failed("x"), time=NOW - 86_399), GiveBack)


def test_the_reasons_give_the_numbers():
    assert admitted(envelope(), delivery(9, crashes=3)).reason == (
        "its worker ended or lost the lease 3 times without an outcome"
    )
    assert admitted(envelope(attempts=1), delivery(8, None), limits=COUNTING).reason == (
        "delivered 9 times without an outcome; 8 are allowed"
    )


def test_an_unknown_task_ends_by_its_age_where_its_offers_may_not_be_counted():
    """Behind Eventarc, each is the first: it would go round until the provider forgets it, without a dead letter."""
    uncounted = replace(SQLITE, send_delay=0.0, parked=0)
    assert isinstance(admitted(envelope(time=NOW - 23 * GRACE), policy=None, limits=uncounted), GiveBack)
    buried = admitted(envelope(time=NOW - 25 * GRACE), policy=None, limits=uncounted)
    assert isinstance(buried, Bury)
    assert buried.kind is Kind.UNKNOWN_TASK


def test_an_unknown_task_is_offered_after_these_delays():
    def offered(number):
        return admitted(envelope(offers=number - 1), delivery(1), policy=None)

    assert [offered(number).delay for number in range(1, 18)] == [5, 10, 20, 40, 80, 160, *[300] * 10, 285]
    assert offered(18) == Bury(Kind.UNKNOWN_TASK, "no worker knew the task 'x' while it was offered for 3600 s")
    assert offered(3).reason == "this worker does not know the task 'x'; it is offered again, for 3585 s more"
    # An ordered one is given back, never copied: a copy would go to the end of its group.
    given = admitted(envelope(ordering_key="k"), delivery(4), policy=None)
    assert given == GiveBack(40, reason=given.reason)
    short = replace(SQLITE, release_delay=7.0)
    assert admitted(Newer(2), delivery(4), policy=None, limits=short).delay == 7.0


outcomes = st.one_of(
    st.just(Succeeded()),
    st.builds(Failed, st.text(max_size=5), after=st.none() | st.floats(0, 1e6)),
    st.builds(Rejected, st.text(max_size=5)),
    st.builds(NotRun, st.booleans()),
)
limits = st.builds(
    lambda release, ordered: replace(SQLITE, release_delay=release, ordered_release_delay=ordered),
    st.sampled_from([0.0, 600.0, 43200.0, float("inf")]),
    st.sampled_from([0.0, 60.0, float("inf")]),
)


@given(outcomes, st.integers(1, 50), limits, st.none() | st.just("k"), st.floats(0, 1), st.integers(0, 30))
def test_every_outcome_has_one_settlement_that_the_provider_can_do(outcome, deliveries, limits, key, draw, base):
    settlement = decided(outcome, delivery(deliveries), limits, draw=draw, ordering_key=key, attempts=base)
    match settlement:
        case Ack():
            assert isinstance(outcome, Succeeded)
        case GiveBack():
            assert 0 <= settlement.delay <= (limits.release_delay if key is None else limits.ordered_release_delay)
            assert not isinstance(outcome, (Succeeded, Rejected))
        case Resend():
            assert key is None
            assert settlement.delay > limits.release_delay
            assert settlement.attempts == base + deliveries
        case Bury():
            assert isinstance(outcome, (Failed, Rejected))
    # A failed run is retried while attempts are left, and only then given up.
    if isinstance(outcome, Failed):
        assert isinstance(settlement, Bury) == (base + deliveries >= POLICY.retry.max_attempts)
