"""Real worker processes, waited for by what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]


def environment(**more):
    """The variables of a worker: nothing of cloudq's from outside, and the tests importable, beside what already is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDQ_")}
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, **{name: str(value) for name, value in more.items()}}


@contextmanager
def cloudq(*arguments, cwd, log, **variables):
    """Start the command; killed at the end if it still runs."""
    with Path(log).open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cloudq", *map(str, arguments)],
            cwd=cwd,
            env=environment(**variables),
            stdout=out,
            stderr=out,
            start_new_session=True,  # as under a terminal: a group of its own, to be signalled whole
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def until(condition, what, patience=30.0, every=0.02):
    """Wait for something that another process does. It is looked at often, and must happen within `patience` seconds."""
    deadline = time.monotonic() + patience  # noqa: TID251  the deadline of a test
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"  # noqa: TID251  as above
        time.sleep(every)
    return found


def alive(pid):
    """Tell whether a process lives. A killed one stays until it is reaped, and may be reaped between any two calls here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self").exists()  # macOS has none, and is believed as it stands


def resident(pid):
    """Return how much memory a process has, in MiB. Only Linux tells."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
