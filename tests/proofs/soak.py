"""What it keeps: memory over many tasks, threads and descriptors over many starts, the processor when there is no work."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudq import CloudQ
from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working
from proofs.part import Part, Piece, Result, url_in
from support.processes import cloudq, until

#: After so many tasks a worker is warm: SQLite's caches are full, and the allocator has seen what is in use at once.
_WARM = 60_000
#: What a warm worker may hold more at the end, in blocks of Python's small objects.
BLOCKS = 5_000
#: From malloc, in MiB. A connection of SQLite caches up to 2 MiB of pages, and drops them all when another one has written.
HEAP = 2.0
#: Resident, in MiB, by a straight line. Of the full run alone: beside other work a process has more in use at once, and
#: keeps it from then on.
SLOPE = 1.0
#: Of one processor.
IDLE = 0.005
#: What a count may differ by.
_STEADY = 2


def memory(directory: Path, url: str, tasks: int) -> Result:
    result = Result({"tasks": tasks})
    place = url_in(directory, url)
    app = CloudQ(place)

    @app.task(name="nothing")
    def nothing() -> None: ...

    app.enqueue_many(nothing.message() for _ in range(tasks))
    app.close()
    sizes = directory / "sizes"
    sizes.touch()
    with cloudq(
        "worker", "support.measured_app:app", "--log-level", "ERROR",
        cwd=directory, log=directory / "log", CLOUDQ_URL=place,
    ) as worker:  # fmt: skip
        until(lambda: f"{tasks} " in sizes.read_text(), "the tasks were not done", patience=600, every=0.2)
        worker.terminate()
        result.hold(worker.wait(30) == 0, f"the worker ended with {worker.returncode}")
    rows = [tuple(map(float, line.split())) for line in sizes.read_text().splitlines()]
    done, residents, heaps, blocks = zip(*(row for row in rows if row[0] >= _WARM), strict=True)
    grown, more = floor_rise(heaps), floor_rise(blocks)
    result.figures |= {
        "samples": len(done),
        "worst_growth_in_use_mib": round(grown, 3),
        "worst_growth_of_python_blocks": int(more),
        "worst_growth_of_resident_mib": round(slope([*zip(done, residents, strict=True)]) * (tasks - _WARM), 3),
        "worst_resident_mib": round(max(row[1] for row in rows), 1),
    }
    over = f"over {tasks - _WARM:,} tasks once it was warm"
    result.hold(grown <= HEAP, f"what the worker holds from malloc grew by {grown:.2f} MiB {over}")
    result.hold(more <= BLOCKS, f"the worker holds {more:,.0f} blocks of Python more {over}")
    return result


def floor_rise(sizes: Sequence[float]) -> float:
    """Return by how much the sizes rise over their whole length, told by the least of their first and of their last third.

    What is in use goes up and down with what is at hand at once; what is never freed lifts the least of it.
    """
    third = len(sizes) // 3
    return (min(sizes[-third:]) - min(sizes[:third])) * len(sizes) / (len(sizes) - third)


def slope(points: Sequence[tuple[int, float]]) -> float:
    """Least squares."""
    n = len(points)
    if n < 2:
        return float("inf")
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def starts(directory: Path, url: str, times: int) -> Result:
    """Start the engine, run one task of each kind, and stop it, over and over in one process."""
    result = Result({"starts": times})
    app = CloudQ(url_in(directory, url))
    watch, ran = Watch(app), list[str]()

    @app.task
    def plain() -> None:
        ran.append("plain")

    @app.task
    async def coroutine() -> None:
        ran.append("coroutine")

    async def once() -> None:
        before = len(ran)
        await app.aenqueue_many([plain.message(), coroutine.message()])
        async with working(app, Plan(queues=["default"], concurrency=2, grace=6.0)):
            await watch.until(Name.ACKED, before + 2)

    async def counts(rounds: int) -> tuple[int, int]:
        for _ in range(rounds):
            await once()
        # Threads of a runner end by themselves: they are waited for.
        for _ in range(200):
            if threading.active_count() <= result.figures.get("threads", 0) + _STEADY:
                break
            await asyncio.sleep(0.01)
        gc.collect()
        return threading.active_count(), _descriptors()

    async def all_of_it() -> None:
        threads, descriptors = await counts(10)
        result.figures |= {"threads": threads, "descriptors": descriptors}
        after = await counts(times)
        result.figures |= {"threads_after": after[0], "descriptors_after": after[1]}
        result.hold(abs(after[0] - threads) <= _STEADY, f"threads went from {threads} to {after[0]}")
        result.hold(abs(after[1] - descriptors) <= _STEADY, f"descriptors went from {descriptors} to {after[1]}")

    asyncio.run(all_of_it())
    app.close()
    result.hold(len(ran) == 2 * (times + 10), f"{len(ran)} runs")
    return result


def _descriptors() -> int:
    """Return how many are open. Only Linux tells."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def idle(directory: Path, url: str, seconds: float) -> Result:
    result = Result({"idle_seconds": seconds})
    with cloudq(
        "worker", "support.plain_app:app", cwd=directory, log=directory / "log", CLOUDQ_URL=url_in(directory, url)
    ) as worker:
        until(lambda: "worker-started" in (directory / "log").read_text(), "the worker did not start")
        time.sleep(2.0)  # its first second has work of its own
        before, began = _processor(worker.pid), time.monotonic()  # noqa: TID251  what is measured
        time.sleep(seconds)
        used = (_processor(worker.pid) - before) / (time.monotonic() - began)  # noqa: TID251  as above
        worker.terminate()
        worker.wait(20)
    result.figures["worst_idle_share_of_a_processor"] = round(used, 5)
    result.hold(used < IDLE, f"an idle worker uses {100 * used:.2f} % of a processor")
    return result


def _processor(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    tasks, times, seconds = (200_000, 1_000, 120.0) if full else (120_000, 50, 5.0)
    return [
        Piece("memory", lambda directory: memory(directory, url, tasks)),
        Piece("starts", lambda directory: starts(directory, url, times)),
        Piece("idle", lambda directory: idle(directory, url, seconds)),
    ]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    wrong = [] if figures["tasks"] >= 200_000 and figures["starts"] >= 1_000 else ["too few tasks or starts"]
    grown = figures["worst_growth_of_resident_mib"]
    return wrong if grown <= SLOPE else [*wrong, f"a worker grew by {grown} MiB: run it with nothing beside it"]


SOAK = Part(
    "soak",
    f"200,000 tasks that do nothing through one worker grow it by at most {SLOPE:g} MiB once it is warm, and leave at most "
    f"{BLOCKS:,} blocks of Python and {HEAP:g} MiB of malloc behind; threads and descriptors stay the same over 1,000 starts "
    f"and stops of the engine; an idle worker uses less than {100 * IDLE:g} % of a processor",
    _pieces,
    _check,
)
