"""A worker that says how it is, as a platform asks it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from cloudq.testing import ManualClock
from cloudq.worker.health import LIVE, READY, HealthServer, Heartbeat, ask
from support.processes import cloudq, environment, until

pytestmark = pytest.mark.processes

APP = """
import time
from cloudq import CloudQ

app = CloudQ("sqlite:///queue.db", queues={"default": {}})

@app.task
def slow(seconds: float) -> None:
    open("began", "w").close()
    time.sleep(seconds)
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def free_port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def works(port):
    return not ask(port, READY)


def test_a_worker_is_ready_and_drains(project):
    port = free_port()
    subprocess.run(
        [sys.executable, "-m", "cloudq", "enqueue", "shop:app", "shop.slow", "2"], cwd=project, env=environment(), check=True
    )
    with cloudq("worker", "shop:app", "--health-port", port, cwd=project, log=project / "log") as worker:
        until(lambda: works(port), "the worker is not ready")
        until((project / "began").exists, "nothing runs")
        worker.send_signal(signal.SIGTERM)
        # While the task has its grace, it is alive and takes no more.
        until(lambda: ask(port, READY) == "it drains", "it does not say that it drains")
        assert ask(port, LIVE) == ""
        assert worker.wait(20) == 0
        assert ask(port, LIVE).startswith("no answer")


def test_a_provider_that_cannot_be_reached_is_no_death(project):
    (project / "shop.py").write_text(APP.replace('"sqlite:///queue.db"', '"sqs://us-east-1?endpoint=http://127.0.0.1:9"'))
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    with cloudq("worker", "shop:app", "--health-port", port, cwd=project, log=project / "log", **keys):
        until(lambda: ask(port, READY) == "nothing can be received from cloudq-default", "it calls itself ready")
        assert ask(port, LIVE) == ""


def test_a_supervisor_answers_for_its_children(project):
    port = free_port()
    arguments = ("worker", "shop:app", "--health-port", port, "--processes", 2)
    with cloudq(*arguments, cwd=project, log=project / "log") as worker:
        until(lambda: works(port), "the workers are not ready")
        assert works(port + 1)
        assert works(port + 2)
        children = subprocess.run(["pgrep", "-P", str(worker.pid)], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(children[0]), signal.SIGSTOP)
        until(lambda: "no answer at port" in ask(port, READY, 10.0), "a child that stands still is ready")
        os.kill(int(children[0]), signal.SIGCONT)
        until(lambda: works(port), "the workers are not ready again")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def test_the_command_for_images_without_a_shell(project):
    port = free_port()

    def health(*more):
        command = [sys.executable, "-m", "cloudq", "health", "--port", str(port), *more]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)

    gone = health()
    assert gone.returncode == 1
    assert f"no answer at port {port}" in gone.stderr
    with cloudq("worker", "shop:app", "--health-port", port, cwd=project, log=project / "log"):
        until(lambda: works(port), "the worker is not ready")
        assert health().returncode == health("--ready").returncode == 0


def test_a_port_that_is_taken_is_told(project):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        command = [sys.executable, "-m", "cloudq", "worker", "shop:app", "--health-port", str(taken.getsockname()[1])]
        done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr


def test_a_loop_that_stands_still_is_not_alive():
    clock = ManualClock()
    heartbeat = Heartbeat(clock)
    with HealthServer(0, heartbeat.live, lambda: "") as server:
        assert ask(server.port, LIVE) == ""
        clock.advance("31s")
        assert ask(server.port, LIVE) == "the control loop has stood still for 31 s"
        assert ask(server.port, "/nowhere") == "there is /livez and /readyz"
