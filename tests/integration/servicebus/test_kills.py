"""Kills between a message and its copy, its completion, its dead letter; calls that fail; connections that go: nothing is lost.

Samples: the full numbers are in docs/proof.
"""

from __future__ import annotations

import pytest

from proofs.network import failing, losing_connections
from proofs.points import crash
from support.wired import wire

pytestmark = pytest.mark.processes
#: Of those in `proofs.points`: `make prove PARTS=crash-points URL=servicebus://local` has all of them.
POINTS = ["receive main after", "send main after", "ack main before", "dead_letter main after"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_point(point, tmp_path, report):
    with wire("servicebus") as served:
        result = crash(tmp_path, served.url(served.server.port), 1, point, composing=False)
        # No chain: what was copied twice under one id is one message, so nothing is left when all is over.
        left = served.left()
    report(f"Service Bus, killed at {point!r}: {result.figures}")
    assert not result.broken, result.broken
    assert set(left.values()) <= {2}, left  # the two that are hopeless, among the dead letters


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("what", "times"), [(failing, 300), (losing_connections, 5)], ids=lambda value: getattr(value, "__name__", value)
)
def test_what_goes_wrong_on_the_way(what, times, tmp_path, report):
    result = what(tmp_path, "servicebus", times)
    report(f"Service Bus, {what.__name__}: {result.figures}")
    assert not result.broken, result.broken
