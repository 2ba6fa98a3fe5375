"""Cold start of a function, and what a batch takes: the real Lambda runtime client, three handlers, in turn.

python benchmarks/functions/run.py [--rounds 9]

"First answer" is from the start of the process to the answer to its first call, a batch of ten messages; "a batch" the median
of the next calls. No cloud: the Runtime API is the emulator's, on this machine. What is compared is a ratio within one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from cloudq_sqs.emulator.lambdas import Runtime

HERE = Path(__file__).parent
CONTESTANTS = ("boto3", "powertools", "cloudq")
CALLS = 30


def event(number):
    records = []
    for index in range(10):
        body = {"cloudq": 1, "id": f"t{number}-{index}", "type": "noop", "time": 1.0, "data": {"number": index}}
        records.append(
            {
                "messageId": f"m{number}-{index}",
                "receiptHandle": "h",
                "body": json.dumps(body),
                "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000"},
                "messageAttributes": {},
                "md5OfBody": "",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:cloudq-default",
                "awsRegion": "us-east-1",
            }
        )
    return {"Records": records}


def measured(contestant):
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    environ = {**os.environ, **keys, "POWERTOOLS_SERVICE_NAME": "bench", "POWERTOOLS_TRACE_DISABLED": "true"}
    with Runtime(f"with_{contestant}.handler", cwd=HERE, environ=environ) as runtime:
        began = time.monotonic()
        first = runtime.invoke(event(0))
        cold = time.monotonic() - began
        if first.error or first.answer != {"batchItemFailures": []}:
            sys.exit(f"{contestant}: {first.error or first.answer}")
        warm = []
        for number in range(1, CALLS + 1):
            began = time.monotonic()
            runtime.invoke(event(number))
            warm.append(time.monotonic() - began)
    return cold, statistics.median(warm)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    figures = {each: [] for each in CONTESTANTS}
    for _ in range(rounds):
        for contestant in CONTESTANTS:  # interleaved: what slows the machine down slows all of them
            figures[contestant].append(measured(contestant))
    print(f"{'':12}{'first answer, ms':>20}{'of boto3':>10}{'a batch of 10, ms':>20}")
    for contestant in CONTESTANTS:
        cold = statistics.median(cold for cold, _ in figures[contestant])
        ratio = statistics.median(mine[0] / bare[0] for mine, bare in zip(figures[contestant], figures["boto3"], strict=True))
        warm = statistics.median(warm for _, warm in figures[contestant])
        print(f"{contestant:12}{cold * 1000:20.0f}{ratio:10.2f}{warm * 1000:20.2f}")


if __name__ == "__main__":
    main()
