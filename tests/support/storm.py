"""A storm: worker processes on one queue, what they do read from their ledgers as it happens, and the judgement at the end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from cloudq import deadletters
from cloudq.delay import used
from cloudq.driver import Part, Provisioner
from cloudq.opening import facts_at
from support.ledger import FileLedger, Tail, read
from support.oracle import Verdict, judge
from support.processes import alive, cloudq, until

#: Kinds of line that say something to a storm and nothing to the oracle.
_NOT_JUDGED = ("began", "received", "draining")
#: The working directory and the modules are the process's.
_importing = threading.Lock()
#: Counting opens a connection, and on some providers that takes longer than the work between two kills.
_COUNT_EVERY = 2.0
_SETTLED = ("acked", "released", "dead-lettered")


class Storm:
    """Tasks of `support.storm_app` on a queue with this lease, in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        url: str,
        lease: float,
        grace: float = 5.0,
        *,
        unknown_grace: float = 3600.0,
        composing: bool = False,
        copying: bool = False,
        ordered: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        facts = facts_at(url)
        assert facts is not None
        self.lease = lease = max(lease, facts.limits.lease[0])
        self.composing = composing or copying
        self._log = 0
        (directory / "cloudq.toml").write_text(
            # A name of its own: on a shared provider, no storm meets another's messages.
            f'url = "{url}"\nnamespace = "storm-{os.urandom(4).hex()}"\n[queues.storm]\nlease = "{lease}s"\n'
            f"ordered = {str(ordered).lower()}\n"
            f'[worker]\ngrace = "{grace}s"\nunknown_grace = "{unknown_grace}s"\n'
        )
        self.variables = {"STORM_DIR": str(directory), "STORM_AS": "composing" if composing else "copying" if copying else ""}
        self.tasks = self._import()
        self.app = self.tasks.app
        asyncio.run(self._prepare())
        self.now = self.tasks.now
        self.ledger = FileLedger(directory)
        self._tail = Tail(directory)
        self.begun = 0
        #: By process: the runs under way, and how often each id is in hand.
        self.running: dict[int, dict[str, str]] = defaultdict(dict)
        self.hand: dict[int, Counter[str]] = defaultdict(Counter)
        self.working: set[int] = set()
        self.drained_at: dict[int, float] = {}
        self.over: set[str] = set()
        self.confirmed: set[str] = set()
        self._counted_at = float("-inf")

    def _import(self):
        """Import the application anew, with this storm's settings, for enqueuing: what workers lack, this process has."""
        with _importing, mock.patch.dict(os.environ, {"STORM_DIR": str(self.directory)}), contextlib.chdir(self.directory):
            sys.modules.pop("support.storm_app", None)
            module = importlib.import_module("support.storm_app")
            _ = module.app.settings  # read here, where cloudq.toml is
        return module

    async def _prepare(self) -> None:
        """Have the queues, and know whether a copy stands between a message and its dead letter."""
        async with self.app.driver(self.app.url_of("storm")) as driver:
            if isinstance(driver, Provisioner):
                await driver.create(self.app.addresses("storm"))
            self.composing = self.composing or not driver.limits.native_dead_letter

    def enqueue(self, messages: Iterable) -> None:
        messages = list(messages)
        for message in messages:
            self.ledger.write("attempt", message.task_id, at=self.now())
        self.app.enqueue_many(messages)
        for message in messages:
            self.ledger.write("acked", message.task_id, at=self.now())
        self.confirmed |= {message.task_id for message in messages}

    @contextmanager
    def worker(self, *arguments: object, crash: str = "", closed: Path | None = None) -> Iterator:
        """Have `cloudq worker` run, killed at the end if it still does."""
        self._log += 1
        variables = {**self.variables, "STORM_WORKER": "1", "STORM_CRASH": crash, "STORM_CLOSED": str(closed or "")}
        with cloudq(
            "worker", "support.storm_app:app", "--log-level", "ERROR", *arguments,
            cwd=self.directory, log=self.directory / f"worker-{self._log}.log", **variables,
        ) as process:  # fmt: skip
            yield process

    def look(self) -> None:
        """Take in what was written since the last look."""
        for line in self._tail.new():
            kind, task_id, pid = line["kind"], line["id"], line["pid"]
            if kind == "start":
                self.begun += 1
                self.running[pid][task_id] = line["run"]
            elif kind == "end":
                self.running[pid].pop(task_id, None)
                if line["well"]:
                    self.over.add(task_id)
            elif kind == "received":
                self.hand[pid][task_id] += 1
            elif kind == "began":
                self.working.add(pid)
            elif kind == "draining":
                self.drained_at[pid] = line["at"]
            elif kind == "told" and line["what"] in _SETTLED:
                # Where a move to the dead part is composed, its ack is told too.
                if not (self.composing and line["what"] == "dead-lettered"):
                    self.hand[pid][task_id] -= 1
                if line["what"] == "dead-lettered":
                    self.over.add(task_id)
            elif kind == "told" and line["what"] == "lease-lost":
                self.hand[pid][task_id] -= 1

    def holders(self) -> list[int]:
        """Return the living processes that have started work in hand."""
        self.look()
        return [pid for pid, runs in sorted(self.running.items()) if runs and alive(pid)]

    def kill(self, pid: int) -> bool:
        """SIGKILL, and write down what that explains. Returns whether the process held started work."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        until(lambda: not alive(pid), "a killed process lives on")
        held = self.gone(pid)
        if held:
            self.ledger.write("fault", at=self.now(), what="SIGKILL of a holder")
        return held

    def gone(self, pid: int, at: float | None = None) -> bool:
        """A process ended without a word: what it had in hand comes back. Returns whether it held started work."""
        self.look()
        at = self.now() if at is None else at
        runs, hand = self.running.pop(pid, {}), self.hand.pop(pid, Counter())
        for task_id in sorted({*runs, *+hand}):
            self.ledger.write("cause", task_id, at=at, what="killed")
            if self.composing:  # between a copy, perhaps not told of, and the ack of its original: both may run
                self.ledger.write("copy", task_id, at=at)
                self.ledger.write("cause", task_id, at=at, what="killed beside a copy")
        for task_id, run in sorted(runs.items()):
            self.ledger.write("loose", task_id, at=at, run=run)
        return bool(runs)

    def left(self) -> int | None:
        """Return how many messages are in the queue, dead letters aside; None where the provider does not tell."""

        async def count() -> int | None:
            async with self.app.driver(self.app.url_of("storm")) as driver:
                queues = used(self.app.addresses("storm"), driver.limits)
                counts = [(await driver.stats(queue)).left for queue in queues if queue.part is not Part.DEAD]
                return None if None in counts else sum(counts)

        return asyncio.run(count())

    def drained(self) -> bool:
        """Tell whether the queue is empty, or, where the provider does not tell, all that was confirmed is over."""
        self.look()
        if self.now() - self._counted_at < _COUNT_EVERY:
            return False
        self._counted_at = self.now()
        left = self.left()
        if left is not None:
            return left == 0
        return self.confirmed <= self.over | {letter.task_id for letter in self.dead_letters()}

    def until_drained(self, patience: float = 120.0) -> None:
        until(self.drained, f"the queue was not drained ({self.directory})", patience=patience, every=0.2)
        self.ledger.write("drained", at=self.now())

    def dead_letters(self) -> list[deadletters.Letter]:
        async def look() -> list[deadletters.Letter]:
            async with self.app.driver(self.app.url_of("storm")) as driver:
                found = await deadletters.look(driver, self.app.address("storm", Part.DEAD), 1_000_000)
                return [deadletters.open_letter(delivery) for delivery in found]

        return asyncio.run(look())

    def verdict(self) -> Verdict:
        """Judge, with what is in the dead part. Closes the application."""
        for letter in self.dead_letters():
            self.ledger.write("dead", letter.task_id, at=self.now(), why=letter.record.kind)
        self.app.close()
        return judge(line for line in read(self.directory) if line["kind"] not in _NOT_JUDGED)
