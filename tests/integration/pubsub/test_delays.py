"""Delays are composed here: a lease held in steps of ten minutes. Longer ones are followed by `make prove PARTS=delays`."""

from __future__ import annotations

from proofs.delays import delays


def test_delays_run_once_and_on_time(report):
    result = delays("pubsub", parked=200, most_parked=1000, longest=93_600.0)
    worst = max(value for name, value in result.figures.items() if name.startswith("worst"))
    calls = result.figures["requests"]
    report(f"Pub/Sub: tasks delayed by 5 s, 11 min and 26 h ran once, at most {worst:g} s late, with {calls} calls")
    assert not result.broken, result.broken
    assert result.figures["run"] == 260
