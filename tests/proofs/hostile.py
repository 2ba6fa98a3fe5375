"""Messages that nobody should have sent, among good ones; and tasks that end their process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudq.driver import Outgoing
from cloudq.outcome import CRASHES, UNRUN_FORGIVEN
from proofs.part import Part, Piece, Result, url_in
from support.hostile import KINDS, generate, longest
from support.ledger import read
from support.processes import resident, until
from support.storm import Storm

SEED = 20261121
#: What the worker may grow by, in MiB, once it is warm.
GROWTH = 16.0
#: As long as the queue takes, this many: each is a MiB.
_LONGEST = 5


def bad_among_good(directory: Path, url: str, each: int) -> Result:
    draw = random.Random(SEED)
    result = Result({"good": each, "bad": each + _LONGEST, "kinds": len(KINDS) + 1, "seed": SEED})
    storm = Storm(directory, url_in(directory, url), lease=30.0, unknown_grace=0.0)
    messages = [storm.tasks.work.message(0.0) for _ in range(each)]
    good = {"cloudq": 1, "id": "never-sent", "type": "work", "time": 1.0, "data": {"length": 0.0}}
    bad = generate(draw, good, each)
    bad += [("as long as the queue takes", b"")] * _LONGEST
    sent = asyncio.run(_interleave(storm, messages, bad, draw))
    with storm.worker("--concurrency", 4) as worker:
        until(lambda: storm.look() or storm.begun > each / 10, "the work did not begin", patience=60)
        warm = most = resident(worker.pid)

        def done() -> bool:
            nonlocal most
            assert worker.poll() is None, f"the worker ended with {worker.returncode}"
            most = max(most, resident(worker.pid))
            return storm.drained()

        until(done, "the queue was not drained", patience=300, every=0.1)
        storm.ledger.write("drained", at=storm.now())
        worker.terminate()
        result.hold(worker.wait(30) == 0, f"the worker ended with {worker.returncode}")
    letters = storm.dead_letters()
    kept = Counter(hashlib.sha256(letter.delivery.body).hexdigest() for letter in letters)
    without = [letter.task_id for letter in letters if not letter.record.reason]
    result.figures |= {
        "worst_growth_mib": round(most - warm, 1),
        "kept": len(letters),
        "by_kind_of_record": dict(sorted(Counter(letter.record.kind for letter in letters).items())),
    }
    result.hold(kept == sent, f"{(sent - kept).total()} bad messages are not kept as they were sent")
    result.hold(not without, f"{len(without)} have no reason")
    result.hold(most - warm < GROWTH, f"the worker grew by {most - warm:.1f} MiB")
    result.judge(storm.verdict())
    storm.look()
    result.hold(storm.over >= storm.confirmed, "not every good one was done")
    return result


async def _interleave(
    storm: Storm, messages: Sequence[Any], bad: Sequence[tuple[str, bytes]], draw: random.Random
) -> Counter[str]:
    """Send good and bad ones in turn. Returns the hashes of the bad ones."""
    sent: Counter[str] = Counter()
    queue = next(queue for queue in storm.app.addresses("storm"))
    async with storm.app.driver(storm.app.url_of("storm")) as driver:
        room = driver.limits.message_bytes
        step = min(100, driver.limits.send_count)
        for start in range(0, max(len(messages), len(bad)), step):
            batch = []
            for number, (kind, body) in enumerate(bad[start : start + step], start):
                whole = body if kind in KINDS else longest(room)
                batch.append(Outgoing(whole, f"bad-{number}"))
                sent[hashlib.sha256(whole).hexdigest()] += 1
                storm.ledger.write("fault", at=storm.now(), what=kind)
            draw.shuffle(batch)
            for one in batch:  # one by one: together they may be longer than a batch
                assert not await driver.send(queue, [one])
            if messages[start : start + step]:
                await asyncio.to_thread(storm.enqueue, messages[start : start + step])
    return sent


def killer(directory: Path, url: str, *, composing: bool) -> Result:
    """A message that ends its process, in company: it is quarantined within the bound, and the company is done."""
    result = Result({"killers": 1, "company": 200})
    storm = Storm(directory, url_in(directory, url), lease=1.0, composing=composing)
    storm.enqueue([storm.tasks.deadly.message(), *(storm.tasks.work.message(0.02) for _ in range(200))])
    with storm.worker("--processes", 2, "--concurrency", 2) as supervisor:
        storm.until_drained(120)
        supervisor.send_signal(signal.SIGTERM)
        result.hold(supervisor.wait(30) == 0, f"the supervisor ended with {supervisor.returncode}")
    crashes = sum(line["what"] == "the task ends its process" for line in read(storm.directory) if line["kind"] == "fault")
    # What lay in the hands of the processes that it ended came back too.
    for line in list(read(storm.directory)):
        if line["kind"] == "fault":
            storm.gone(line["pid"], line["at"])
    letters = storm.dead_letters()
    bound = storm.tasks.deadly.policy.retry.max_attempts + UNRUN_FORGIVEN if composing else CRASHES
    kinds = [json.dumps([letter.task, letter.record.kind]) for letter in letters]
    result.figures |= {"worst_runs_of_a_killer": crashes}
    result.hold(kinds == ['["deadly", "crashed"]'], f"quarantined: {kinds}")
    result.hold(crashes <= bound if composing else crashes == bound, f"it ran {crashes} times; the bound is {bound}")
    result.judge(storm.verdict())
    return result


def _pieces(full: bool, url: str) -> Sequence[Piece]:
    each = 10_000 if full else 1_000
    return [
        Piece("bad-among-good", lambda directory: bad_among_good(directory, url, each)),
        Piece("killer-counted", lambda directory: killer(directory, url, composing=False)),
        Piece("killer-uncounted", lambda directory: killer(directory, url, composing=True)),
    ]


def _check(figures: dict[str, Any]) -> Sequence[str]:
    return [] if figures["bad"] >= 10_000 and figures["kinds"] >= 20 else ["too few messages or kinds"]


HOSTILE = Part(
    "hostile",
    f"10,000 bad messages of {len(KINDS) + 1} kinds among 10,000 good ones: no restart, every good one done, every bad one "
    "kept with identical bytes and a reason, memory growth under "
    f"{GROWTH:g} MiB. A task that ends its process: quarantined after {CRASHES} crashes where crashes are counted, elsewhere "
    f"within max_attempts + {UNRUN_FORGIVEN} deliveries",
    _pieces,
    _check,
)
