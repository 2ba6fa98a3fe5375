"""A sample of every part of the proof, and its record: what docs/proof says must be what a sample finds."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys

import pytest

from conftest import missing
from proofs.part import RECORDS, SQLITE, prove
from proofs.parts import PARTS

pytestmark = pytest.mark.processes

SAMPLED = [name for name, part in PARTS.items() if part.sampled]


@pytest.mark.timeout(480)
@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_holds(name, report):
    if name == "power" and shutil.which("strace") is None:
        missing("strace", "it records the system calls of the driver: apt install strace")
    if name != "simulation" and sys.platform != "linux":
        pytest.skip("declared: memory, descriptors and processes are read from /proc")
    if name == "soak" and not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("declared: what is in use of malloc is told by glibc, from 2.33")
    record = prove(PARTS[name], full=False, url=SQLITE)
    verdict = record["verdict"]
    size = f"{verdict['tasks']:,} tasks, {sum(verdict['faults'].values()):,} faults, " if verdict else ""
    below = f", loss below {verdict['loss_rate_below']:g} with 95 %" if verdict else ""
    report(f"{name}: {size}{record['seconds']} s{below}; {'holds' if record['holds'] else 'BROKEN'}")
    assert record["holds"], "\n".join(record["broken"])
    recorded = _record(name)
    assert not verdict or verdict["classes"] == recorded["verdict"]["classes"], "the record disagrees"
    assert record["figures"].keys() <= recorded["figures"].keys(), "the record lacks what the sample shows"


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_a_record_of_its_full_size_that_holds(name):
    recorded = _record(name)
    assert recorded["holds"], recorded["broken"]
    assert recorded["complete"], f"{recorded['pieces']} pieces are recorded; make prove PARTS={name} goes on"
    assert recorded["size"] == "full"
    assert recorded["promise"] == PARTS[name].promise, "the promise has changed since it was proven"
    assert list(PARTS[name].check({**recorded["figures"], "verdict": recorded["verdict"]})) == []
    assert recorded["command"] == f"make prove PARTS={name}"
    assert {"commits", "machine", "date", "seconds"} <= recorded.keys()
    if recorded["verdict"] is not None:
        assert not any(recorded["verdict"]["classes"].values())
        assert recorded["verdict"]["drained"]
        assert sum(recorded["verdict"]["faults"].values()) > 0


def _record(name):
    path = RECORDS / f"{name}.json"
    assert path.exists(), f"it has no record of its full size; make prove PARTS={name}"
    return json.loads(path.read_text())
