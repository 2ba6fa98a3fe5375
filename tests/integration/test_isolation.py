"""Tasks in processes of their own: a hard timeout, a crash that stays where it is, and leases that go on."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys

import pytest

from support.processes import alive, cloudq, environment, until

pytestmark = pytest.mark.processes

APP = """
import os, re, signal, time
from contextlib import contextmanager
from pathlib import Path
from cloudq import Backoff, CloudQ, Context, Reject

app = CloudQ(queues={"default": {"lease": "2s"}})
here = Path(__file__).parent
once = Backoff(max_attempts=1)

def write(text):
    with (here / "out").open("a") as out:
        out.write(text + "\\n")

def failed(ctx, error):
    write(f"failed {ctx.task} {type(error).__name__}: {error} in {os.getpid()}")

@app.middleware
@contextmanager
def around(ctx):
    write(f"enter {ctx.task}")
    yield
    write(f"leave {ctx.task}")

@app.task(isolate=True, on_success=lambda ctx, result: write(f"success {result}"))
def where(ctx: Context, number: int) -> int:
    write(f"where {number} {ctx.attempt} {os.getpid()}")
    return number * 2

@app.task(isolate=True)
async def there() -> None:
    write(f"there {os.getpid()}")

@app.task(isolate=True, retry=once, timeout="1s", on_failure=failed)
def stuck() -> None:
    write("stuck")
    # Holds the interpreter's lock all the time: no thread of its process runs.
    re.match(r"(a+)+$", "a" * 60 + "b")

@app.task(isolate=True, timeout="30s")
def greedy() -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        re.match(r"(a+)+$", "a" * 23 + "b")
    write("greedy done")

@app.task(isolate=True, retry=once, on_failure=failed)
def deadly() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)

@app.task(isolate=True, retry=Backoff(max_attempts=2, first=0.1, cap=1))
def leaving(ctx: Context) -> None:
    write(f"leaving {ctx.attempt}")
    if ctx.attempt == 1:
        os._exit(3)

@app.task(isolate=True)
def refuses() -> None:
    raise Reject("never")

@app.task(isolate=True)
def long(ctx: Context) -> None:
    write(f"long {os.getpid()}")
    time.sleep(60)

@app.task(isolate=True)
def leaves_a_bomb() -> None:
    import threading
    threading.Timer(0.3, os._exit, [7]).start()
    write(f"bomb {os.getpid()}")

@app.task(isolate=True, retry=once, on_failure=failed)
def after_the_bomb() -> None:
    write("after the bomb")

@app.task(isolate=True, retry=once)
def real_time_signal() -> None:
    os.kill(os.getpid(), 40)

@app.task(isolate=True, retry=once, timeout=None)
def forks() -> None:
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(isolate=True)
def rejects_bytes() -> None:
    raise Reject("bad file " + os.fsdecode(bytes([255])))

@app.task(isolate=True)
def stops_another() -> None:
    import subprocess
    other = subprocess.Popen(["sleep", "30"])
    other.terminate()
    write(f"stopped {other.wait(10)}")

def broken(ctx, result):
    raise RuntimeError("the hook broke")

@app.task(isolate=True, on_success=broken)
def hooked() -> None:
    write("hooked")

@app.task(isolate=True, timeout=None)
def outlives(ctx: Context) -> None:
    write(f"outlives {ctx.attempt}")
    end = time.monotonic() + 15
    while not ctx.lease_lost and time.monotonic() < end:
        time.sleep(0.05)
    write(f"told {ctx.lease_lost}")

@app.task
def beside() -> None:
    write(f"beside {os.getpid()}")
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "cloudq.toml").write_text(f'url = "sqlite:///{tmp_path}/queue.db"\n[worker]\ngrace = "1s"\n')
    return tmp_path


def run(project, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "cloudq", *arguments],
        cwd=project, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def work(project, *tasks, concurrency="1"):
    for task in tasks:
        run(project, "enqueue", "shop:app", *task.split())
    return run(project, "worker", "shop:app", "--burst", "-c", concurrency).stderr


def lines(project, *beginnings):
    out = project / "out"
    return [line for line in out.read_text().splitlines() if line.startswith(beginnings)] if out.exists() else []


def dead(project):
    return json.loads(run(project, "dlq", "ls", "shop:app", "--json").stdout)


def test_one_process_a_slot_is_reused_for_the_next(project):
    work(project, "shop.where 1", "shop.where 2", "shop.there", "shop.beside")
    pids = [line.split()[-1] for line in lines(project, "where", "there")]
    assert len(pids) == 3
    assert len(set(pids)) == 1
    assert lines(project, "beside") != [f"beside {pids[0]}"]
    assert lines(project, "success") == ["success 2", "success 4"]
    assert lines(project, "enter", "leave")[:2] == ["enter shop.where", "leave shop.where"]


