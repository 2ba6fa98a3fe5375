"""One producer step of one contestant, in a process of its own.

python drive.py with_cloudq create | many KIND N | single N | latency N
"""

from __future__ import annotations

import importlib
import json
import os
import random
import socket
import sys
import time


def main() -> None:
    contestant = importlib.import_module(sys.argv[1])
    step, *arguments = sys.argv[2:]
    if step == "create":
        contestant.create()
    elif step == "many":
        kind, count = arguments[0], int(arguments[1])
        contestant.enqueue_many(kind, 10)  # connections and imports
        began = time.process_time()
        contestant.enqueue_many(kind, count - 10)
        print(json.dumps({"cpu": (time.process_time() - began) / (count - 10) * 1e6}))
    elif step == "single":
        count = int(arguments[0])
        contestant.enqueue("nothing")
        began = time.process_time()
        for _ in range(count - 1):
            contestant.enqueue("nothing")
        print(json.dumps({"cpu": (time.process_time() - began) / (count - 1) * 1e6}))
    elif step == "latency":
        latency(contestant, int(arguments[0]))
    sys.stdout.flush()
    os._exit(0)  # some leave threads that would hold the process


def latency(contestant, count: int) -> None:
    """From the begin of the enqueue to the start of the task, single messages at random moments."""
    bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bell.bind(("127.0.0.1", int(os.environ["BENCH_BELL"])))
    bell.settimeout(30)
    draw = random.Random(1)
    took = []
    for number in range(count + 5):
        time.sleep(draw.uniform(0.02, 0.08))
        began = time.time()
        contestant.enqueue("stamp")
        started = float(bell.recv(64))
        if number >= 5:
            took.append((started - began) * 1000)
    print(json.dumps({"took": took}))


if __name__ == "__main__":
    main()
