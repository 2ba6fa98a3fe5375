"""Tasks that are longer than their leases, beside tasks that leave the interpreter to nobody."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proofs.part import Part, Piece, Result, url_in
from support.ledger import read
from support.storm import Storm

LEASE = 2.0
LENGTH = 3 * LEASE


def long_tasks(directory: Path, url: str, tasks: int) -> Result:
    """One in twenty computes in Python, and a few in processes of their own hold the interpreter's lock in C."""
    spinning, isolated = max(1, tasks // 20), max(1, tasks // 100)
    result = Result({"tasks": tasks, "computing_in_python": spinning, "isolated_holding_the_lock": isolated})
    storm = Storm(directory, url_in(directory, url), LEASE, grace=20.0)
    kinds = storm.tasks
    messages = [kinds.work.message(LENGTH) for _ in range(tasks - spinning - isolated)]
    for kind, count in ((kinds.spin, spinning), (kinds.hold_isolated, isolated)):
        step = len(messages) // count
        for number in range(count):
            messages.insert(number * step, kind.message(LENGTH))
    storm.enqueue(messages)
    with storm.worker("--processes", 2, "--concurrency", 50) as supervisor:
        storm.until_drained(60 + 3 * LENGTH * tasks / 100)
        supervisor.send_signal(signal.SIGTERM)
        result.hold(supervisor.wait(40) == 0, f"the supervisor ended with {supervisor.returncode}")
    lines = read(storm.directory)
    began = {line["run"]: line["at"] for line in lines if line["kind"] == "start"}
    # The fault here is the length: no lease is long enough for such a task without its renewal.
    outlasted = [line["at"] - began[line["run"]] > 2 * LEASE for line in lines if line["kind"] == "end"].count(True)
    for _ in range(outlasted):
        storm.ledger.write("fault", at=storm.now(), what="a run that outlasts its lease twice")
    result.hold(outlasted >= tasks, f"only {outlasted} of {tasks} runs outlasted their lease")
    lost = sum(line["kind"] == "told" and line["what"] == "lease-lost" for line in lines)
    result.figures["leases_lost"] = lost
    # A lost lease is told and costs a second run. On a machine that is busy with other things, a few may be.
    result.hold(lost <= tasks // 20, f"{lost} leases were lost")
    result.judge(storm.verdict())
    return result


def held_lock(directory: Path, url: str, times: int) -> Result:
    """The same call in C without isolation: no thread of the worker runs meanwhile, so its lease is lost, and that is told."""
    result = Result({"held_without_isolation": times})
    storm = Storm(directory, url_in(directory, url), LEASE, grace=20.0)
    storm.enqueue(storm.tasks.hold.message(2 * LEASE) for _ in range(times))
    storm.ledger.write("fault", at=storm.now(), what="the interpreter's lock held for two leases")
    with storm.worker("--concurrency", 1) as worker:
        storm.until_drained(60 + 10 * LEASE * times)
        worker.terminate()
        result.hold(worker.wait(30) == 0, f"the worker ended with {worker.returncode}")
    told = [line for line in read(storm.directory) if line["kind"] == "told" and line["attempt"] == 1]
    reported = sum(line["what"] == "lease-lost" for line in told)
    acked = sum(line["what"] == "acked" for line in told)
    result.figures |= {"lost_leases_reported": reported, "late_results_acked": acked}
    result.hold(reported == times, f"{reported} of {times} lost leases were reported")
    result.hold(acked == 0, f"{acked} late results were acked")
    result.judge(storm.verdict())
    return result


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    tasks, times = (1_000, 10) if full else (100, 3)
    return [
        Piece("long-tasks", lambda directory: long_tasks(directory, url, tasks)),
        Piece("held-lock", lambda directory: held_lock(directory, url, times)),
    ]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    broken = [] if figures["tasks"] >= 1_000 and figures["computing_in_python"] >= 50 else ["too few tasks"]
    return broken if figures["leases_lost"] == 0 else [*broken, f"{figures['leases_lost']} leases were lost"]


LEASES = Part(
    "leases",
    f"1,000 tasks of {LENGTH:g} s under leases of {LEASE:g} s, 5 % computing in Python, some in processes of their own holding "
    f"the interpreter's lock in C: no lease is lost. The same call without isolation: its lost lease is reported, and its "
    f"result not acked",
    _pieces,
    _check,
)
