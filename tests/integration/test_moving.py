"""The same program, moved from the local provider to each of the three by one setting, with work left behind on the old one.

What the README's section "Moving" says is done here: producers and new workers get the new CLOUDQ_URL, one worker stays on the
old one until it is empty, and what was dead there is sent back there once its cause is mended.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from support import pubsub, servicebus, sqs
from support.processes import cloudq, environment, until

PROGRAM = """
import os, sys
from pathlib import Path
from cloudq import CloudQ, Reject

app = CloudQ()
DONE = Path(os.environ["DONE"])

@app.task(name="welcome", queue="mail")
def welcome(number: int) -> None:
    if number >= 900 and not os.environ.get("MENDED"):
        raise Reject("no such template")
    with DONE.open("a") as file:
        file.write(f"{number}\\n")

if __name__ == "__main__":
    numbers, delay = [int(number) for number in sys.argv[2:]], sys.argv[1]
    app.enqueue_many(welcome.options(delay=delay).message(number) for number in range(*numbers))
"""
CONFIGURATION = 'namespace = "shop"\n[queues.mail]\nlease = "10s"\n'


@contextmanager
def moved_to(name):
    """A server of that provider, and what leads to it."""
    made = {"sqs": sqs, "pubsub": pubsub, "servicebus": servicebus}[name]
    if name == "servicebus":
        servicebus.need_proton()
    with made.emulated() as emulated:
        if name == "sqs":
            keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
            yield {"CLOUDQ_URL": f"sqs://us-east-1?endpoint={emulated.endpoint}", **keys}
        else:
            yield {"CLOUDQ_URL": emulated.url}


@pytest.mark.processes
@pytest.mark.timeout(240)
@pytest.mark.parametrize("provider", ["sqs", "pubsub", "servicebus"])
def test_moving(provider, tmp_path):
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "cloudq.toml").write_text(CONFIGURATION)
    done = tmp_path / "done.txt"
    done.touch()
    old = {"CLOUDQ_URL": f"sqlite:///{tmp_path}/old.db", "DONE": done}

    def run(*words, **variables):
        finished = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment(**variables), check=False, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    def counts(**variables):
        rows = json.loads(run("-m", "cloudq", "queues", "shop:app", "--json", **variables))
        return {row["part"]: (row["ready"], row["delayed"]) for row in rows}

    def ran():
        return [int(line) for line in done.read_text().split()]

    # Three dead, 100 waiting, ten delayed: that is what the old provider holds.
    run("shop.py", "0", "900", "903", **old)
    run("-m", "cloudq", "worker", "shop:app", "--burst", **old)
    run("shop.py", "0", "0", "100", **old)
    run("shop.py", "15s", "100", "110", **old)
    assert counts(**old) == {"main": (100, 10), "dead": (3, 0)}

    with moved_to(provider) as where:
        new = {**where, "DONE": done, "MENDED": "1"}
        run("-m", "cloudq", "queues", "create", "shop:app", **new)
        run("shop.py", "0", "200", "300", **new)  # the same command; one setting is another

        with (
            cloudq("worker", "shop:app", cwd=tmp_path, log=tmp_path / "old.log", MENDED="1", **old) as left,
            cloudq("worker", "shop:app", cwd=tmp_path, log=tmp_path / "new.log", **new) as right,
        ):
            said = json.loads(run("-m", "cloudq", "dlq", "redrive", "shop:app", "--json", **old))
            assert said[0]["redriven"] == 3
            until(lambda: len(set(ran())) == 213, "not everything was run", patience=90)
            until(lambda: counts(**old) == {"main": (0, 0), "dead": (0, 0)}, "the old provider is not empty")
            for worker in (left, right):
                worker.send_signal(signal.SIGTERM)
            assert [worker.wait(60) for worker in (left, right)] == [0, 0]

    assert sorted(ran()) == [*range(110), *range(200, 300), 900, 901, 902]
