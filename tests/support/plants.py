"""Bugs planted in a test server: whether a scenario of the conformance suite finds one."""

from __future__ import annotations

import asyncio

from cloudq.conformance import SCENARIOS, Skip
from cloudq.conformance.harness import Harness


async def goes_red(harness: Harness, name: str) -> bool:
    """Say whether a scenario fails. One that skips shows nothing."""
    (scenario,) = [scenario for scenario in SCENARIOS if scenario.name == name]
    try:
        async with asyncio.timeout(20):
            await scenario.run(harness)
    except Skip:
        raise
    except Exception:  # whatever it is, the suite is red
        return True
    return False
