"""What happened, written down as it happens, and the judgement over it.

Every process appends lines to a file of its own, so that what was written survives a kill. A line is JSON: its kind, the task's
id, and facts. The kinds:

    attempt, acked, unknown, failed   of an enqueue
    start, end                        of a run; `end` says whether it went well
    cause                             explains a second run of an id: its holder was killed, a retry was asked for, ...
    copy                              explains a second message of an id: two of its runs may overlap
    loose                             a run's lease is known to be gone, or its process is
    dead, expired                     what the queue made of it
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Ledger:
    """Lines in memory."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write(self, kind: str, task_id: str = "", **facts: Any) -> None:
        self.lines.append({"kind": kind, "id": task_id, **facts})


class FileLedger:
    """Lines in a file of this process, each in one write."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pid = 0
        self._file = -1

    def write(self, kind: str, task_id: str = "", **facts: Any) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._file = os.open(self._directory / f"{self._pid}.ledger", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        line = json.dumps({"kind": kind, "id": task_id, "pid": self._pid, **facts})
        os.write(self._file, line.encode() + b"\n")


def read(directory: Path) -> Iterator[Line]:
    """Every complete line of every process. A line cut short by a kill was never finished, so it never happened."""
    for path in sorted(directory.glob("*.ledger")):
        for line in path.read_bytes().split(b"\n"):
            if line.endswith(b"}"):
                yield json.loads(line)


@dataclass
class Verdict:
    """All lists must be empty."""

    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    overlap: list[str] = field(default_factory=list)
    given_up_unrun: list[str] = field(default_factory=list)
    tasks: int = 0
    runs: int = 0
    second_runs: int = 0

    def clean(self) -> bool:
        return not (self.lost or self.unexpected or self.phantom or self.unexplained or self.overlap or self.given_up_unrun)

    def __str__(self) -> str:
        classes = ("lost", "unexpected", "phantom", "unexplained", "overlap", "given_up_unrun")
        counts = ", ".join(f"{name} {len(getattr(self, name))}" for name in classes)
        shown = {name: getattr(self, name)[:5] for name in classes if getattr(self, name)}
        return f"{self.tasks} tasks, {self.runs} runs, {self.second_runs} second runs: {counts} {shown or ''}".rstrip()


def judge(lines: Iterable[Line], gone: set[str] | None = None) -> Verdict:
    """Judge a run that was drained. `gone` None: an id counts as finished when a run of it ended well."""
    attempts: set[str] = set()
    enqueued: dict[str, str] = {}
    starts: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    copies: Counter[str] = Counter()
    finished: set[str] = set(gone or ())
    dead: dict[str, str] = {}
    running: dict[str, set[object]] = defaultdict(set)
    excused: set[tuple[str, object]] = set()
    overlap: list[str] = []
    for line in lines:
        kind, task_id, run = line["kind"], line["id"], line.get("run")
        match kind:
            case "attempt":
                attempts.add(task_id)
            case "acked" | "unknown" | "failed":
                # The best that was ever reported: a repeat that was confirmed is a confirmation.
                if enqueued.get(task_id) != "acked":
                    enqueued[task_id] = kind
            case "start":
                starts[task_id] += 1
                others = {other for other in running[task_id] if (task_id, other) not in excused}
                if len(others) > copies[task_id]:
                    overlap.append(task_id)
                running[task_id].add(run)
            case "end":
                running[task_id].discard(run)
                if line.get("well"):
                    finished.add(task_id)
            case "cause":
                causes[task_id] += 1
            case "copy":  # the queue may hold a second message of this id: two runs at once are two messages
                copies[task_id] += 1
            case "loose":  # this run's lease is known to be gone, or its process is: another may begin
                excused.add((task_id, run))
            case "dead":
                dead[task_id] = line["why"]
            case "expired":
                finished.add(task_id)
    return Verdict(
        lost=sorted(i for i, how in enqueued.items() if how == "acked" and i not in finished and i not in dead),
        unexpected=sorted(set(starts) - attempts),
        phantom=sorted(i for i, how in enqueued.items() if how == "failed" and starts[i]),
        unexplained=sorted(i for i, count in starts.items() if count - 1 > causes[i]),
        overlap=sorted(set(overlap)),
        given_up_unrun=sorted(i for i, why in dead.items() if why in ("failed", "crashed", "rejected") and not starts[i]),
        tasks=len(attempts),
        runs=sum(starts.values()),
        second_runs=sum(max(0, count - 1) for count in starts.values()),
    )
