"""The application that storms are run on. Its workers write what they do to ledgers in STORM_DIR, one file a process."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from cloudq import Backoff, CloudQ, Context
from cloudq.events import Event, Name
from support.ledger import FileLedger

app = CloudQ(queues={"storm": {"lease": "3s"}})
ledger = FileLedger(Path(os.environ["STORM_DIR"]))
_runs = itertools.count(1)


def now() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # one clock for all processes of the machine


@app.task(queue="storm", name="work", retry=Backoff(first=0.2, cap=1))
def work(ctx: Context, length: float) -> None:
    run = f"{os.getpid()}-{next(_runs)}"
    ledger.write("start", ctx.task_id, run=run, at=now())
    time.sleep(length)
    ledger.write("end", ctx.task_id, run=run, at=now(), well=True)


def observe(event: Event) -> None:
    match event.name:
        case Name.ACKED:
            ledger.write("settle", event.task_id, at=now())
        case Name.LEASE_LOST | Name.SETTLE_LOST | Name.SETTLE_UNKNOWN | Name.RETRIED:
            ledger.write("cause", event.task_id, at=now(), what=event.name.value)
        case Name.DEAD_LETTERED:
            ledger.write("dead", event.task_id, at=now(), why=event.detail["kind"])
        case _:
            pass


app.events.add(observe)
