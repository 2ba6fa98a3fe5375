"""From no worker to many and back to none: a scaler that goes by the manifest's own rule, over real worker processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from time import monotonic, sleep  # noqa: TID251  a scaler lives in real time

import boto3
import pytest

from cloudq import CloudQ
from cloudq.manifests import manifests, workload
from support.processes import environment
from support.scaling import wanted
from support.sqs import emulated

pytestmark = pytest.mark.processes

TASKS = 5_000
LATE = 20
APP = """
import os
from pathlib import Path
from cloudq import CloudQ

app = CloudQ()
done = Path(__file__).parent / "done"

@app.task
def work(number: int) -> None:
    file = os.open(done, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(file, f"{number}\\n".encode())
    os.close(file)
"""
QUEUE = {"lease": "60s", "scale": {"backlog": 1000, "minimum": 0, "maximum": 4}}
#: A worker is taken away when for so long none was asked for (of Kubernetes' autoscaler and of KEDA, 300 s), in seconds here.
STEADY = 3.0


class Scaler:
    """Looks at what the triggers look at, and starts and ends worker processes: what KEDA and its platform would do."""

    def __init__(self, work, client, url, environ, cwd):
        self.work, self.client, self.url, self.environ, self.cwd = work, client, url, environ, cwd
        self.workers, self.leaving, self.ended = [], [], []
        self.most, self.asked = 0, []
        items = manifests(work, "kubernetes")["kubernetes.json"]["items"]
        scaled = next(item for item in items if item["kind"] == "ScaledObject")
        self.triggers = {trigger["name"]: trigger["metadata"] for trigger in scaled["spec"]["triggers"]}

    def waiting(self):
        """By physical queue, what its trigger counts."""
        counts = {}
        for name, metadata in self.triggers.items():
            kinds = ["", "NotVisible"] if metadata["scaleOnInFlight"] == "true" else [""]
            names = [f"ApproximateNumberOfMessages{kind}" for kind in kinds]
            found = self.client.get_queue_attributes(QueueUrl=f"{self.url}/{name}", AttributeNames=names)["Attributes"]
            counts[name] = sum(int(found[each]) for each in names)
        return counts

    def step(self):
        for processes in (self.workers, self.leaving):
            for worker in [worker for worker in processes if worker.poll() is not None]:
                processes.remove(worker)
                self.ended.append(worker.returncode)
        now = monotonic()
        self.asked = [(at, count) for at, count in self.asked if now - at < STEADY]
        self.asked.append((now, wanted(self.work, self.waiting())))
        count = max(count for _, count in self.asked)
        for _ in range(count - len(self.workers)):
            command = [sys.executable, "-m", "cloudq", *self.work.command[1:], "--log-level", "ERROR"]
            self.workers.append(subprocess.Popen(command, env=self.environ, cwd=self.cwd))
        while len(self.workers) > count:
            worker = self.workers.pop()
            worker.send_signal(signal.SIGTERM)
            self.leaving.append(worker)
        self.most = max(self.most, len(self.workers))

    def until_none(self, done):
        """Scale until everything is done and no worker is left."""
        deadline = monotonic() + 90
        while not done() or self.workers or self.leaving:
            assert monotonic() < deadline, "it does not come back to none"
            self.step()
            sleep(0.3)

    def close(self):
        for worker in [*self.workers, *self.leaving]:
            worker.kill()
            worker.wait()


def test_a_burst_is_worked_off_and_costs_nothing_afterwards(tmp_path, monkeypatch, report):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    (tmp_path / "burst_app.py").write_text(APP)
    with emulated() as sqs:
        url = f"sqs://us-east-1?endpoint={sqs.endpoint}&account=000000000000"
        app = CloudQ(url, namespace="burst", queues={"default": QUEUE})
        named = {"CLOUDQ_QUEUES__DEFAULT__LEASE": "60s", "CLOUDQ_NAMESPACE": "burst", "CLOUDQ_WORKER__GRACE": "6s"}
        environ = environment(CLOUDQ_URL=url, **named)
        environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        work = workload(app, image="registry/burst:1", command=["cloudq", "worker", "burst_app:app"])

        def run(program):
            subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environ, check=True)

        subprocess.run(
            [sys.executable, "-m", "cloudq", "queues", "create", "burst_app:app"], cwd=tmp_path, env=environ, check=True
        )
        client = boto3.client("sqs", region_name="us-east-1", endpoint_url=sqs.endpoint)
        scaler = Scaler(work, client, f"{sqs.endpoint}/000000000000", environ, tmp_path)

        def numbers():
            path = tmp_path / "done"
            return [int(line) for line in path.read_text().split()] if path.exists() else []

        try:
            scaler.step()
            assert scaler.workers == []
            run(f"from burst_app import app, work; app.enqueue_many(work.message(n) for n in range({TASKS}))")
            # Beside them, some that are due further ahead than the provider delays: nobody is up when they are.
            run(f"from burst_app import work; [work.options(delay='16m').enqueue({TASKS} + n) for n in range({LATE})]")
            began, before = monotonic(), dict(sqs.server.requests.by_action)
            scaler.until_none(lambda: len(set(numbers())) >= TASKS)
            took = monotonic() - began
            used = {name: count - before.get(name, 0) for name, count in sqs.server.requests.by_action.items()}
            assert sorted(numbers()) == list(range(TASKS))  # each once: no worker lost any, at its start or at its end
            assert scaler.most == work.maximum
            assert set(scaler.ended) == {0}
            # None is up, and nothing asks.
            quiet = sqs.server.requests.by_action["ReceiveMessage"]
            scaler.step()
            assert scaler.workers == []
            assert sqs.server.requests.by_action["ReceiveMessage"] == quiet

            # What waits in the delay part wakes a worker when it can be received. It hides it until it is due, which for its
            # clock is in a quarter of an hour, and ends.
            most, scaler.most = scaler.most, 0
            sqs.advance(901)
            scaler.until_none(lambda: scaler.waiting()["burst-default-delay"] == 0)
            assert scaler.most == 1
            told = client.get_queue_attributes(
                QueueUrl=f"{scaler.url}/burst-default-delay", AttributeNames=["ApproximateNumberOfMessagesNotVisible"]
            )
            assert int(told["Attributes"]["ApproximateNumberOfMessagesNotVisible"]) == LATE
        finally:
            scaler.close()
        counted = sum(count for name, count in used.items() if name != "GetQueueAttributes")
        report(
            f"burst: {TASKS} tasks, 0 to {most} to 0 workers in {took:.0f} s; {counted} requests beyond the sends, "
            f"{counted / TASKS:.3f} a task: {json.dumps({k: v for k, v in sorted(used.items()) if v})}"
        )
        client.close()
