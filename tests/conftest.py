"""Rules for every test: an environment without cloudq's variables, and no skip that nobody asked for.

CLOUDQ_REQUIRE names, separated by commas, what must be there (a server, an optional package): a test that skips for want of it
fails instead. CLOUDQ_REQUIRE=all allows only the skips that a provider declares about itself.
"""

from __future__ import annotations

import asyncio
import inspect
import os

import pytest

REQUIRED = {name for name in os.environ.get("CLOUDQ_REQUIRE", "").split(",") if name}


def missing(what: str, reason: str, *, installable: bool = True) -> None:
    """Skip for want of `what`; fail where it is required. "all" are those that a machine can install for itself."""
    if what in REQUIRED or ("all" in REQUIRED and installable):
        pytest.fail(f"{what} is required here (CLOUDQ_REQUIRE) and missing: {reason}")
    pytest.skip(f"declared: {what}: {reason}" if not installable else f"{what}: {reason}", allow_module_level=True)


def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=50, help="How many seeds the simulation runs.")


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(1, metafunc.config.getoption("--seeds") + 1))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("CLOUDQ_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run `async def` tests, each on a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skip must be one that was declared: by a provider about itself, or by `missing`."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and "all" in REQUIRED and "declared:" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"an undeclared skip: {report.longrepr}"


_REPORTS: list[str] = []


@pytest.fixture
def report():
    """Add a line to what is printed at the end: a figure that a test shows."""
    return _REPORTS.append


def pytest_terminal_summary(terminalreporter):
    if _REPORTS:
        terminalreporter.section("figures")
        for line in _REPORTS:
            terminalreporter.write_line(line)
