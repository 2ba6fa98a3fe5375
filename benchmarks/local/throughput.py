"""What cloudq on SQLite does in a second and costs, beside Huey's SqliteHuey and a bare sqlite3 loop, in one run.

The contestants are with_cloudq.py (shipped defaults), with_huey.py and with_sqlite.py, which is the ceiling; all three in WAL
with synchronous=FULL. one_round.py measures one of them once, from enqueue to idle, with the worker as a process of its own.
Rounds are interleaved, the order rotates. Printed: the median and the range over the rounds; a ratio is taken within each
round, and its median printed, because the machine is not the same for long.

    python benchmarks/local/throughput.py [--rounds 4] [--tasks 10000] [--quick]

The files are in the temporary directory: set TMPDIR to measure another disk.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

CONTESTANTS = ("cloudq", "huey", "sqlite")
HERE = Path(__file__).parent
Round = dict[str, dict[str, float]]

#: Key, what it is, digits after the point. A ratio is printed where there is something to compare, but for small times.
FIGURES = (
    ("single", "enqueue, one caller, per s", 0),
    ("callers", "enqueue, 50 callers, per s", 0),
    ("bulk", "enqueue, bulk, per s", 0),
    ("drain", "drain, 10 at once, per s", 0),
    ("drain_one", "drain, one at a time, per s", 0),
    ("single_cpu", "CPU s / 1000, one caller", 3),
    ("callers_cpu", "CPU s / 1000, 50 callers", 3),
    ("bulk_cpu", "CPU s / 1000, bulk", 3),
    ("drain_cpu", "CPU s / 1000, drain, 10", 3),
    ("drain_one_cpu", "CPU s / 1000, drain, one", 3),
    ("p50", "latency p50, ms", 2),
    ("p99", "latency p99, ms", 2),
    ("start", "start-up to first task, s", 3),
    ("memory", "idle worker, resident MB", 1),
    ("idle", "idle worker, % of a core", 2),
)
NOTES = """\
drain: no-op tasks, from the first to the last run, by the clock of the worker process; all were removed at the end.
CPU: user and system time of the one process, enqueuing or (from the first to the last run) working.
bulk: enqueue_many; Huey has no such call, so a loop; the bare loop executemany, 500 rows a transaction.
latency: from the begin of the enqueue to the start of the task, single messages 5 to 50 ms after the last. Huey polls, every
  0.1 s at first and up to 10 s after longer silence: this is its best case.
