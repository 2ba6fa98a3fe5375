"""SIGTERM at random moments, restarts again and again, and processes that are stopped for longer than their leases."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from proofs.part import Part, Piece, Result, url_in
from support.ledger import Line, read
from support.processes import until
from support.storm import Storm

SEED = 20261121
GRACE = 2.0
#: What may pass between a signal and its being heard, in seconds: a task that computes keeps the interpreter for moments.
HEARD = 0.5
#: What a thread that has taken its task may need to write down that it starts, in seconds: it waits for the interpreter.
TAKEN = 0.05
#: What a released message may take to be there for others, in seconds.
SOON = 1.0


# SIGTERM ----------------------------------------------------------------------------------------------------------------------


def terminate(directory: Path, url: str, signals: int, at_once: int) -> Result:
    """Workers in the middle of tasks of 0 to 2 graces' length are told to end, each at a random moment of its life."""
    draw, result = random.Random(SEED), Result({"signals": signals, "seed": SEED})
    storm = Storm(directory, url_in(directory, url), lease=20.0, grace=GRACE)
    sent: dict[int, float] = {}
    while len(sent) < signals:
        storm.enqueue(storm.tasks.work.message(_length(draw)) for _ in range(4 * at_once))
        with ExitStack() as stack:
            workers = [stack.enter_context(storm.worker("--concurrency", 3)) for _ in range(at_once)]
            moments: dict[int, float] = {}
            living = list(workers)
            while living:
                storm.look()
                for worker in list(living):
                    if worker.pid in storm.working:  # before that it has nothing in hand
                        moments.setdefault(worker.pid, storm.now() + draw.uniform(0.0, 1.7))
                    if worker.pid not in sent and storm.now() >= moments.get(worker.pid, float("inf")):
                        sent[worker.pid] = storm.now()
                        worker.send_signal(signal.SIGTERM)
                        storm.ledger.write("fault", at=storm.now(), what="SIGTERM")
                    if worker.poll() is not None:
                        took = storm.now() - sent.get(worker.pid, storm.now())
                        result.hold(worker.returncode == 0, f"a worker ended with {worker.returncode}")
                        result.figures["worst_seconds_to_end"] = max(took, result.figures.get("worst_seconds_to_end", 0.0))
                        living.remove(worker)
                time.sleep(0.01)
    with storm.worker("--concurrency", 50) as last:
        storm.until_drained()
        last.terminate()
        last.wait(20)
    result.figures["worst_seconds_to_end"] = round(result.figures["worst_seconds_to_end"], 3)
    result.hold(result.figures["worst_seconds_to_end"] <= GRACE + 1.5, "a worker took longer than its grace and 1.5 s")
    _after_the_signal(storm, sent, result)
    result.judge(storm.verdict())
    return result


def _length(draw: random.Random) -> float:
    return draw.choice([0.0, draw.uniform(0.0, 0.2), draw.uniform(0.2, 1.0), draw.uniform(0.0, 2 * GRACE)])


def _after_the_signal(storm: Storm, sent: dict[int, float], result: Result) -> None:
    """No start; everything in hand settled; what had not started given back at once."""
    lines: dict[int, list[Line]] = defaultdict(list)
    for line in read(storm.directory):
        lines[line["pid"]].append(line)
    heard = [storm.drained_at[pid] - at for pid, at in sent.items() if pid in storm.drained_at]
    late = [
        line["at"] - storm.drained_at[pid]
        for pid in sent
        for line in lines[pid]
        if line["kind"] == "start" and line["at"] > storm.drained_at.get(pid, float("inf"))
    ]
    left = {pid: sorted(+storm.hand[pid]) for pid in sent if +storm.hand[pid]}
    unrun = [_unrun_released(lines[pid], storm.drained_at[pid]) for pid in sent if pid in storm.drained_at]
    given_back = [took for pid in unrun for took in pid]
    result.figures |= {
        "heard": len(heard),
        "worst_seconds_until_heard": round(max(heard, default=0.0), 3),
        "starts_after_the_signal": len(late),
        "worst_seconds_of_a_start_after": round(max(late, default=0.0), 3),
        "in_hand_at_exit": len(left),
        "released_unrun": len(given_back),
        "worst_seconds_until_released": round(max(given_back, default=0.0), 3),
    }
    result.hold(len(heard) == len(sent), f"{len(sent) - len(heard)} workers never said that they drain")
    result.hold(max(heard, default=0.0) <= HEARD, f"a worker heard of its signal after {max(heard, default=0.0):.2f} s")
    result.hold(max(late, default=0.0) <= TAKEN, f"a task started {max(late, default=0.0):.3f} s after its worker drained")
    result.hold(not left, f"neither finished nor released: {left}")
    result.hold(max(given_back, default=0.0) <= SOON, "what had not started was released later than 1 s after the signal")


def _unrun_released(lines: Sequence[Line], drained: float) -> list[float]:
    started = {line["id"] for line in lines if line["kind"] == "start"}
    return [
        line["at"] - drained
        for line in lines
        if line["kind"] == "told" and line["what"] == "released" and line["at"] >= drained and line["id"] not in started
    ]


# Rolling restarts ------------------------------------------------------------------------------------------------------------


