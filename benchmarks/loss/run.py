"""What is lost: the same 1,000 tasks on the same server for cloudq and three peers, with failures, a foreign message and kills.

    python benchmarks/loss/run.py [--only cloudq,celery] [--peers PATH/TO/python] [--tasks 1000]

980 tasks succeed, 20 fail eight times first; one message is not the contestant's at all; the worker, all of its processes, is
killed with SIGKILL at a quarter, at half and at three quarters of the work, and started again. It is over when everything has
succeeded and the queue is empty, or when nothing has happened for two minutes.

lost          neither succeeded, nor in any queue at the end
deleted       the foreign message: gone, without a copy anywhere
unexplained   second runs of tasks whose run before had succeeded, and had not ended within two seconds before a kill
requests      billed, from the first enqueue to the end
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3

HERE = Path(__file__).parent
PEERS = ("celery", "dramatiq", "taskiq")
FAILING, FAILS, KILLS = 20, 8, 3
FOREIGN = "not a task of anybody here"
QUIET = 120.0
#: A run that ended so shortly before a kill may not have been acknowledged yet.
UNSETTLED = 2.0

_spec = importlib.util.spec_from_file_location("bench_sqs", HERE.parent / "sqs" / "run.py")
bench = importlib.util.module_from_spec(_spec)
sys.modules["bench_sqs"] = bench
_spec.loader.exec_module(bench)


def contest(contestant: str, python: str, tasks: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        return _contest(contestant, python, tasks, Path(folder))


def _contest(contestant: str, python: str, tasks: int, folder: Path) -> dict[str, object]:
    port = bench.free_port(bench.socket.SOCK_STREAM)
    endpoint = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**os.environ, **keys, "BENCH_ENDPOINT": endpoint, "BENCH_FOLDER": str(folder), "PYTHONPATH": str(HERE)}
    environment["AWS_ENDPOINT_URL_SQS"] = endpoint
    server = subprocess.Popen([sys.executable, "-m", "cloudq_sqs.emulator", "--port", str(port)])
    asker = object.__new__(bench.Round)
    asker.endpoint = endpoint
    asker.ask("", retry=True)
    client = boto3.client("sqs", endpoint_url=endpoint, **{key.lower(): value for key, value in keys.items() if "KEY" in key},
                          region_name="us-east-1")  # fmt: skip
    try:
        step = (
            f"import with_{contestant} as c, os; c.create(); "
            f"c.enqueue([(n, {FAILS} if n < {FAILING} else 0) for n in range({tasks})]); print(c.QUEUE); print(*c.COMMAND); "
            "import sys; sys.stdout.flush(); os._exit(0)"
        )
        done = subprocess.run([python, "-c", step], cwd=HERE, env=environment, capture_output=True, text=True, check=True)
        queue, command = done.stdout.strip().splitlines()[-2:]
        client.send_message(QueueUrl=f"{endpoint}/000000000000/{queue}", MessageBody=FOREIGN)
        kills = _work(command.split(), python, environment, asker, folder, tasks)
        return _judge(contestant, asker, client, endpoint, folder, tasks, kills)
    finally:
        server.terminate()
        server.wait()


def _work(command: list[str], python: str, environment: dict, asker, folder: Path, tasks: int) -> list[float]:
    kills: list[float] = []
    worker = None
    quiet_since, before = time.time(), None
    try:
        while time.time() - quiet_since < QUIET:
            if worker is None or worker.poll() is not None:
                worker = subprocess.Popen([python, *command], cwd=HERE, env=environment, start_new_session=True,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            time.sleep(0.1)
            runs = _runs(folder)
            ended = sum(any(line[0] == "e" for line in lines) for lines in runs.values())
            if len(kills) < KILLS and ended >= tasks * (len(kills) + 1) // (KILLS + 1):
                kills.append(time.time())
                os.killpg(worker.pid, bench.signal.SIGKILL)
                worker.wait()
                worker = None
            left = sum(count for name, count in asker.ask("")["queues"].items() if not _dead(name))
            now = (sum(len(lines) for lines in runs.values()), left)
            if now != before:
                quiet_since, before = time.time(), now
            if ended == tasks and left == 0:
                break
    finally:
        if worker is not None:
            os.killpg(worker.pid, bench.signal.SIGKILL)
            worker.wait()
    return kills


def _dead(name: str) -> bool:
    return name.endswith(("-dlq", "_dlq", "-dead", ".DQ"))


def _runs(folder: Path) -> dict[int, list[list[str]]]:
    return {int(path.name): [line.split() for line in path.read_text().splitlines()] for path in folder.iterdir()}


def _judge(contestant: str, asker, client, endpoint: str, folder: Path, tasks: int, kills: list[float]) -> dict[str, object]:
    requests = asker.ask("requests")
    runs = _runs(folder)
    succeeded = {number for number, lines in runs.items() if any(line[0] == "e" for line in lines)}
    unexplained = second = 0
    for lines in runs.values():
        previous = None
        for kind, _pid, at in lines:
            if kind == "s" and previous is not None:
                second += 1
                settled = previous[0] == "e" and not any(0 <= kill - previous[1] <= UNSETTLED for kill in kills)
                unexplained += settled
            previous = (kind, float(at))
    asker.ask("clock", {"advance": 43_200})  # whatever is hidden can be seen
    left: list[str] = []
    for name in asker.ask("")["queues"]:
        url = f"{endpoint}/000000000000/{name}"
        while found := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=43_200).get("Messages"):
            left += [message["Body"] for message in found]
    kept = FOREIGN in left
    return {
        "contestant": contestant,
        "succeeded": len(succeeded),
        "left in queues": len(left) - kept,
        "lost": max(0, tasks - len(succeeded) - (len(left) - kept)),
        "deleted unread": 0 if kept else 1,
        "second runs": second,
        "unexplained": unexplained,
        "requests": requests["billed"],
        "kills": len(kills),
        "command": f"python benchmarks/loss/run.py --only {contestant}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument(
        "--peers", type=os.path.abspath, help="the interpreter of an environment with the peers (requirements/peers.txt)"
    )
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    contestants = {"cloudq": sys.executable, **(dict.fromkeys(PEERS, options.peers) if options.peers else {})}
    wanted = options.only.split(",") if options.only else list(contestants)
    for name in wanted:
        if name not in contestants:
            parser.error(f"{name}: give --peers, the interpreter of an environment with it")
        found = contest(name, contestants[name], options.tasks)
        if options.json:
            print(json.dumps(found), flush=True)
        else:
            print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
