"""What the contestants of throughput.py run in their workers, and how it is told: datagrams to a socket in the folder.

A no-op task does nothing but count: the first and the last one look at the clock and at the CPU time of their process.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import socket
import threading
import time
from pathlib import Path

FOLDER = Path(os.environ["BENCH_FOLDER"])
#: How many no-op tasks this worker will run, and for how many seconds it is watched while it has nothing to do.
EXPECTED = int(os.environ.get("BENCH_EXPECTED", "0"))
IDLE = float(os.environ.get("BENCH_IDLE", "0"))

_number = itertools.count(1)  # one step of the interpreter, so that threads need no lock
_first = (0.0, 0.0)


def cpu() -> float:
    """User and system time of this process, all threads, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(FOLDER / "report"))
    return listener


def report(**facts: float) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(json.dumps(facts).encode(), str(FOLDER / "report"))


def noop() -> None:
    global _first
    number = next(_number)
    if number == 1:
        _first = (time.perf_counter(), cpu())
    if number == EXPECTED:
        report(seconds=time.perf_counter() - _first[0], cpu=cpu() - _first[1])


def stamp() -> None:
    report(started=time.time())


def rest() -> None:
    """Begin to watch this process, from a thread that sleeps meanwhile."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    time.sleep(1.0)  # the task that began this is settled by then
    before = cpu()
    time.sleep(IDLE)
    report(idle=100 * (cpu() - before) / IDLE, memory=_resident() / 1e6)


def _resident() -> float:
    """Bytes in memory. Linux only, elsewhere nan: what getrusage tells is the peak, and counts the parent of a vfork."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE")
