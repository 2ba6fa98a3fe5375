"""The worker as an operating system sees it: signals, exit codes, and a supervisor that keeps it alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from support.processes import cloudq, environment, until

pytestmark = pytest.mark.processes

APP = """
import os, sys, time
from pathlib import Path
from cloudq import CloudQ, Context

app = CloudQ(queues={"default": {"lease": "20s"}})
here = Path(__file__).parent

def write(text):
    with (here / "out").open("a") as out:
        out.write(f"{text} {os.getpid()}\\n")

@app.task
def quick(number: int) -> None:
    write(f"quick {number}")

@app.task
def slow(seconds: float) -> None:
    write("begin")
    time.sleep(seconds)
    write("end")

@app.task
def deadly() -> None:
    write("deadly")
    os._exit(13)
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "cloudq.toml").write_text(f'url = "sqlite:///{tmp_path}/queue.db"\n[worker]\ngrace = "10s"\n')
    return tmp_path


def run(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "cloudq", *arguments],
        cwd=project, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def lines(project):
    out = project / "out"
    return out.read_text().splitlines() if out.exists() else []


def starts(project, word):
    return [line for line in lines(project) if line.startswith(word)]


def test_enqueue_work_and_look(project):
    assert run(project, "enqueue", "shop:app", "shop.quick", "7").returncode == 0
    assert run(project, "enqueue", "shop:app", "shop.quick", "number=8", "--delay", "1h").returncode == 0
    done = run(project, "worker", "shop:app", "--burst")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in lines(project)] == ["7"]
    listed = run(project, "queues", "shop:app", "--json")
    assert '"delayed": 1' in listed.stdout


def test_a_first_sigterm_lets_a_running_task_end(project):
    run(project, "enqueue", "shop:app", "shop.slow", "1.0")
    with cloudq("worker", "shop:app", cwd=project, log=project / "log") as worker:
        until(lambda: starts(project, "begin"), "the task did not start")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0
    assert starts(project, "end")
    assert '"in_flight": 0' in run(project, "queues", "shop:app", "--json").stdout


def test_a_second_sigterm_ends_at_once_and_the_work_comes_back(project):
    run(project, "enqueue", "shop:app", "shop.slow", "60")
    with cloudq("worker", "shop:app", cwd=project, log=project / "log") as worker:
        until(lambda: starts(project, "begin"), "the task did not start")
        worker.send_signal(signal.SIGTERM)
        until(lambda: "draining" in (project / "log").read_text(), "the worker does not drain")
        until(lambda: worker.send_signal(signal.SIGTERM) or worker.poll() is not None, "it does not end", patience=5, every=0.1)
        assert worker.returncode == 128 + signal.SIGTERM
    assert '"in_flight": 1' in run(project, "queues", "shop:app", "--json").stdout


def test_a_supervisor_replaces_a_killed_process_and_passes_the_end_on(project):
    with cloudq("worker", "shop:app", "--processes", 2, cwd=project, log=project / "log") as supervisor:
        until(lambda: (project / "log").read_text().count("worker-started") == 2, "two processes did not start")
        run(project, "enqueue", "shop:app", "shop.slow", "30")
        begun = until(lambda: starts(project, "begin"), "the task did not start")
        os.kill(int(begun[0].split()[1]), signal.SIGKILL)
        until(lambda: (project / "log").read_text().count("worker-started") == 3, "no process took its place")
        run(project, "enqueue", "shop:app", "shop.quick", "1")
        until(lambda: starts(project, "quick"), "the others do not work")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(20) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_signals_the_whole_group_and_drains(project, processes):
    run(project, "enqueue", "shop:app", "shop.slow", "1.0")
    with cloudq("worker", "shop:app", "--processes", processes, cwd=project, log=project / "log") as worker:
        until(lambda: starts(project, "begin"), "the task did not start")
        os.killpg(worker.pid, signal.SIGINT)
        assert worker.wait(15) == 0
    assert starts(project, "end")


def test_workers_drain_when_their_supervisor_is_gone(project):
    with cloudq("worker", "shop:app", "--processes", 2, cwd=project, log=project / "log") as supervisor:
        until(lambda: (project / "log").read_text().count("worker-started") == 2, "two processes did not start")
        supervisor.kill()
        supervisor.wait()
        until(lambda: (project / "log").read_text().count("worker-stopped") == 2, "orphans live on")


def test_a_task_that_kills_its_process_is_quarantined_after_three_crashes(project):
    (project / "cloudq.toml").write_text(f'url = "sqlite:///{project}/queue.db"\n[queues.default]\nlease = "1s"\n')
    (project / "shop.py").write_text(APP.replace('queues={"default": {"lease": "20s"}}', ""))
    run(project, "enqueue", "shop:app", "shop.deadly")
    run(project, "enqueue", "shop:app", "shop.quick", "1")
    with cloudq("worker", "shop:app", "--processes", 2, cwd=project, log=project / "log") as supervisor:
        until(
            lambda: '"kind": "crashed"' in run(project, "dlq", "ls", "shop:app", "--json").stdout, "not quarantined", every=0.3
        )
        until(lambda: starts(project, "quick"), "its company was not run")
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(20)
    assert len(starts(project, "deadly")) == 3
    assert run(project, "dlq", "ls", "shop:app", "--json").stdout.count('"kind"') == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["worker", "nowhere:app"], 2, "there is no module 'nowhere'"),
        (["worker", "shop:aap"], 2, "Did you mean 'app'?"),
        (["worker", "shop:app", "--queue", "defualt"], 2, "Did you mean 'default'?"),
        (["enqueue", "shop:app", "shop.quik", "1"], 2, "Did you mean 'shop.quick'?"),
        (["enqueue", "shop:app", "shop.quick", '"one"'], 2, "Expected `int`, got `str`"),
        (["dlq", "show", "shop:app", "none"], 1, "no dead letter has the id 'none'"),
    ],
)
def test_wrong_use_is_told_and_coded(project, arguments, code, says):
    done = run(project, *arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


RELOADED = """
from pathlib import Path
from cloudq import CloudQ

app = CloudQ()

@app.task
def say() -> None:
    with (Path(__file__).parent / "said").open("a") as out:
        out.write("before\\n")
"""


@pytest.fixture
def in_the_background():
    """As a shell starts a job with `&`: it ignores Ctrl-C, which must not make it deaf to a signal that is meant for it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_background")
def test_reload_runs_the_new_code_after_a_change(project):
    (project / "fresh.py").write_text(RELOADED)
    said = project / "said"
    with cloudq("worker", "fresh:app", "--reload", cwd=project, log=project / "log") as worker:
        assert run(project, "enqueue", "fresh:app", "fresh.say").returncode == 0
        until(lambda: said.exists() and said.read_text() == "before\n", "the first version did not run")
        # The watch begins after the first start: it is told again until it sees.
        until(lambda: _changed(project) and "changed: " in (project / "log").read_text(), "the change was not seen", every=0.5)
        assert run(project, "enqueue", "fresh:app", "fresh.say").returncode == 0
        until(lambda: "after" in said.read_text(), "the second version did not run")
        worker.send_signal(signal.SIGINT)
        worker.wait(30)


def _changed(project):
    (project / "fresh.py").write_text(RELOADED.replace("before", "after"))
    return True
