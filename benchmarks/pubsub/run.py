"""What cloudq on Pub/Sub does in a second and costs in CPU and calls, beside the bare SDK in both its styles, in one run.

    python benchmarks/pubsub/run.py [--rounds 3] [--tasks 20000] [--round-trip 0.01]

The server is the emulator of this repository, in a process of its own on 127.0.0.1: what is measured is the client, without TLS
and without a cloud. Rounds are interleaved and the order rotates; a ratio is taken within a round, and its median printed. The
rate is counted at the server, from the first delivery to the last acknowledgement.
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
from collections import defaultdict
from pathlib import Path

import grpc

HERE = Path(__file__).parent
CONTESTANTS = ("cloudq", "driver", "unary", "streaming")
TICK = os.sysconf("SC_CLK_TCK")


class Round:
    """One emulator, and one contestant that empties a backlog."""

    def __init__(self, contestant: str, round_trip: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self.environment = {**os.environ, "PUBSUB_EMULATOR_HOST": self.host, "PYTHONPATH": str(HERE)}
        self.server = subprocess.Popen([sys.executable, "-m", "cloudq_pubsub.emulator", "--port", str(port)])
        self.channel = grpc.insecure_channel(self.host)
        grpc.channel_ready_future(self.channel).result(30)
        os.environ["PUBSUB_EMULATOR_HOST"] = self.host
        self.contestant = contestant
        self.round_trip = round_trip

    def ask(self, tool: str, **body: object) -> dict:
        call = self.channel.unary_unary(f"/cloudq.emulator.Tools/{tool}")
        return json.loads(call(json.dumps(body).encode(), timeout=10))

    def run(self, tasks: int) -> dict[str, float]:
        module = f"with_{self.contestant}"
        step = f"import {module}; {module}.create(); {module}.enqueue_many({tasks})"
        subprocess.run([sys.executable, "-c", step], env=self.environment, cwd=HERE, check=True)
        self.ask("latency", seconds=self.round_trip)
        self.ask("state", reset=True)
        worker = importlib.import_module(module).WORKER if self.contestant == "cloudq" else [f"{module}.py"]
        running = subprocess.Popen([sys.executable, *worker], cwd=HERE, env=self.environment, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while True:
                time.sleep(0.02)
                state = self.ask("state")
                if state["requests"]["last_ack"] and not any(count["unacked"] for count in state["subscriptions"].values()):
                    break
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self.contestant} did not empty {state['subscriptions']}")
            fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
            threads = len(list(Path(f"/proc/{running.pid}/task").iterdir()))
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
        requests = state["requests"]
        return {
            "rate": tasks / (requests["last_ack"] - requests["first_delivery"]),
            "cpu": (int(fields[11]) + int(fields[12])) / TICK,
            "calls": requests["total"] / tasks * 1000,
            "bytes": (requests["published"] + requests["delivered"]) / tasks,
            "threads": threads,
        }

    def close(self) -> None:
        self.channel.close()
        self.server.terminate()
        self.server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--round-trip", type=float, default=0.0, help="Seconds added to every answer.")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(arguments.rounds):
        for contestant in (*CONTESTANTS[number % 4 :], *CONTESTANTS[: number % 4]):
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
            mine["rate"] / max(unary["rate"], streaming["rate"])
            for mine, unary, streaming in zip(found[contestant], found["unary"], found["streaming"], strict=True)
        )
        print(
            f"{contestant:10} {median['rate']:8,.0f} tasks/s, {ratio:.2f} of the better bare one; "
            f"{median['micros']:.0f} µs of CPU a task; "
            f"{median['calls']:.0f} calls per 1,000; {median['bytes']:.0f} bytes billed a task; {median['threads']:.0f} threads"
        )


if __name__ == "__main__":
    main()
