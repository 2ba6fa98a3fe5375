"""Puts the census to work: two workers, a crash, a retry, a delay, a dead letter; then the totals, checked."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cloudq import deadletters
from cloudq.app import CloudQ
from cloudq.delay import used
from cloudq.driver import Part, Provisioner

WORKERS = 2
FILES = 1500
DELAY = 5.0
#: The demo fails when it is not done by then, in seconds.
PATIENCE = 100.0
_LOOK_EVERY = 0.2
_ERRANDS = ("flaky", "later", "poison")


@dataclass
class Results:
    """What the workers have written so far."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    starts: dict[str, list[int]] = field(default_factory=lambda: defaultdict[str, list[int]](list))
    open_by_pid: dict[int, set[str]] = field(default_factory=lambda: defaultdict[int, set[str]](set))

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read every complete line."""
        results = cls()
        for path in folder.glob("*.results"):
            for raw in path.read_bytes().splitlines(keepends=True):
                if not raw.endswith(b"\n"):
                    continue
                line = json.loads(raw)
                if line["what"] == "start":
                    results.starts[line["name"]].append(line["pid"])
                    if line["name"] not in _ERRANDS:  # those fail on purpose: a start without an end is no work in hand
                        results.open_by_pid[line["pid"]].add(line["name"])
                else:
                    results.done.setdefault(line["name"], line)
                    results.open_by_pid[line["pid"]].discard(line["name"])
        return results


def run(*, keep: bool = False) -> int:
    """Run the demo; 0 when everything came out as it must."""
    folder = Path(tempfile.mkdtemp(prefix="cloudq-demo-"))
    os.environ["CLOUDQ_DEMO_DIR"] = str(folder)
    os.environ.setdefault("CLOUDQ_URL", f"sqlite:///{folder}/queue.db")
    # On a provider that outlives the folder, no demo meets what another has left.
    os.environ.setdefault("CLOUDQ_NAMESPACE", f"demo-{secrets.token_hex(4)}")
    from cloudq.demo.tasks import app

    show = _Show(app, folder, Console())
    try:
        return show.run()
    finally:
        show.end_workers(signal.SIGKILL)
        app.close()
        if keep:
            show.say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


class _Show:
    def __init__(self, app: CloudQ, folder: Path, console: Console) -> None:
        self.app = app
        self.folder = folder
        self.console = console
        self.workers: list[subprocess.Popen[bytes]] = []
        self.killed: list[tuple[int, list[str]]] = []
        self.wait = threading.Event()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def run(self) -> int:
        files = _files()
        self.say(f"[bold]cloudq demo[/bold] on {self.app.url_of('census')}: a census of {len(files):,} source files\n")
        asyncio.run(self._create())
        began = self.app.clock.monotonic()
        due = self._enqueue(files)
        for _ in range(WORKERS):
            self._hire()
        finished = self._watch(files, began)
        codes = self.end_workers(signal.SIGTERM)
        took = self.app.clock.monotonic() - began
        if not finished:
            self.say(f"[red]not done after {PATIENCE:g} s[/red]; the workers' logs:")
            for log in sorted(self.folder.glob("*.log")):
                self.say(log.read_text()[-2000:])
            return 1
        return 0 if self._report(files, due, took, codes) else 1

    # The work ---------------------------------------------------------------------------------------------------------

    async def _create(self) -> None:
        for name in self.app.queue_names():
            async with self.app.driver(self.app.url_of(name)) as driver:
                if isinstance(driver, Provisioner):
                    await driver.create(self.app.addresses(name))

    def _enqueue(self, files: Sequence[str]) -> float:
        from cloudq.demo.tasks import count, flaky, later, poison

        began = self.app.clock.monotonic()
        flaky.enqueue()
        poison.enqueue()
        receipt = later.options(delay=DELAY).enqueue()
        confirmed = self.app.enqueue_many(count.message(path) for path in files)
        took = self.app.clock.monotonic() - began
        self.say(f"enqueued {confirmed + 3:,} tasks in {took:.2f} s, each confirmed by the provider")
        assert receipt.due is not None
        return receipt.due

    def _hire(self) -> None:
        log = (self.folder / f"worker-{len(self.workers)}.log").open("wb")
        with log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "cloudq", "worker", "cloudq.demo.tasks:app", "--concurrency", "4"],
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        self.say(f"worker {worker.pid} started")

    def end_workers(self, number: signal.Signals) -> list[int]:
        alive = [worker for worker in self.workers if worker.poll() is None]
        for worker in alive:
            worker.send_signal(number)
        return [worker.wait(timeout=60) for worker in alive]

    def _watch(self, files: Sequence[str], began: float) -> bool:
        columns = (TextColumn("counted"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task("files", total=len(files))
            while self.app.clock.monotonic() - began < PATIENCE:
                results = Results.read(self.folder)
                counted = sum(1 for path in files if path in results.done)
                progress.update(bar, completed=counted)
                if not self.killed and counted > len(files) * 0.15:
                    self._kill_a_holder(results)
                everything = counted == len(files) and {"flaky", "later"} <= set(results.done)
                if everything and asyncio.run(self._dead()):
                    return True
                self.wait.wait(_LOOK_EVERY)  # nobody sets it: a pause between two looks at the files
        return False

    def _kill_a_holder(self, results: Results) -> None:
        for worker in self.workers:
            if worker.poll() is None and results.open_by_pid[worker.pid]:
                worker.kill()
                worker.wait()
                # Read again: only what was still open when it was dead was interrupted.
                held = sorted(Results.read(self.folder).open_by_pid[worker.pid])
                if held:
                    self.killed.append((worker.pid, held))
                    self.say(f"[yellow]worker {worker.pid} killed (SIGKILL) while it ran {len(held)} task(s)[/yellow]")
                self._hire()
                return

    async def _dead(self) -> list[deadletters.Record]:
        async with self.app.driver(self.app.url_of("errands")) as driver:
            found = await deadletters.look(driver, self.app.address("errands", Part.DEAD), 10)
            return [deadletters.read(delivery) for delivery in found]

    async def _left(self) -> int | None:
        """Count what is still queued, where the provider tells."""
        left = 0
        for name in self.app.queue_names():
            async with self.app.driver(self.app.url_of(name)) as driver:
                for queue in used(self.app.addresses(name), driver.limits):
                    if queue.part is not Part.DEAD:
                        stats = await driver.stats(queue)
                        if stats.left is None:
                            return None
                        left += stats.left
        return left

    # The check --------------------------------------------------------------------------------------------------------

    def _report(self, files: Sequence[str], due: float, took: float, codes: Sequence[int]) -> bool:
        from cloudq.demo.tasks import census_of

        results = Results.read(self.folder)
        dead = asyncio.run(self._dead())
        self.say(f"all done after {took:.1f} s; counting again in a plain loop to compare ...")
        expected = {path: census_of(path) for path in files}
        keys = ("lines", "functions", "classes", "odd")
        wanted = {key: sum(counts[key] for counts in expected.values()) for key in keys}
        found = {key: sum(results.done[path][key] for path in files) for key in keys}
        interrupted = {name for _, names in self.killed for name in names}
        again = {name for name, pids in results.starts.items() if len(pids) > 1 and name not in ("flaky", "poison")}
        left = asyncio.run(self._left())
        self.say("")
        for key in keys:
            label = "unparsable files" if key == "odd" else key
            self.say(f"  {label:18} {found[key]:>10,}")
        self.say("")
        good = all(
            [
                self._check(found == wanted, "the totals equal those of a plain loop over the same files"),
                self._check(
                    all(name in results.done for name in (*files, "flaky", "later")),
                    f"nothing was lost: {len(files):,} of {len(files):,} files counted",
                ),
                self._check(bool(interrupted), f"a worker was killed while it ran {len(interrupted)} task(s)"),
                self._check(
                    interrupted <= again,
                    f"what the killed worker ran was run again: {', '.join(Path(name).name for name in sorted(interrupted))}",
                ),
                self._check(
                    results.done["flaky"]["attempt"] >= 2,
                    f"the flaky task succeeded at attempt {results.done['flaky']['attempt']}",
                ),
                self._check(
                    results.done["later"]["at"] >= due - 1.0,
                    f"the delayed task ran {results.done['later']['at'] - due + DELAY:.1f} s after its enqueue, as asked",
                ),
                self._check(
                    [record.kind for record in dead] == ["failed"],
                    f"the poison message was kept among the dead letters: {dead[0].reason if dead else 'missing'}",
                ),
                self._check(left in (0, None), f"left in the queues: {'unknown' if left is None else left}"),
                self._check(not any(codes), f"the workers drained and ended with {', '.join(map(str, codes))}"),
            ]
        )
        self.say(
            "\nThe program: cloudq/demo/tasks.py. `cloudq demo --keep` keeps the queue and the workers' logs. Next: README.md."
        )
        return good

    def _check(self, good: bool, text: str) -> bool:  # noqa: FBT001  reads as: check this, it says that
        self.say(f"  [green]✓[/green] {text}" if good else f"  [red]✗ {text}[/red]")
        return good


def _files() -> list[str]:
    """Return the standard library's own files, at most 1,500, the same on every run."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(str(path) for path in root.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    return found[:FILES]
