"""The judge is judged: a clean history is clean, and each class is found in a history that has it and nothing else."""

from __future__ import annotations

import pytest

from support.oracle import Verdict, judge

ENQUEUED = [{"kind": "attempt"}, {"kind": "acked"}]
RUN = [{"kind": "start", "run": 1}, {"kind": "end", "run": 1, "well": True}]
TOLD = [
    {"kind": "told", "what": "started", "worker": 1, "attempt": 1},
    {"kind": "told", "what": "succeeded", "worker": 1, "attempt": 1},
    {"kind": "told", "what": "acked", "worker": 1, "attempt": 1},
]
OVER = [{"kind": "fault", "what": "kill"}, {"kind": "drained"}]
AGAIN = [{"kind": "start", "run": 2}, {"kind": "end", "run": 2, "well": True}]
CAUSE, COPY, LOOSE = {"kind": "cause", "what": "killed"}, {"kind": "copy"}, {"kind": "loose", "run": 1}
DEAD = {"kind": "dead", "why": "crashed"}


def told(what, **facts):
    return {"kind": "told", "what": what, "worker": 1, "attempt": 1, **facts}


def history(*lines):
    return judge([{"id": "t", **line} for line in lines])


BAD = {
    "lost": [*ENQUEUED],
    "unexpected": [*RUN, TOLD[1]],
    "phantom": [{"kind": "attempt"}, {"kind": "failed"}, *RUN, TOLD[1]],
    "unexplained": [*ENQUEUED, *RUN, *AGAIN, TOLD[1], TOLD[1]],
    "overlap": [*ENQUEUED, RUN[0], CAUSE, AGAIN[0], RUN[1], AGAIN[1], TOLD[1], TOLD[1]],
    "limbo": [*ENQUEUED, *RUN, TOLD[1], {"kind": "limbo"}],
    "given_up_unrun": [*ENQUEUED, told("dead-lettered"), DEAD],
}
MISREPORTED = {
    "success that was none": [*ENQUEUED, RUN[0], {**RUN[1], "well": False}, TOLD[1], CAUSE, DEAD],
    "failure that was none": [*ENQUEUED, *RUN, TOLD[1], told("failed")],
    "success that was not told": [*ENQUEUED, *RUN],
    "ack of what was not done": [*ENQUEUED, RUN[0], {**RUN[1], "well": False}, told("failed"), TOLD[2]],
    "burial that did not happen": [*ENQUEUED, *RUN, TOLD[1], told("dead-lettered")],
    "burial that was not told": [*ENQUEUED, *RUN, TOLD[1], DEAD],
    "ack of a lost lease": [*ENQUEUED, TOLD[0], RUN[0], told("lease-lost"), LOOSE, RUN[1], TOLD[2]],
}
GOOD = {
    "one run": [*ENQUEUED, TOLD[0], *RUN, *TOLD[1:]],
    "killed and run again": [*ENQUEUED, RUN[0], LOOSE, CAUSE, *AGAIN, TOLD[1], TOLD[2]],
    "taken over unnoticed, and acked when it was gone": [
        *ENQUEUED, TOLD[0], *RUN, TOLD[1], told("started", attempt=2), *AGAIN, told("succeeded", attempt=2),
        told("acked", attempt=2), TOLD[2],
    ],
    "two messages at once": [*ENQUEUED, RUN[0], CAUSE, AGAIN[0], RUN[1], AGAIN[1], TOLD[1], TOLD[1], COPY],
    "unknown and never seen": [{"kind": "attempt"}, {"kind": "unknown"}],
    "unknown, then refused, and run": [{"kind": "attempt"}, {"kind": "unknown"}, {"kind": "failed"}, *RUN, TOLD[1]],
    "dead after its run": [*ENQUEUED, RUN[0], {**RUN[1], "well": False}, told("failed"), told("dead-lettered"), DEAD],
    "lost its lease, was told of, and ran again": [
        *ENQUEUED, TOLD[0], RUN[0], told("lease-lost"), LOOSE, CAUSE, RUN[1],
        told("started", attempt=2), *AGAIN, told("succeeded", attempt=2), told("acked", attempt=2),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_is_clean(name):
    verdict = history(*GOOD[name], *OVER)
    assert verdict.clean, str(verdict)


@pytest.mark.parametrize("name", BAD)
def test_each_class_is_found(name):
    verdict = history(*BAD[name], *OVER)
    assert {found for found, count in verdict.classes.items() if count} == {name}, str(verdict)
    assert not verdict.clean


@pytest.mark.parametrize("name", MISREPORTED)
def test_what_is_not_so_is_a_misreport(name):
    verdict = history(*MISREPORTED[name], *OVER)
    assert verdict.misreport == ["t"], str(verdict)


def test_a_run_after_an_ack_is_not_explained_by_a_second_ack():
    again = [told("started", attempt=2), *AGAIN, told("succeeded", attempt=2), told("acked", attempt=2)]
    assert history(*ENQUEUED, *OVER, *TOLD[:1], *RUN, *TOLD[1:], *again).classes["unexplained"] == 1


def test_one_lost_delivery_explains_one_run_however_often_it_is_told_of():
    def lost(what, attempt=1):
        return {"kind": "cause", "what": what, "worker": 1, "attempt": attempt}

    third = [{"kind": "start", "run": 3}, {"kind": "end", "run": 3, "well": True}]
    runs = [*ENQUEUED, *RUN, *AGAIN, *third, TOLD[1], TOLD[1], TOLD[1], *OVER]
    assert history(*runs, lost("settle-unknown"), lost("lease-lost")).unexplained == ["t"]
    assert history(*runs, lost("settle-unknown"), lost("lease-lost", attempt=2)).unexplained == []


def test_an_order_that_is_broken_is_found():
    def run(number, well=True):
        return [
            {"kind": "start", "id": f"t{number}", "run": number, "lane": "k", "number": number},
            {"kind": "end", "id": f"t{number}", "run": number, "well": well},
        ]

    assert judge([*run(1), *run(2), *run(3)]).disorder == []
    assert judge([*run(1), *run(3), *run(2)]).disorder == ["t3"]
    assert judge([*run(1, well=False), *run(2), *run(1)]).disorder == ["t2"]


def test_a_run_without_faults_or_without_a_drain_is_void():
    fine = GOOD["one run"]
    assert history(*fine, {"kind": "drained"}).void == "no fault was injected"
    assert history(*fine, {"kind": "fault", "what": "kill"}).void == "it was not drained"
    assert not history(*fine, {"kind": "drained"}).clean


def test_the_bound_says_what_a_size_can_show():
    assert Verdict(confirmed=20_000).bound == pytest.approx(1.498e-4, rel=1e-3)  # the rule of three: 3 / n
    assert Verdict().bound == 1.0


def test_verdicts_add_up():
    both = history(*GOOD["one run"], *OVER)
    both.add(history(*BAD["lost"], *OVER))
    assert (both.confirmed, both.classes["lost"], both.faults["kill"], both.drained) == (2, 1, 2, True)
    both.add(history(*GOOD["one run"]))
    assert both.void
