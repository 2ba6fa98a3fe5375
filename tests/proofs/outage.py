"""The dead part cannot be written for a minute, while tasks fail for good."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proofs.part import Part, Piece, Result, url_in
from support.ledger import read
from support.processes import until
from support.storm import Storm

LEASE = 5.0
#: From the end of the outage to the next dead letter, in seconds.
RESUMED = 10.0
#: Fewer than there are slots: one whose copy is not confirmed keeps its slot for a lease.
_HOPELESS, _GOOD = 8, 200


def outage(directory: Path, url: str, seconds: float, *, copying: bool) -> Result:
    result = Result({"outage_seconds": seconds, "hopeless": _HOPELESS, "good": _GOOD})
    storm = Storm(directory, url_in(directory, url), LEASE, copying=copying)
    closed = directory / "dead-part-closed"
    closed.touch()
    storm.enqueue([storm.tasks.hopeless.message() for _ in range(_HOPELESS)])
    hopeless = frozenset(storm.confirmed)
    storm.enqueue([storm.tasks.work.message(0.01) for _ in range(_GOOD)])
    with storm.worker("--concurrency", 10, closed=closed) as worker:
        end = time.monotonic() + seconds  # noqa: TID251  the length of the outage
        until(lambda: storm.look() or len(storm.over) >= _GOOD, "good tasks were not done beside it", patience=seconds + 60)
        time.sleep(max(0.0, end - time.monotonic()))  # noqa: TID251  as above
        result.hold(not storm.dead_letters(), "there are dead letters in the middle of the outage")
        left = storm.left()
        result.hold(left is None or left >= _HOPELESS, f"{left} messages are left of {_HOPELESS} that cannot be buried")
        closed.unlink()
        over = storm.now()
        until(storm.dead_letters, "work did not resume")
        resumed = storm.now() - over
        storm.until_drained()
        result.hold(storm.now() - over <= 3 * RESUMED, "not all was buried soon after")
        all_buried = storm.now() - over
        worker.terminate()
        result.hold(worker.wait(20) == 0, f"the worker ended with {worker.returncode}")
    told = [line for line in read(storm.directory) if line["kind"] == "told" and line["id"] in hopeless and line["at"] < over]
    early = [line for line in told if line["what"] in ("acked", "dead-lettered")]
    result.figures |= {"worst_seconds_until_resumed": round(resumed, 2), "worst_seconds_until_all_buried": round(all_buried, 2)}
    result.hold(resumed <= RESUMED, f"work resumed after {resumed:.1f} s")
    result.hold(not early, f"{len(early)} originals were settled during the outage")
    verdict = storm.verdict()
    result.hold(verdict.dead == _HOPELESS, f"{verdict.dead} dead letters of {_HOPELESS}")
    result.judge(verdict)
    return result


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    seconds = 60.0 if full else 3.0
    return [
        Piece(name, lambda directory, copying=copying: outage(directory, url, seconds, copying=copying))
        for name, copying in (("moved-natively", False), ("moved-by-copy", True))
    ]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    return [] if figures["outage_seconds"] >= 120 else ["too short"]


OUTAGE = Part(
    "outage",
    f"the dead part unavailable for 60 s, moved to natively and by copy: originals stay unacked, other tasks go on, nothing is "
    f"lost, and work resumes within {RESUMED:g} s",
    _pieces,
    _check,
)
