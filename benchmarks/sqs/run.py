"""What cloudq on SQS does in a second and costs in requests, beside bare boto3 and three peers, in one run.

    python benchmarks/sqs/run.py [--rounds 3] [--tasks 5000] [--peers PATH/TO/python] [--only drain,latency] [--quick]

The server is the emulator of this repository, in a process of its own on 127.0.0.1: what is measured is the client, without TLS
and without a cloud. Rounds are interleaved and the order rotates; a ratio is taken within a round, and its median printed.
The peers need an environment of their own (requirements/peers.txt); without --peers they are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PEERS = ("celery", "dramatiq", "taskiq")
PATIENCE = 300.0


@dataclass(frozen=True)
class Drain:
    """One way to empty a backlog."""

    name: str
    kind: str
    tasks: float  # of what is asked for
    concurrency: int
    processes: int
    round_trip: float = 0.0
    #: Threads of the bare loop; 0 where it is no match.
    bare: int = 1
    #: What could be done at most, in tasks a second; 0 where the bare loop says it.
    ideal: float = 0.0


DRAINS = (
    Drain("no-op, 8 at once", "nothing", 1.0, 8, 1),
    Drain("no-op, 8 at once, 10 ms round trip", "nothing", 1.0, 8, 1, round_trip=0.01, bare=8),
    Drain("50 ms of waiting, 100 at once", "wait", 0.6, 100, 1, bare=0, ideal=2000),
    Drain("50 ms of awaiting, 100 at once", "await", 0.6, 100, 1, bare=0, ideal=2000),
    Drain("5 ms of computing, 2 processes", "compute", 0.4, 1, 2),
)


class Round:
    """One emulator and one contestant."""

    def __init__(self, contestant: str, python: str, round_trip: float = 0.0) -> None:
        self.contestant = contestant
        self.python = python
        port, bell = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {
            **os.environ,
            "BENCH_ENDPOINT": self.endpoint,
            "BENCH_BELL": str(bell),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_SQS": self.endpoint,
        }
        self.server = subprocess.Popen([sys.executable, "-m", "cloudq_sqs.emulator", "--port", str(port)])
        self.ask("", retry=True)
        self.drive("create")
        if round_trip:
            self.ask("latency", {"seconds": round_trip})

    def ask(self, tool: str, body: object = None, *, method: str | None = None, retry: bool = False) -> dict:
        data = None if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + 10
        while True:
            try:
                request = urllib.request.Request(f"{self.endpoint}/_emulator/{tool}", data, method=method)
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.loads(answer.read())
            except OSError:
                if not retry or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def drive(self, *step: object) -> dict:
        command = [self.python, "drive.py", f"with_{self.contestant}", *map(str, step)]
        done = subprocess.run(
            command, cwd=HERE, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}:\n{done.stderr}")
        last = done.stdout.strip().splitlines()
        return json.loads(last[-1]) if last and last[-1].startswith("{") else {}

    @contextmanager
    def worker(self, kind: str, concurrency: int, processes: int) -> Iterator[subprocess.Popen]:
        sys.path.insert(0, str(HERE))
        arguments = worker_arguments(self.contestant, kind, concurrency, processes)
        running = subprocess.Popen(
            [self.python, *arguments], cwd=HERE, env=self.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield running
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()


def worker_arguments(contestant: str, kind: str, concurrency: int, processes: int) -> list[str]:
    """Ask the contestant's module for its command, without importing it here: the peers live in another environment."""
    source = (HERE / f"with_{contestant}.py").read_text()
    body = source[source.index("def worker(") :].split("\n\n\n")[0]
    found: dict = {}
    exec(body, found)  # noqa: S102  a function of this folder, which needs nothing of its module
    return found["worker"](kind, concurrency, processes)


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(fields[1])].append(int(stat.parent.name))
    found, line = [], [pid]
    while line:
        found.append(line.pop())
        line += children[found[-1]]
    return found


