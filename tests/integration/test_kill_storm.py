"""SIGKILL, again and again, of processes that hold started work. None lost, none given up unrun, every second run explained."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import defaultdict

import pytest

from support.ledger import FileLedger, read
from support.oracle import judge
from support.processes import alive, cloudq, until

pytestmark = pytest.mark.processes

TASKS = 5_000
PROCESSES = 4
KILLS = 10
SEED = 20261120


@pytest.mark.timeout(240)
def test_kill_storm(tmp_path, monkeypatch, report):
    monkeypatch.setenv("STORM_DIR", str(tmp_path))
    monkeypatch.setenv("CLOUDQ_URL", f"sqlite:///{tmp_path}/queue.db")
    from support import storm_app

    draw = random.Random(SEED)
    storm_app.app.__dict__.pop("settings", None)  # the module may have been imported with another environment
    mine = FileLedger(tmp_path)
    messages = [storm_app.work.message(draw.uniform(0.010, 0.025)) for _ in range(TASKS)]
    for message in messages:
        mine.write("attempt", message.task_id, at=storm_app.now())
    storm_app.app.enqueue_many(messages)
    for message in messages:
        mine.write("acked", message.task_id, at=storm_app.now())

    kills, tries = 0, 0
    with cloudq(
        "worker", "support.storm_app:app", "--processes", PROCESSES, "--concurrency", 2, "--log-level", "ERROR",
        cwd=tmp_path, log=tmp_path / "worker.log", STORM_DIR=tmp_path, CLOUDQ_URL=f"sqlite:///{tmp_path}/queue.db",
    ) as supervisor:  # fmt: skip
        while kills < KILLS and tries < 100:
            tries += 1
            pid = until(lambda: _holder(tmp_path, draw), "no process holds started work")
            kills += _kill(pid, tmp_path, mine, storm_app.now)
            enough = _started(tmp_path) + 20
            until(lambda enough=enough: _started(tmp_path) > enough, "the storm's work stands still")
        until(lambda: _drained(storm_app.app), "the queue was not drained", patience=120, every=0.2)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(30) == 0, (tmp_path / "worker.log").read_text()[-2000:]

    verdict = judge(sorted(read(tmp_path), key=lambda line: line["at"]))
    report(f"kill storm on SQLite, seed {SEED}: {kills} SIGKILLs of holders in {tries} tries; {verdict}")
    assert kills >= KILLS, "too few processes held started work when they were killed: this run shows nothing"
    assert verdict.clean(), str(verdict)
    assert verdict.tasks == TASKS
    storm_app.app.close()


def _open(directory):
    """By process: the tasks that were started and not settled, and the runs under way."""
    unsettled, running = defaultdict(set), defaultdict(dict)
    for line in read(directory):
        match line["kind"]:
            case "start":
                unsettled[line["pid"]].add(line["id"])
                running[line["pid"]][line["id"]] = line["run"]
            case "end":
                running[line["pid"]].pop(line["id"], None)
            case "settle":
                unsettled[line["pid"]].discard(line["id"])
    return unsettled, running


def _holder(directory, draw):
    _, running = _open(directory)
    living = [pid for pid, runs in sorted(running.items()) if runs and alive(pid)]
    return draw.choice(living) if living else None


def _kill(pid, directory, ledger, now):
    """Kill, and write down what that explains. Returns whether it held started work."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    until(lambda: not alive(pid), "a killed process lives on")
    unsettled, running = _open(directory)
    for task_id in sorted(unsettled[pid]):
        ledger.write("cause", task_id, at=now(), what="killed")
    for task_id, run in sorted(running[pid].items()):
        ledger.write("loose", task_id, at=now(), run=run)
    return bool(running[pid])


def _started(directory):
    return sum(1 for line in read(directory) if line["kind"] == "start")


def _drained(app):
    async def left():
        async with app.driver(app.url_of("storm")) as driver:
            stats = [await driver.stats(queue) for queue in app.addresses("storm")]
            return sum(stat.ready + stat.in_flight + stat.delayed for stat in stats[:-1])

    return asyncio.run(left()) == 0
