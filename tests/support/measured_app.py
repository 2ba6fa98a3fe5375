"""An application that does nothing, whose worker writes down what it holds as it goes.

It is the worker that measures: who counts what is left in a SQLite file reads it beside the worker, which then waits and has
more at hand at once. And it measures what is in use, because a process keeps most of the memory that it needed once;
what only waits for a collection is in use by nobody, so one comes first.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import sys
from pathlib import Path

from cloudq import CloudQ
from support.processes import resident

_EVERY = 500
app = CloudQ()
_runs = itertools.count(1)


class _Heap(ctypes.Structure):
    """What glibc's mallinfo2 answers with (malloc.h), in bytes and counts."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@app.task(name="nothing")
def nothing() -> None:
    done = next(_runs)
    if done % _EVERY == 0:
        gc.collect()
        with Path("sizes").open("a") as sizes:
            sizes.write(f"{done} {resident(os.getpid())} {_heap()} {sys.getallocatedblocks()}\n")


def _heap() -> float:
    """Return what was asked of malloc and not freed, in MiB. Python's small objects have their own place, and their count."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Heap
    found = ask()
    return (found.uordblks + found.hblkhd) / (1 << 20)
