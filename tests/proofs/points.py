"""`os._exit` at every named point between receive and settle, and of a hop: around each call, at each event, in the task.

Each run has a worker that ends at the point, and then one that does not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cloudq.opening import facts_at
from proofs.part import Part, Piece, Result, url_in
from support.ledger import read
from support.processes import until
from support.storm import Storm

LEASE = 2.0
#: The bar: what a dead process held is back within its lease and this many seconds.
SOON = 1.0
_AT_ONCE = 4
SEEDS = 20

#: Where the queue does all that it can by itself.
NATIVE = (
    "receive main after",
    "event received",
    "event started",
    "task begun",
    "event succeeded",
    "ack main before",
    "ack main after",
    "event failed",
    "release main before",
    "release main after",
    "extend main before",
    "extend main after",
    "dead_letter main before",
    "dead_letter main after",
)
#: Where the core composes retries, delays and dead letters from copies.
COMPOSED = (
    "send dead before",
    "send dead after",
    "send delay before",
    "send delay after",
    "event retried",
    "event dead-lettered",
    "ack main before",
    "ack main after",
    "receive delay after",
    "send main before",
    "send main after",
    "ack delay before",
    "ack delay after",
)


def crash(directory: Path, url: str, seed: int, point: str, *, composing: bool) -> Result:
    draw, result = random.Random(f"{seed} {point} {composing}"), Result({"runs": 1})
    storm = Storm(directory, url_in(directory, url), LEASE, composing=composing)
    tasks, lease = storm.tasks, storm.lease
    flaky = [tasks.flaky.message(draw.uniform(0.0, 0.1), 1) for _ in range(3)]
    messages = [
        *flaky,
        *(tasks.work.message(length) for length in (0.0, draw.uniform(0.0, 0.5), 1.2 * lease, draw.uniform(1.2, 1.5) * lease)),
        *(tasks.hopeless.message() for _ in range(2)),
    ]
    draw.shuffle(messages)
    storm.enqueue(messages)
    # Of calls, only the first is sure to come: what is settled at the same time goes out as one.
    nth = draw.randint(1, 2) if point.startswith(("event", "task")) else 1
    with storm.worker("--concurrency", 12, crash=f"{point}:{nth}") as first:
        until(lambda: first.poll() is not None, f"{point}: nobody came by for the {nth}. time", patience=60)
        ended = storm.now()
        result.hold(first.returncode == 9, f"{point}: the worker ended with {first.returncode}")
        storm.look()
        held = sorted(storm.confirmed - storm.over)
        result.hold(bool(held), f"{point}: all was over before the crash")
        storm.gone(first.pid)
        if "delay" in point or "send main" in point:  # in the hands of the pump, which reports only what it has done
            for message in flaky:
                storm.ledger.write("cause", message.task_id, at=storm.now(), what="killed in a hop")
                storm.ledger.write("copy", message.task_id, at=storm.now())
        with storm.worker("--concurrency", 12) as second:
            storm.until_drained(60)
            second.terminate()
            result.hold(second.wait(20) == 0, "the second worker did not end well")
    back = _back(storm, first.pid, held, ended)
    result.figures |= {"worst_seconds_until_back": back, "not_over_at_the_crash": len(held)}
    # Nobody can take it up before the second worker has begun, which on a busy machine takes a while.
    begun = next(line["at"] for line in read(storm.directory) if line["kind"] == "began" and line["pid"] == second.pid)
    within = max(lease, begun - ended) + SOON
    result.hold(back <= within, f"{point}, seed {seed}: back after {back:.2f} s, not within {within:.2f} s")
    result.judge(storm.verdict(), f"{point}, seed {seed}")
    return result


def _back(storm: Storm, pid: int, held: Sequence[str], ended: float) -> float:
    """Return how long after the end the last of what was not over was received. What was settled by then never is."""
    again: dict[str, float] = {}
    for line in read(storm.directory):
        if line["kind"] == "received" and line["pid"] != pid and line["id"] in held:
            again.setdefault(line["id"], line["at"])
    return round(max((at - ended for at in again.values()), default=0.0), 3)


def crashes(directory: Path, url: str, runs: Sequence[tuple[int, str, bool]]) -> Result:
    """Some runs, a few at a time: each waits for a lease to end most of its time."""
    total = Result()

    def one(run: tuple[int, str, bool]) -> Result:
        seed, point, composing = run
        name = f"{point}-{seed}-{'composing' if composing else 'native'}".replace(" ", "-")
        return crash(directory / name, url, seed, point, composing=composing)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for result in pool.map(one, runs):
            total.take(result)
    return total


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    facts = facts_at(url)
    native = [name for name in NATIVE if facts is None or facts.limits.native_dead_letter or "dead_letter" not in name]
    points = [(point, composing) for composing, names in ((False, native), (True, COMPOSED)) for point in names]
    if not full:
        runs = [(1, *point) for point in points]
        return [Piece("each-once", lambda directory: crashes(directory, url, runs))]

    def piece(point: str, composing: bool) -> Piece:
        runs = [(seed, point, composing) for seed in range(1, SEEDS + 1)]
        name = f"{point}-{'composing' if composing else 'native'}".replace(" ", "-")
        return Piece(name, lambda directory: crashes(directory, url, runs))

    return [piece(*point) for point in points]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    expected = SEEDS * (len(NATIVE) + len(COMPOSED))
    return [] if figures["runs"] >= expected else [f"{figures['runs']} runs of {expected}"]


POINTS = Part(
    "crash-points",
    f"os._exit at each of {len(NATIVE) + len(COMPOSED)} named points between receive and settle, {SEEDS} seeds each: nothing "
    f"is lost, and what was in hand is back within its lease plus {SOON:g} s",
    _pieces,
    _check,
)
