"""What cloudq on Service Bus does in a second and costs in CPU and operations, beside the bare asynchronous SDK, in one run.

    python benchmarks/servicebus/run.py [--rounds 3] [--tasks 10000] [--round-trip 0.01]

The server is the emulator of this repository, in a process of its own on 127.0.0.1: what is measured is the client, without TLS
and without a cloud. Rounds are interleaved and the order rotates; a ratio is taken within a round, and its median printed. The
rate is counted at the server, from the first delivery to the last completion.
"""

from __future__ import annotations

import argparse
import importlib
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
from pathlib import Path

HERE = Path(__file__).parent
CONTESTANTS = ("cloudq", "driver", "bare")
TICK = os.sysconf("SC_CLK_TCK")
#: How far the emulator's administration is below its port.
BELOW = 372


class Round:
    """One emulator, and one contestant that empties a backlog."""

    def __init__(self, contestant: str, round_trip: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.admin = port - BELOW
        self.environment = {
            **os.environ, "BENCH_PORT": str(port), "BENCH_ADMIN": str(self.admin), "PYTHONPATH": str(HERE)
        }  # fmt: skip
        os.environ |= self.environment  # the module of a contestant reads it, also here
        self.server = subprocess.Popen([sys.executable, "-m", "cloudq_servicebus.emulator", "--port", str(port)])
        self.contestant = contestant
        self.round_trip = round_trip
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def ask(self, **tools: object) -> dict:
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}/$emulator", json.dumps(tools).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def run(self, tasks: int) -> dict[str, float]:
        module = f"with_{self.contestant}"
        step = f"import {module}; {module}.create(); {module}.enqueue_many({tasks})"
        subprocess.run([sys.executable, "-c", step], env=self.environment, cwd=HERE, check=True)
        self.ask(latency=self.round_trip, reset=True)
        worker = importlib.import_module(module).WORKER
        running = subprocess.Popen([sys.executable, *worker], cwd=HERE, env=self.environment, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 240
            while True:
                time.sleep(0.05)
                state = self.ask()
                if state["requests"]["last_complete"] and not any(counts["active"] for counts in state["queues"].values()):
                    break
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self.contestant} did not empty {state['queues']}")
            fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
        requests = state["requests"]
        operations = {name: count for name, count in requests["by_action"].items() if name not in ("attach", "put-token")}
        return {
            "rate": tasks / (requests["last_complete"] - requests["first_delivery"]),
            "cpu": (int(fields[11]) + int(fields[12])) / TICK,
            "operations": sum(operations.values()) / tasks * 1000,
            "connections": requests["connections"],
        }

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--round-trip", type=float, default=0.01, help="Seconds added to every answer.")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(arguments.rounds):
        for contestant in (*CONTESTANTS[number % 3 :], *CONTESTANTS[: number % 3]):
            figures = {}
            # CPU of a start is taken away: a run of few tasks is what it costs.
            for tasks in (1000, arguments.tasks):
                here = Round(contestant, arguments.round_trip)
                try:
                    figures[tasks] = here.run(tasks)
                finally:
                    here.close()
            many, few = figures[arguments.tasks], figures[1000]
            many["micros"] = (many["cpu"] - few["cpu"]) / (arguments.tasks - 1000) * 1e6
            found[contestant].append(many)
            print(f"round {number + 1}: {contestant}: { {name: round(value, 1) for name, value in many.items()} }", flush=True)
    print(
        f"\n{arguments.tasks} no-op tasks, {arguments.round_trip * 1000:g} ms round trip, medians of {arguments.rounds} rounds"
    )
    for contestant in CONTESTANTS:
        median = {name: statistics.median(each[name] for each in found[contestant]) for name in found[contestant][0]}
        ratio = statistics.median(
            mine["rate"] / bare["rate"] for mine, bare in zip(found[contestant], found["bare"], strict=True)
        )
        print(
            f"{contestant:8} {median['rate']:8,.0f} tasks/s, {ratio:.2f} of the bare SDK; "
            f"{median['micros']:.0f} µs of CPU a task; "
            f"{median['operations']:.0f} operations per 1,000; {median['connections']:.0f} connections"
        )


if __name__ == "__main__":
    main()
