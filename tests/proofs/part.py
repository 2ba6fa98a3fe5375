"""A part of the proof: a promise, its pieces, and what adds them up.

Figures of pieces are added; those whose name begins with `worst` are compared, and the largest counts. `broken` holds, in
words, what did not hold: a part holds when there is nothing in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.oracle import Verdict

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "proof"
#: Results of single pieces, so that a part that was cut off goes on where it was.
KEPT = ROOT / ".prove"
#: What a result depends on, in general.
_CODE = ("cloudq", "adapters", "tests/support", "tests/proofs")


@dataclass
class Result:
    """What one piece showed."""

    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    verdicts: dict[str, Any] | None = None

    def judge(self, verdict: Verdict, what: str = "") -> None:
        """Take over a verdict: what is not clean is broken."""
        if not verdict.clean:
            self.broken.append(f"{what}: {verdict}" if what else str(verdict))
        found = verdict.as_json()
        self.verdicts = found if self.verdicts is None else added(self.verdicts, found)

    def take(self, other: Result) -> None:
        """Take over what another showed."""
        self.figures = added(self.figures, other.figures)
        self.broken += other.broken
        if other.verdicts is not None:
            self.verdicts = other.verdicts if self.verdicts is None else added(self.verdicts, other.verdicts)

    def hold(self, claim: bool, otherwise: str) -> None:
        """Note what does not hold."""
        if not claim:
            self.broken.append(otherwise)


@dataclass(frozen=True)
class Piece:
    """A share of a part that is run, kept and resumed as a whole. `run` gets an empty directory."""

    name: str
    run: Callable[[Path], Result]


@dataclass(frozen=True)
class Part:
    """One promise. `pieces(full, url)` returns what there is to run."""

    name: str
    promise: str
    pieces: Callable[[bool, str], Sequence[Piece]]
    #: Says what does not hold of the whole: sizes that were not reached, limits that were passed.
    check: Callable[[dict[str, Any]], Sequence[str]] = lambda _figures: ()
    #: `make test` runs a small one.
    sampled: bool = True
    #: Files and folders of code that its results depend on: kept pieces are of no use once one has changed.
    code: tuple[str, ...] = _CODE


def added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Add figures up, name by name."""
    total = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if before is None:
            total[name] = value
        elif isinstance(value, dict):
            total[name] = added(before, value)
        elif name.startswith("worst"):
            total[name] = max(before, value)
        elif isinstance(value, bool):
            total[name] = before and value
        elif isinstance(value, str):
            total[name] = before if value == before else f"{before}, {value}"
        else:
            total[name] = round(before + value, 6)
    return total


def prove(
    part: Part,
    *,
    full: bool,
    url: str,
    say: Callable[[str], None] = lambda _line: None,
    keep: Callable[[dict[str, Any]], None] = lambda _record: None,
) -> dict[str, Any]:
    """Run a part, but for the pieces that are kept from before, and return its record.

    `keep` is given the record after each piece: what it says is then `complete` or not.
    """
    began, code, ran = time.perf_counter(), code_hash(part.code), 0
    commit = _commit(part.code)
    kept = KEPT / code / f"{part.name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    record: dict[str, Any] = {
        "part": part.name,
        "promise": part.promise,
        "holds": True,
        "complete": False,
        "broken": [],
        "broken_before": [],
        "command": f"make prove PARTS={part.name}" + ("" if url == SQLITE else f" URL={url}"),
        "url": url,
        "size": "full" if full else "sample",
        "verdict": None,
        "figures": {},
        "commits": [],
        "code": code,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": 0,
        "machine": _machine(),
    }
    pieces = part.pieces(full, url)
    for number, piece in enumerate(pieces, 1):
        file = kept / f"{piece.name}.json"
        if full and file.exists():
            result = json.loads(file.read_text())
        else:
            result = {**_run(piece), "commit": commit}
            ran += 1
            assert not full or code_hash(part.code) == code, f"the code has changed while {piece.name} ran: it shows nothing"
            if full:
                # A piece that is broken is run again the next time, and the record says so for ever.
                file.parent.mkdir(parents=True, exist_ok=True)
                (file if not result["broken"] else _broken_before(file)).write_text(json.dumps(result))
        _take(record, piece, result)
        record["broken_before"] += [json.loads(old.read_text())["broken"] for old in sorted(kept.glob(f"{piece.name}.broken*"))]
        record["pieces"] = f"{number} of {len(pieces)}"
        if number == len(pieces):
            record["complete"] = True
            record["broken"] += part.check({**record["figures"], "verdict": record["verdict"]}) if full else []
        record["holds"] = not record["broken"]
        keep(record)
        how = f"BROKEN {record['broken'][-1]}" if result["broken"] else "holds"
        say(f"{part.name} {number}/{len(pieces)} {piece.name}: {how}")
    say(f"{part.name}: {ran} pieces run in {time.perf_counter() - began:.0f} s")
    return record


def _broken_before(file: Path) -> Path:
    """Return a new name for the result of a piece that is broken."""
    return file.with_suffix(f".broken{len(list(file.parent.glob(f'{file.stem}.broken*')))}")


def _take(record: dict[str, Any], piece: Piece, result: dict[str, Any]) -> None:
    """Add a piece's result to the record."""
    record["figures"] = added(record["figures"], result["figures"])
    record["seconds"] = round(record["seconds"] + result["seconds"])
    record["commits"] = sorted({*record["commits"], result["commit"]})
    record["broken"] += [f"{piece.name}: {line}" for line in result["broken"]]
    if result["verdicts"] is not None:
        verdict = result["verdicts"] if record["verdict"] is None else added(record["verdict"], result["verdicts"])
        verdict["loss_rate_below"] = float(f"{Verdict(confirmed=verdict['confirmed']).bound:.2g}")
        record["verdict"] = verdict


#: The provider that stands for all until another is named. Each piece gets a file of its own.
SQLITE = "sqlite"


def url_in(directory: Path, url: str) -> str:
    """Return the URL that a piece works on."""
    return f"sqlite:///{directory}/queue.db" if url == SQLITE else url


@contextmanager
def scratch():
    """An empty directory, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="proof-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(piece: Piece) -> dict[str, Any]:
    began = time.perf_counter()
    with scratch() as directory:
        try:
            result = piece.run(directory)
        except (AssertionError, subprocess.TimeoutExpired) as error:  # something did not happen in its time
            result = Result(broken=[str(error)])
        if result.broken:  # the ledgers and logs, for whoever looks for the reason
            shutil.copytree(directory, KEPT / "broken" / piece.name, dirs_exist_ok=True)
    return {
        "figures": result.figures,
        "broken": result.broken,
        "verdicts": result.verdicts,
        "seconds": time.perf_counter() - began,
    }


def code_hash(code: Sequence[str]) -> str:
    """Return a hash of the code that a result depends on."""
    digest = hashlib.sha256()
    for place in code:
        for path in [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _commit(code: Sequence[str]) -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", *code)
    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")


def _machine() -> dict[str, Any]:
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
