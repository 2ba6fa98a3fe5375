"""Was anything lost? The judgement over a ledger (`support.ledger`), by the same rules for every run, simulated or real.

The base is Jepsen's total-queue: what goes in must come out. To it come the bugs that produce no loss but too many runs, runs
at the same time, or reports that are not true. A run that met no fault shows nothing, and one that was not drained is not over:
both are void, which is as bad as dirty.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from support.ledger import Line

_SURE = 0.95
#: The events that are compared with what the tasks saw themselves.
TOLD = frozenset({"started", "succeeded", "failed", "rejected", "retried", "released", "acked", "lease-lost", "dead-lettered"})
#: Of an enqueue that was repeated, the latest of these counts.
_SURENESS = ("failed", "unknown", "acked")


@dataclass
class Verdict:
    """Ids by class. All must be empty."""

    #: Confirmed, and neither done nor dead.
    lost: list[str] = field(default_factory=list)
    #: Run, though nobody sent it.
    unexpected: list[str] = field(default_factory=list)
    #: Run, though its enqueue was reported as surely failed.
    phantom: list[str] = field(default_factory=list)
    #: Run more often than there are causes.
    unexplained: list[str] = field(default_factory=list)
    #: Run twice at the same time, with no lease known to be lost.
    overlap: list[str] = field(default_factory=list)
    #: Reported otherwise than it was.
    misreport: list[str] = field(default_factory=list)
    #: Left in a queue, neither runnable nor in a final state.
    limbo: list[str] = field(default_factory=list)
    #: Dead without ever having been run, and for a reason that supposes a run.
    given_up_unrun: list[str] = field(default_factory=list)
    #: Run before what it had to follow was over.
    disorder: list[str] = field(default_factory=list)

    tasks: int = 0
    confirmed: int = 0
    runs: int = 0
    second_runs: int = 0
    dead: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    drained: bool = False

    @property
    def classes(self) -> dict[str, int]:
        """How many of each."""
        return {f.name: len(getattr(self, f.name)) for f in fields(self) if f.default_factory is list}

    @property
    def void(self) -> str:
        """Why the run shows nothing; empty when it does."""
        if not self.drained:
            return "it was not drained"
        return "" if self.faults.total() else "no fault was injected"

    @property
    def clean(self) -> bool:
        """Nothing was found, in a run that could have found something."""
        return not self.void and not any(self.classes.values())

    @property
    def bound(self) -> float:
        """With 0 lost, the true rate of loss is below this, with 95 % confidence: (1 - bound) ** confirmed = 5 %."""
        return 1.0 - (1.0 - _SURE) ** (1 / self.confirmed) if self.confirmed else 1.0

    def add(self, other: Verdict) -> None:
        """Make this the verdict over both runs."""
        for f in fields(self):
            if f.name != "drained":
                setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        self.drained = self.drained and other.drained

    def as_json(self) -> dict[str, object]:
        """For docs/proof."""
        return {
            "classes": self.classes,
            "tasks": self.tasks,
            "confirmed": self.confirmed,
            "runs": self.runs,
            "second_runs": self.second_runs,
            "dead_letters": self.dead,
            "faults": dict(sorted(self.faults.items())),
            "drained": self.drained,
            "loss_rate_below": float(f"{self.bound:.2g}"),
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.classes.items())
        shown = {name: getattr(self, name)[:5] for name, count in self.classes.items() if count}
        void = f"VOID: {self.void}; " if self.void else ""
        return (
            f"{void}{self.tasks} tasks, {self.runs} runs, {self.second_runs} second runs, "
            f"{self.faults.total()} faults: {counts} (loss below {self.bound:.1g} with 95 %) {shown or ''}"
        ).rstrip()


def judge(lines: Iterable[Line]) -> Verdict:
    """Judge a run that is over. The lines come in the order in which things happened."""
    history = _History()
    for position, line in enumerate(lines):
        history.hear(position, line)
    return history.verdict()


#: Of one delivery that is lost both may be told: a settlement without an answer, and then its lease. It runs once more for it.
_TOLD_TWICE = ("lease-lost", "settle-unknown")


class _History:
    """What is known of every task, line by line."""

    def __init__(self) -> None:
        self._attempts: set[str] = set()
        self._enqueued: dict[str, str] = {}
        self._starts: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
        self._doubts: Counter[str] = Counter()
        #: By task, worker and attempt. Two such deliveries may be in one worker, where the queue holds two messages of one id.
        self._lost: dict[tuple[str, object, int], Counter[str]] = defaultdict(Counter)
        self._copies: Counter[str] = Counter()
        #: Deliveries of which it was told that they are acked, as long as no run began after the first.
        self._acks: dict[str, set[object]] = defaultdict(set)
        self._begun_after_ack: set[str] = set()
        self._finished: set[str] = set()
        self._dead: dict[str, str] = {}
        self._running: dict[str, set[object]] = defaultdict(set)
        self._excused: set[tuple[str, object]] = set()
        self._at_once: Counter[str] = Counter()
        self._limbo: list[str] = []
        self._faults: Counter[str] = Counter()
        self._drained = False
        self._reports, self._order = _Reports(), _Order()

    def hear(self, position: int, line: Line) -> None:
        kind, task_id = line["kind"], line["id"]
        match kind:
            case "attempt":
                self._attempts.add(task_id)
            case "acked" | "unknown" | "failed":
                # A repeat that was confirmed is a confirmation; one that was refused takes back no earlier doubt.
                self._enqueued[task_id] = max(self._enqueued.get(task_id, kind), kind, key=_SURENESS.index)
            case "start" | "end" | "loose":
                self._hear_of_run(position, line)
            case "told":
                self._reports.told(task_id, line)
                if line["what"] == "acked":
                    self._acks[task_id].add((line.get("worker", line.get("pid")), line["attempt"]))
            case "cause" if line["what"] in _TOLD_TWICE:
                delivery = (task_id, line.get("worker", line.get("pid")), line["attempt"])
                self._lost[delivery][line["what"]] += 1
            case "cause":
                self._causes[task_id] += 1
            case "doubt":
                self._doubts[task_id] += 1
            case "copy":  # the queue may hold a second message of this id: two runs at once are two messages
                self._copies[task_id] += 1
            case "dead":
                self._dead[task_id] = line["why"]
            case "limbo":
                self._limbo.append(task_id)
            case "fault":
                self._faults[line["what"]] += 1
            case "drained":
                self._drained = True
            case _:
                raise AssertionError(f"no such kind of line: {kind}")

    def _hear_of_run(self, position: int, line: Line) -> None:
        task_id, run = line["id"], line["run"]
        match line["kind"]:
            case "start":
                self._starts[task_id] += 1
                if self._acks[task_id]:
                    self._begun_after_ack.add(task_id)
                others = {other for other in self._running[task_id] if (task_id, other) not in self._excused}
                self._at_once[task_id] = max(self._at_once[task_id], len(others))
                self._running[task_id].add(run)
                self._order.start(position, line)
            case "end":
                self._running[task_id].discard(run)
                self._reports.ended(task_id, line)
                if line["well"]:
                    self._finished.add(task_id)
                    self._order.well(position, task_id)
            case _:  # this run's lease is known to be gone, or its process is: another may begin
                self._excused.add((task_id, run))
                self._reports.loose[task_id] += 1

    def verdict(self) -> Verdict:
        for (task_id, _, _), told in self._lost.items():
            self._causes[task_id] += max(told.values())
        for task_id, acks in self._acks.items():
            # The lease of the first was lost without its holder's knowledge: somebody else ran it and acked it, and then the
            # first one's ack was answered OK, as the contract has it of what is gone. A run after an ack is no such thing.
            if task_id not in self._begun_after_ack:
                self._causes[task_id] += max(0, len(acks) - 1)
        starts, dead, over = self._starts, self._dead, self._finished | set(self._dead)
        enqueued = self._enqueued.items()
        return Verdict(
            lost=sorted(i for i, how in enqueued if how == "acked" and i not in over),
            unexpected=sorted(set(starts) - self._attempts),
            phantom=sorted(i for i, how in enqueued if how == "failed" and starts[i]),
            unexplained=sorted(i for i, count in starts.items() if count - 1 > self._causes[i]),
            # That there is a copy may be known later than the copy runs.
            overlap=sorted(i for i, others in self._at_once.items() if others > self._copies[i]),
            misreport=self._reports.false(dead, self._causes, self._doubts),
            limbo=sorted(self._limbo),
            given_up_unrun=sorted(i for i, why in dead.items() if why in ("failed", "crashed", "rejected") and not starts[i]),
            disorder=self._order.broken(dead),
            tasks=len(self._attempts),
            confirmed=sum(1 for _, how in enqueued if how == "acked"),
            runs=sum(starts.values()),
            second_runs=sum(max(0, count - 1) for count in starts.values()),
            dead=len(dead),
            faults=self._faults,
            drained=self._drained,
        )


class _Reports:
    """What cloudq said, beside what was seen."""

    def __init__(self) -> None:
        self.loose: Counter[str] = Counter()
        self._well: Counter[str] = Counter()
        self._badly: Counter[str] = Counter()
        self._told: dict[str, Counter[str]] = defaultdict(Counter)
        self._begun: Counter[tuple[object, str, int]] = Counter()
        self._gone: Counter[tuple[object, str, int]] = Counter()
        self._believed: set[str] = set()

    def ended(self, task_id: str, line: Line) -> None:
        (self._well if line["well"] else self._badly)[task_id] += 1

    def told(self, task_id: str, line: Line) -> None:
        what, run = line["what"], (line.get("worker", line.get("pid")), task_id, line["attempt"])
        self._told[task_id][what] += 1
        match what:
            # The same attempt may be in one worker twice, where the queue holds two messages of one id.
            case "started":
                self._begun[run] += 1
            case "lease-lost":
                self._gone[run] += 1
            case "succeeded" | "acked" if 0 < self._begun[run] <= self._gone[run]:
                self._believed.add(task_id)
            case _:
                pass

    def false(self, dead: dict[str, str], causes: Counter[str], doubts: Counter[str]) -> list[str]:
        """Return the ids of which something was said that was not so, or not said that was."""
        wrong = set(self._believed)
        for task_id in {*self._told, *self._well}:
            told = self._told[task_id]
            well, badly = self._well[task_id], self._badly[task_id]
            settled = well or task_id in dead or told["retried"] or told["released"]
            if told["succeeded"] > well or told["failed"] + told["rejected"] > badly:
                wrong.add(task_id)
            # A run that was killed or lost its lease is not told of; each has left a line.
            if well - told["succeeded"] > self.loose[task_id] + causes[task_id]:
                wrong.add(task_id)
            if told["acked"] and not settled:
                wrong.add(task_id)
            if told["dead-lettered"] and task_id not in dead:
                wrong.add(task_id)
        for task_id in dead:
            if not self._told[task_id]["dead-lettered"] and not causes[task_id] and not doubts[task_id]:
                wrong.add(task_id)
        return sorted(wrong)


class _Order:
    """Of a `lane`, nothing starts before what has a lower `number` was done, or was started for the last time and is dead."""

    def __init__(self) -> None:
        self._lanes: dict[str, dict[int, str]] = defaultdict(dict)
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._well: dict[str, int] = {}

    def start(self, position: int, line: Line) -> None:
        if "lane" in line:
            task_id = line["id"]
            self._lanes[line["lane"]][line["number"]] = task_id
            self._first.setdefault(task_id, position)
            if task_id not in self._well:
                self._last[task_id] = position

    def well(self, position: int, task_id: str) -> None:
        self._well.setdefault(task_id, position)

    def broken(self, dead: dict[str, str]) -> list[str]:
        found: list[str] = []
        for lane in self._lanes.values():
            over = -1
            for _, task_id in sorted(lane.items()):
                if self._first[task_id] < over:
                    found.append(task_id)
                over = max(over, self._well.get(task_id, self._last[task_id] if task_id in dead else -1))
        return sorted(found)
