"""Power cuts, full disks and failing syncs under the shipped SQLite driver."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudq.errors import CloudQError
from cloudq_local.store import connect
from proofs.part import SQLITE, Part, Piece, Result, scratch
from support.processes import environment
from support.recorded import STRACE, Disk, calls

SEED = 20261121
INSERTS = 1_000
_FILES = ("queue.db", "queue.db-wal", "queue.db-journal")


def _insert(directory: Path, count: int, *more: object, under: Sequence[str] = ()) -> None:
    done = subprocess.run(
        [*under, sys.executable, "-m", "support.inserts", str(directory), str(count), *map(str, more)],
        cwd=directory,
        env=environment(CODESPACES=1),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _said(text: str) -> dict[str, set[str]]:
    ids: dict[str, set[str]] = {"acked": set(), "unknown": set(), "rejected": set()}
    for line in text.splitlines():
        what, _, task_id = line.partition(" ")
        ids[what].add(task_id)
    return ids


def _found(directory: Path, *, thoroughly: bool) -> dict[str, bytes]:
    """Open the file as the driver does, and return the bodies that are in it, by id."""
    connection = connect(directory / "queue.db")
    try:
        if thoroughly:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the file is damaged"
        return dict(connection.execute("SELECT message_id, body FROM messages"))
    finally:
        connection.close()


def power_cut(directory: Path, inserts: int) -> Result:
    """Record a process that inserts, and cut the power before and after every sync that it made."""
    draw, result = random.Random(SEED), Result({"inserts": inserts, "cuts": 0, "acknowledged_lost": 0, "seed": SEED})
    trace = directory / "trace"
    written = directory / "written"
    written.mkdir()
    _insert(written, inserts, under=[*STRACE, "-o", str(trace)])
    disk, whole = Disk(written), _found(written, thoroughly=True)
    with scratch() as cut:
        for call in calls(trace):
            before = call.name in ("fsync", "fdatasync") and disk.syncs
            if before:
                _cut(disk, cut, result, whole, draw)
            if disk.do(call):
                _cut(disk, cut, result, whole)
    acked = len(_said(disk.now("said").decode())["acked"])
    result.figures |= {"syncs": disk.syncs, "acknowledged": acked}
    result.hold(acked == inserts, f"{acked} of {inserts} inserts were acknowledged")
    result.hold(disk.syncs >= inserts, f"{disk.syncs} syncs for {inserts} inserts: what was recorded?")
    result.hold(whole.keys() >= _said((written / "said").read_text())["acked"], "lost without any cut")
    return result


def _cut(disk: Disk, cut: Path, result: Result, whole: dict[str, bytes], torn: random.Random | None = None) -> None:
    (cut / "queue.db-shm").unlink(missing_ok=True)
    disk.cut(cut, _FILES, torn)
    acked = _said(disk.now("said").decode())["acked"]
    result.figures["cuts"] += 1
    try:
        found = _found(cut, thoroughly=result.figures["cuts"] % 20 == 0)
    except (sqlite3.Error, CloudQError, AssertionError) as error:
        result.broken.append(f"cut {result.figures['cuts']}: {error}")
        return
    lost = acked - found.keys()
    damaged = [task_id for task_id, body in found.items() if body != whole[task_id]]
    result.hold(not damaged, f"cut {result.figures['cuts']}: {len(damaged)} tasks are damaged")
    result.figures["acknowledged_lost"] += len(lost)
    result.hold(not lost, f"cut {result.figures['cuts']}: {len(lost)} of {len(acked)} acknowledged tasks are lost")


def longest_file(directory: Path, inserts: int) -> Result:
    """No file may grow any more: enqueues fail with a clear error, and nothing that was acknowledged is lost."""
    _insert(directory, inserts, 200_000)
    return _compare(directory, "longest_file")


def full_disk(directory: Path, inserts: int, first: int) -> Result:
    """From the n-th on, every write to the files of the queue finds no space left."""
    fail = ["strace", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", f"inject=pwrite64:error=ENOSPC:when={first}+"]
    _insert(directory, inserts, under=fail)
    return _compare(directory, "full_disk")


def failing_sync(directory: Path, inserts: int, first: int) -> Result:
    """From the n-th on, every sync fails with EIO: what was written may be there or not, and that is what is said."""
    fail = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={first}+"]
    _insert(directory, inserts, under=fail)
    return _compare(directory, "failing_sync")


def _compare(directory: Path, name: str) -> Result:
    lines = (directory / "said").read_text()
    said, found = _said(lines), _found(directory, thoroughly=True).keys()
    result = Result({f"{name}_{what}": len(ids) for what, ids in said.items()})
    # What fails goes on failing: an acknowledgement after the first failure would be of nothing.
    words = [line.split()[0] for line in lines.splitlines()]
    failed = next((number for number, word in enumerate(words) if word != "acked"), len(words))
    result.hold("acked" not in words[failed:], f"{name}: acknowledged after a write that failed")
    lost, phantoms = said["acked"] - found, said["rejected"] & found
    result.figures["acknowledged_lost"] = len(lost)
    result.hold(not lost, f"{name}: {len(lost)} acknowledged tasks are lost")
    result.hold(not phantoms, f"{name}: {len(phantoms)} that were reported as surely not queued are there")
    result.hold(bool(said["acked"]) and bool(said["rejected"] | said["unknown"]), f"{name}: nothing failed, or all did")
    return result


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    if url != SQLITE:
        return []  # a managed provider's durability is its own
    assert shutil.which("strace"), "strace is needed: apt install strace"
    inserts = INSERTS if full else 100
    return [
        Piece("power-cut", lambda directory: power_cut(directory, inserts)),
        Piece("longest-file", lambda directory: longest_file(directory, max(300, inserts))),
        *(
            Piece(f"full-disk-{first}", lambda directory, first=first: full_disk(directory, inserts, first))
            for first in ((100, 500, 1000) if full else (100,))
        ),
        *(
            Piece(f"failing-sync-{first}", lambda directory, first=first: failing_sync(directory, inserts, first))
            for first in ((20, 100, 500) if full else (20,))
        ),
    ]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    return [] if figures["inserts"] >= INSERTS and figures["cuts"] >= INSERTS else ["too few inserts or cuts"]


POWER = Part(
    "power",
    f"the power cut before and after each sync of {INSERTS:,} inserts, as recorded from the system calls of the shipped "
    f"driver; a full disk; failing syncs: no acknowledged task is lost, and none that was refused is there",
    _pieces,
    _check,
)
