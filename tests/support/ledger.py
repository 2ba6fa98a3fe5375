"""What happened, written down as it happens. The judgement over it is in `support.oracle`.

Every process appends lines to a file of its own, so that what was written survives a kill. A line is JSON: its kind, the task's
id, and facts. The kinds:

    attempt, acked, unknown, failed   of an enqueue
    start, end                        of a run, both with its `run`; `end` says whether it went `well`
    told                              what cloudq reported of the task: `what`, and of which `attempt` in which `worker`
    cause                             explains a second run of an id: its holder was killed, a retry was asked for, ...
    doubt                             of what was not run: that its settlement may have happened
    copy                              explains a second message of an id: two of its runs may overlap
    loose                             a run's lease is known to be gone, or its process is
    dead                              what the queue made of it, as found there at the end
    limbo                             a message that is left at the end, neither runnable nor in a final state
    fault                             what was done to the run on purpose: `what`
    drained                           the end: the queues were seen empty
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
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
        pid = os.getpid()
        if self._pid != pid:
            # First the file: another thread may be about to write. Two that open it append to the same.
            self._file = os.open(self._directory / f"{pid}.ledger", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            self._pid = pid
        line = json.dumps({"kind": kind, "id": task_id, "pid": self._pid, **facts})
        os.write(self._file, line.encode() + b"\n")


class Tail:
    """The ledgers of a directory, read as they grow: only what is new since the last look."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[Line]:
        for path in sorted(self._directory.glob("*.ledger")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                grown = file.read()
            whole = grown.rfind(b"\n") + 1  # the rest of a line may still be on its way
            self._read[path] = self._read.get(path, 0) + whole
            yield from map(json.loads, grown[:whole].splitlines())


def read(directory: Path) -> list[Line]:
    """Every complete line of every process, by time. A line cut short by a kill was never finished, so it never happened."""
    return sorted(Tail(directory).new(), key=lambda line: line["at"])