def cpu(pid: int) -> float:
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def pss(pid: int) -> float:
    total = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def drain(contestant: str, python: str, case: Drain, tasks: int) -> dict[str, float]:
    concurrency = case.bare if contestant == "boto3" else case.concurrency
    count = max(200, int(tasks * case.tasks))
    here = Round(contestant, python, case.round_trip)
    try:
        if case.round_trip:
            here.ask("latency", {"seconds": 0})
        here.drive("many", case.kind, count)
        sends = here.ask("requests")["total"]
        if case.round_trip:
            here.ask("latency", {"seconds": case.round_trip})
        before, used = None, 0.0
        with here.worker(case.kind, concurrency, case.processes) as worker:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                figures = here.ask("requests")
                if before is None and figures["first_receive"] is not None:
                    before = cpu(worker.pid)
                if before is not None and sum(here.ask("")["queues"].values()) == 0:
                    used = cpu(worker.pid) - before
                    break
                time.sleep(0.02)
            else:
                return {"rate": 0.0, "cpu": 0.0, "requests": 0.0}
            figures = here.ask("requests")
        took = figures["last_delete"] - figures["first_receive"]
        return {
            "rate": count / took,
            "cpu": used / count * 1000,
            "requests": (figures["total"] - sends + count / 10) / count * 1000,
        }
    finally:
        here.close()


def idle_and_latency(contestant: str, python: str, messages: int, seconds: float) -> dict[str, float]:
    here = Round(contestant, python)
    try:
        began = time.monotonic()
        with here.worker("stamp", 1 if contestant == "boto3" else 8, 1) as worker:
            while not here.ask("requests")["by_action"].get("ReceiveMessage"):
                time.sleep(0.005)
            start = time.monotonic() - began
            took = sorted(here.drive("latency", messages)["took"])
            time.sleep(1)
            before = here.ask("requests")["by_action"]["ReceiveMessage"]
            time.sleep(seconds)
            receives = here.ask("requests")["by_action"]["ReceiveMessage"] - before
            return {
                "start": start,
                "p50": statistics.median(took),
                "p99": took[int(len(took) * 0.99)],
                "max": took[-1],
                "memory": pss(worker.pid),
                "receives": receives * 60 / seconds,
            }
    finally:
        here.close()


def enqueuing(contestant: str, python: str, count: int) -> dict[str, float]:
    here = Round(contestant, python)
    try:
        return {"single": here.drive("single", count)["cpu"], "bulk": here.drive("many", "nothing", count * 10)["cpu"]}
    finally:
        here.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--peers", type=os.path.abspath, help="the interpreter of an environment with the peers")
    parser.add_argument("--only", default="drain,latency,enqueue")
    parser.add_argument("--quick", action="store_true", help="one small round: shows that it runs, not how fast")
    options = parser.parse_args()
    rounds, tasks = (1, 500) if options.quick else (options.rounds, options.tasks)
    seconds, messages = (3.0, 20) if options.quick else (21.0, 200)
    contestants = {"cloudq": sys.executable, "boto3": sys.executable}
    if options.peers:
        contestants |= dict.fromkeys(PEERS, options.peers)
    only = options.only.split(",")
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    names = list(contestants)
    for number in range(rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        if "drain" in only:
            for case in DRAINS:
                for name in order:
                    if name == "boto3" and not case.bare:
                        continue
                    share = tasks if name in ("cloudq", "boto3") else max(200, tasks // 10)
                    found[case.name, name].append(drain(name, contestants[name], case, share))
        for name in order:
            if "latency" in only:
                found["latency and idling", name].append(idle_and_latency(name, contestants[name], messages, seconds))
            if "enqueue" in only:
                found["enqueue, CPU µs a task", name].append(enqueuing(name, contestants[name], 50 if options.quick else 400))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    show(found, names)


def show(found: dict[tuple[str, str], list[dict[str, float]]], names: list[str]) -> None:
    ideals = {case.name: case.ideal for case in DRAINS}
    for what in dict.fromkeys(what for what, _ in found):
        print(f"\n{what}")
        for name in names:
            rounds = found.get((what, name))
            if not rounds:
                continue
            line = [f"  {name:9}"]
            for figure in rounds[0]:
                values = [each[figure] for each in rounds]
                line.append(f"{figure} {statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})")
            bare = found.get((what, "boto3"))
            if name != "boto3" and "rate" in rounds[0]:
                if bare:
                    line.append(
                        f"ratio {statistics.median(a['rate'] / b['rate'] for a, b in zip(rounds, bare, strict=True)):.2f}"
                    )
                elif ideals.get(what):
                    line.append(f"of ideal {statistics.median(each['rate'] for each in rounds) / ideals[what]:.3f}")
            if name != "boto3" and bare and "single" in rounds[0]:
                for figure in ("single", "bulk"):
                    ratios = [a[figure] / b[figure] for a, b in zip(rounds, bare, strict=True)]
                    line.append(f"{figure} ratio {statistics.median(ratios):.2f}")
            print("; ".join(line))


if __name__ == "__main__":
    main()
