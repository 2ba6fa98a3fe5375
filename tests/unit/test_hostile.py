"""What nobody should have sent: every kind is refused with a reason, and no bytes at all make reading raise."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import CloudQ
from cloudq.driver import Delivery, Queue
from cloudq.events import Events
from cloudq.execution import Execution, Job
from cloudq.outcome import Bury, GiveBack, Kind, Resend
from cloudq.testing import ManualClock
from cloudq_local.facts import LIMITS
from support.hostile import KINDS, generate, longest

GOOD = {"cloudq": 1, "id": "t1", "type": "work", "time": 1_700_000_000.0, "data": {"length": 0.5}}
#: Another version of the worker may know these: they are offered again before they are kept.
OFFERED_AGAIN = ("newer version", "unknown task")

app = CloudQ("memory://hostile", clock=ManualClock())


@app.task(name="work")
def work(length: float) -> None: ...


def opened(body, deliveries=1):
    execution = Execution(app.declared, app.clock, Events.only(lambda _event: None), random.Random(1))
    delivery = Delivery(Queue("default", "q"), body, None, deliveries, 60.0, message_id="m", crashes=0)
    return execution.open(delivery, LIMITS)


def test_the_good_one_is_good():
    assert isinstance(opened(json.dumps(GOOD).encode()), Job)


@pytest.mark.parametrize("draw", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_refused_with_a_reason(kind, draw):
    body = KINDS[kind](random.Random(draw), GOOD)
    settlement, _ = opened(body)
    if kind in OFFERED_AGAIN:
        assert isinstance(settlement, (GiveBack, Resend))
        settlement, _ = opened(body, deliveries=100)
    assert isinstance(settlement, Bury)
    assert settlement.reason
    expected = {"expired": Kind.EXPIRED, "unknown task": Kind.UNKNOWN_TASK}
    assert settlement.kind is expected.get(kind, Kind.UNREADABLE)


def test_there_are_kinds_enough_and_all_come():
    assert len(KINDS) >= 20
    assert {kind for kind, _ in generate(random.Random(1), GOOD, len(KINDS))} == set(KINDS)
    assert len(longest(1000)) == 1000


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from([json.dumps(GOOD).encode(), *(body for _, body in generate(random.Random(7), GOOD, len(KINDS)))]),
    st.lists(
        st.tuples(st.sampled_from(["flip", "cut", "insert", "double"]), st.integers(0, 400), st.binary(max_size=8)), max_size=6
    ),
)
def test_no_bytes_make_reading_raise(body, edits):
    """The fuzzer: good and bad messages, edited. What comes out is a run or one settlement."""
    for how, place, filling in edits:
        at = place % (len(body) + 1)
        match how:
            case "flip" if body:
                at = min(at, len(body) - 1)
                body = body[:at] + bytes([body[at] ^ (1 << (place % 8))]) + body[at + 1 :]
            case "cut":
                body = body[:at]
            case "insert":
                body = body[:at] + filling + body[at:]
            case _:
                body = body[:at] + body[at // 2 : at] + body[at:]
    result = opened(body)
    assert isinstance(result, Job) or isinstance(result[0], (Bury, GiveBack, Resend))


AUDITED = """
import json, random, sys
sys.path.insert(0, {tests!r})
from unit.test_hostile import GOOD, KINDS, opened
bodies = [KINDS[kind](random.Random(seed), GOOD) for kind in KINDS for seed in range(3)]
opened(json.dumps(GOOD).encode())  # what is imported and evaluated at the first use is so now
found = []
forbidden = "import exec compile open socket.connect pickle.find_class os.system subprocess.Popen".split()
sys.addaudithook(lambda event, _arguments: found.append(event) if event in forbidden else None)
modules = set(sys.modules)
for body in bodies:
    opened(body)
assert not found, found
assert set(sys.modules) == modules
print("quiet")
"""


def test_reading_imports_opens_and_runs_nothing():
    tests = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", AUDITED.format(tests=tests)], capture_output=True, text=True, check=False)
    assert done.stdout == "quiet\n", done.stderr[-2000:]
