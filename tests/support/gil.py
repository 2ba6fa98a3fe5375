"""Code that leaves the interpreter to nobody."""

from __future__ import annotations

import time


def hold_the_lock(length: float) -> None:
    """Keep the interpreter's lock in C for so long: no other thread of the process runs meanwhile."""
    began = time.perf_counter()
    sum(range(1_000_000))
    for_one = time.perf_counter() - began
    sum(range(int(1_000_000 * length / for_one)))
    while time.perf_counter() - began < length:  # measured beside others, it was too short
        sum(range(100_000))