def rolling(directory: Path, url: str, seconds: float, every: float, *, composing: bool) -> Result:
    """All workers are replaced every so often, while tasks run that are longer than their grace."""
    draw, result = random.Random(SEED), Result({"restarts": 0, "seconds": seconds})
    storm = Storm(directory, url_in(directory, url), lease=5.0, grace=GRACE, composing=composing)

    def batch() -> list[Any]:
        lengths = [draw.choice([0.02, 0.2, 1.0, 2.5 * GRACE]) for _ in range(int(3 * every))]
        # Two attempts: those that would be used up by restarts, if what was not run were counted.
        return [storm.tasks.few.message(length) for length in lengths]

    end = time.monotonic() + seconds  # noqa: TID251  how long it lasts
    while time.monotonic() < end:  # noqa: TID251  as above
        storm.enqueue(batch())
        with storm.worker("--processes", 3, "--concurrency", 3) as supervisor:
            turn = storm.begun
            until(lambda turn=turn: storm.look() or storm.begun > turn, "the work stands still", patience=60)
            time.sleep(every)  # the restart is the clock's
            supervisor.send_signal(signal.SIGTERM)
            result.hold(supervisor.wait(GRACE + 15) == 0, f"the supervisor ended with {supervisor.returncode}")
            storm.ledger.write("fault", at=storm.now(), what="restart of all workers")
            result.figures["restarts"] += 1
    with storm.worker("--processes", 2, "--concurrency", 20) as last:
        storm.until_drained(240)
        last.terminate()
        last.wait(30)
    result.judge(storm.verdict())
    return result


# SIGSTOP ---------------------------------------------------------------------------------------------------------------------


def paused(directory: Path, url: str, times: int) -> Result:
    """A worker is stopped in the middle of a task for three leases, while another takes over, and then goes on."""
    result = Result({"pauses": times, "late_results_acked": 0, "late_results_reported": 0})
    lease = 1.0
    storm = Storm(directory, url_in(directory, url), lease=lease)
    for _ in range(times):
        message = storm.tasks.work.message(0.6)
        storm.enqueue([message])
        with storm.worker("--concurrency", 1) as first:
            until(lambda: storm.look() or storm.running.get(first.pid), "the task did not start")
            os.kill(first.pid, signal.SIGSTOP)
            storm.ledger.write("fault", at=storm.now(), what="SIGSTOP for three leases")
            stopped = time.monotonic()  # noqa: TID251  the length of the pause
            for run in storm.running[first.pid].values():
                # A stopped process cannot say that its lease is gone: the pause says it for it, from when it can be gone.
                storm.ledger.write("loose", message.task_id, at=storm.now() + lease / 2, run=run)
            with storm.worker("--concurrency", 1) as second:
                task_id = message.task_id
                until(lambda task_id=task_id: storm.look() or task_id in storm.over, "nobody took it over")
                time.sleep(max(0.0, stopped + 3 * lease - time.monotonic()))  # noqa: TID251  as above
                os.kill(first.pid, signal.SIGCONT)
                until(lambda task_id=task_id: _told(storm, first.pid, task_id), "the late result was not reported")
                for worker in (first, second):
                    worker.terminate()
                    result.hold(worker.wait(20) == 0, f"a worker ended with {worker.returncode}")
        told = _told(storm, first.pid, message.task_id)
        result.figures["late_results_acked"] += "acked" in told
        result.figures["late_results_reported"] += "lease-lost" in told
    storm.until_drained()
    figures = result.figures
    result.hold(figures["late_results_acked"] == 0, f"{figures['late_results_acked']} late results were acked")
    result.hold(figures["late_results_reported"] == times, f"{figures['late_results_reported']} of {times} were reported")
    result.judge(storm.verdict())
    return result


def _told(storm: Storm, pid: int, task_id: str) -> set[str]:
    return {
        line["what"]
        for line in read(storm.directory)
        if line["kind"] == "told" and line["pid"] == pid and line["id"] == task_id and line["what"] in ("acked", "lease-lost")
    }


# Parts -----------------------------------------------------------------------------------------------------------------------


def _one(name: str, run: Callable[[Path], Result]) -> Sequence[Piece]:
    return [Piece(name, run)]


def _terminate(full: bool, url: str) -> Sequence[Piece]:
    signals, at_once = (200, 8) if full else (12, 6)
    return _one("signals", lambda directory: terminate(directory, url, signals, at_once))


def _rolling(full: bool, url: str) -> Sequence[Piece]:
    seconds, every = (600.0, 20.0) if full else (9.0, 3.0)
    return [
        Piece(name, lambda directory, composing=composing: rolling(directory, url, seconds, every, composing=composing))
        for name, composing in (("counting-crashes", False), ("counting-deliveries", True))
    ]


def _paused(full: bool, url: str) -> Sequence[Piece]:
    return _one("pauses", lambda directory: paused(directory, url, 20 if full else 1))


TERMINATE = Part(
    "terminate",
    f"200 SIGTERMs at random moments, tasks of up to {2 * GRACE:g} s and a grace of {GRACE:g} s: no start once the "
    f"worker has said that it drains (and {1000 * TAKEN:g} ms for a thread that had taken its task), all that was in hand "
    f"finished or released, what had not started within {SOON:g} s, exit code 0",
    _terminate,
    lambda figures: [] if figures["heard"] >= 200 and figures["released_unrun"] > 0 else ["too few signals or releases"],
)
ROLLING = Part(
    "rolling-restarts",
    "all workers restarted every 20 s for 10 minutes, tasks of up to two and a half times the grace and two attempts each, on "
    "a queue that counts crashes and on one that counts deliveries: no task is given up unrun",
    _rolling,
    lambda figures: [] if figures["restarts"] >= 50 else ["too few restarts"],
)
PAUSED = Part(
    "paused",
    "a worker stopped for three leases (SIGSTOP) and continued: its late result is not acked, and is reported",
    _paused,
)