def test_the_timeout_is_hard_even_for_code_that_holds_the_interpreter(project):
    log = work(project, "shop.stuck", "shop.where 7")
    (letter,) = dead(project)
    assert "timed out after 1 s; its process was killed" in letter["reason"]
    assert "ChildProcessError: timed out" in lines(project, "failed shop.stuck")[0]
    assert len(lines(project, "where 7 1")) == 1
    assert "lease" not in log


def test_leases_go_on_while_it_holds_the_interpreter(project):
    log = work(project, "shop.greedy", "shop.beside", concurrency="2")
    assert lines(project, "greedy") == ["greedy done"]
    assert "lost its lease" not in log


def test_a_crash_is_a_failed_run_and_the_worker_goes_on(project):
    work(project, "shop.deadly", "shop.leaving", "shop.refuses", "shop.where 9")
    work(project)
    until(lambda: work(project) and len(lines(project, "leaving")) == 2, "it was not tried again")
    reasons = {letter["task"]: letter["reason"] for letter in dead(project)}
    assert "was ended by SIGSEGV (attempt 1 of 1)" in reasons["shop.deadly"]
    assert reasons["shop.refuses"] == "never"
    assert lines(project, "leaving") == ["leaving 1", "leaving 2"]
    assert "SIGSEGV" in lines(project, "failed shop.deadly")[0]
    assert len(lines(project, "where 9 1")) == 1


def test_a_process_that_died_between_runs_is_replaced_and_no_run_is_counted(project):
    run(project, "enqueue", "shop:app", "shop.leaves_a_bomb")
    with cloudq("worker", "shop:app", "-c", "1", cwd=project, log=project / "log"):
        until(lambda: lines(project, "leave shop.leaves_a_bomb"), "the first did not run")
        until(lambda: gone(lines(project, "bomb")[0]), "its process lives on")
        run(project, "enqueue", "shop:app", "shop.after_the_bomb")
        until(lambda: lines(project, "after the bomb"), "the second was not run")
    assert not lines(project, "failed")
    assert not dead(project)


def test_whatever_ends_it_is_told_and_the_worker_goes_on(project):
    work(project, "shop.real_time_signal", "shop.forks", "shop.rejects_bytes", "shop.where 3", concurrency="2")
    letters = {letter["task"]: letter for letter in dead(project)}
    assert "was ended by signal 40" in letters["shop.real_time_signal"]["reason"]
    assert "was ended by SIGKILL" in letters["shop.forks"]["reason"], "what it forked held the line"
    assert (letters["shop.rejects_bytes"]["kind"], letters["shop.rejects_bytes"]["reason"]) == ("rejected", "bad file \\udcff")
    assert lines(project, "where 3 1")


def test_signals_of_its_own_and_hooks_work_as_elsewhere(project):
    log = work(project, "shop.stops_another", "shop.hooked")
    assert lines(project, "stopped") == ["stopped -15"]
    assert "has a hook that failed" in log
    assert "in broken" in log, "its traceback is told"
    assert not dead(project)


def test_it_is_told_when_its_lease_is_lost(project):
    run(project, "enqueue", "shop:app", "shop.outlives")
    with cloudq("worker", "shop:app", "-c", "1", cwd=project, log=project / "log"):
        until(lambda: lines(project, "outlives 1"), "it did not start")
        with sqlite3.connect(project / "queue.db", timeout=10) as db:
            db.execute("UPDATE messages SET token = -1, visible_at = visible_at + 3600")  # somebody else has it
        db.close()
        until(lambda: lines(project, "told True"), "it was not told")


def test_at_the_end_of_the_grace_it_is_killed_and_given_back(project):
    run(project, "enqueue", "shop:app", "shop.long")
    with cloudq("worker", "shop:app", cwd=project, log=project / "log") as worker:
        until(lambda: lines(project, "long"), "it did not start")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0
    assert gone(lines(project, "long")[0])
    (row,) = [row for row in json.loads(run(project, "queues", "shop:app", "--json").stdout) if row["part"] == "main"]
    assert (row["ready"], row["in_flight"]) == (1, 0)


def test_it_ends_with_a_worker_that_is_killed(project):
    run(project, "enqueue", "shop:app", "shop.long")
    with cloudq("worker", "shop:app", cwd=project, log=project / "log") as worker:
        until(lambda: lines(project, "long"), "it did not start")
        worker.kill()
        worker.wait()
    until(lambda: gone(lines(project, "long")[0]), "the process of the task lives on")


def gone(line):
    return not alive(int(line.split()[-1]))