what is kept: cloudq and the bare loop remove a task after its run, at least once; Huey before it, at most once.
bare: single inserts, a commit each; claims of 10 (UPDATE ... RETURNING), ten calls, one delete, two commits; no waiting.
  cloudq claims up to 100 at once when tasks are short, and joins claims and removals in one commit where they meet."""


def main() -> None:
    parser = argparse.ArgumentParser(description="cloudq on SQLite, Huey on SQLite and a bare sqlite3 loop, paired.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=10_000, help="enqueued and drained by each in a round, 250 or more")
    parser.add_argument("--quick", action="store_true", help="two small rounds: shows that it runs, not how fast")
    options = parser.parse_args()
    if options.rounds < 1 or options.tasks < 250:
        parser.error("at least 1 round and 250 tasks")
    rounds, tasks, messages, idle = (2, 1000, 20, 1.0) if options.quick else (options.rounds, options.tasks, 200, 5.0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    print(
        f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, Huey {version('huey')}, {os.cpu_count()} cores; "
        f"{rounds} rounds of {tasks} tasks, {messages} messages, {idle:g} s idle"
    )
    syncs, commits, measured = [], [], []
    for number in range(rounds):
        sync, commit = sync_times()
        syncs.append(sync)
        commits.append(commit)
        turn = number % len(CONTESTANTS)
        order = CONTESTANTS[turn:] + CONTESTANTS[:turn]
        measured.append({name: one_round(name, tasks, messages, idle) for name in order})
    print(f"a sync takes {spread(syncs, 3)} ms, a SQLite commit (FULL) {spread(commits, 3)} ms\n")
    show(measured)
    print(f"\n{NOTES}\n")
    judge(measured, statistics.median(syncs))


def one_round(name: str, tasks: int, messages: int, idle: float) -> dict[str, float]:
    """Measure one contestant in a folder and a process of its own."""
    command = [sys.executable, "one_round.py", name, str(tasks), str(messages), str(idle)]
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        environment = os.environ | {"BENCH_FOLDER": folder}
        with subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                output, _ = process.communicate()
            finally:
                process.terminate()  # it ends its worker
        if process.returncode:
            raise SystemExit(f"measuring {name} failed")
    return json.loads(output)


def sync_times() -> tuple[float, float]:
    """The median of an fsync of a small file, and of a commit as cloudq makes it, in ms."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        syncs, commits = [], []
        with (Path(folder) / "small").open("wb", buffering=0) as file:
            for _ in range(200):
                began = time.perf_counter()
                file.write(b"x" * 512)
                os.fsync(file.fileno())
                syncs.append((time.perf_counter() - began) * 1000)
        with closing(sqlite3.connect(Path(folder) / "commit.db", isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("CREATE TABLE rows (number INTEGER)")
            for number in range(200):
                began = time.perf_counter()
                db.execute("INSERT INTO rows VALUES (?)", (number,))
                commits.append((time.perf_counter() - began) * 1000)
    return statistics.median(syncs), statistics.median(commits)


def show(measured: list[Round]) -> None:
    print(f"{'':28}{'cloudq':>24}{'Huey':>24}{'bare sqlite3':>26}{': Huey':>9}{': bare':>9}")
    for key, label, digits in FIGURES:
        cells = [spread(values(measured, name, key), digits) for name in CONTESTANTS]
        ratios = [ratio(measured, key, name, key) for name in CONTESTANTS[1:]]
        shown = [f"{found:.2f}" if found else "-" for found in ratios]
        print(f"{label:28}{cells[0]:>24}{cells[1]:>24}{cells[2]:>26}{shown[0]:>9}{shown[1]:>9}")


def judge(measured: list[Round], sync: float) -> None:
    bare = ratio(measured, "drain", "sqlite", "drain")
    # Against whichever setting suits Huey better.
    huey = min(ratio(measured, "drain", "huey", "drain"), ratio(measured, "drain", "huey", "drain_one"))
    p50 = statistics.median(values(measured, "cloudq", "p50"))
    idle = statistics.median(values(measured, "cloudq", "idle"))
    fast = sync < 0.5
    print("goals")
    print(f"  drain at least 0.4 of the bare loop     {bare:8.2f}    {verdict(bare >= 0.4)}")
    judged = verdict(huey >= 3) if fast else f"not judged: sync takes {sync:.2f} ms"
    print(f"  drain at least 3 x Huey, at Huey's best {huey:8.2f}    {judged}")
    print(f"  latency p50 at most 5 ms                {p50:8.2f}    {verdict(p50 <= 5)}")
    print(f"  idle CPU below 0.5 %                    {idle:8.2f}    {verdict(idle < 0.5)}")


def values(measured: list[Round], name: str, key: str) -> list[float]:
    return [figures[name][key] for figures in measured if key in figures[name]]


def ratio(measured: list[Round], ours: str, name: str, theirs: str) -> float:
    """The median of cloudq's figure over another's, taken within each round; 0 where there is nothing to compare."""
    pairs = zip(values(measured, "cloudq", ours), values(measured, name, theirs), strict=False)
    return statistics.median([mine / other for mine, other in pairs if other] or [0.0])


def spread(found: list[float], digits: int) -> str:
    if not found:
        return "-"
    return f"{statistics.median(found):.{digits}f} ({min(found):.{digits}f}..{max(found):.{digits}f})"


def verdict(met: bool) -> str:  # noqa: FBT001  the answer, told on
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
