"""The promises of the seam, as scenarios that any adapter can be put through.

    from cloudq.conformance import SCENARIOS, Harness

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    async def test_conformance(scenario, harness):
        await scenario.run(harness)          # raises Skip with a reason, AssertionError, or nothing

A scenario asks `Limits` before it asks the provider: what a provider declares that it cannot do is skipped, with the reason;
what it declares is held against it.
"""

from cloudq.conformance.harness import Harness, Scenario, Skip
from cloudq.conformance.leasing import SCENARIOS as _LEASING
from cloudq.conformance.ordering import SCENARIOS as _ORDERING
from cloudq.conformance.sending import SCENARIOS as _SENDING
from cloudq.conformance.settling import SCENARIOS as _SETTLING
from cloudq.conformance.working import SCENARIOS as _WORKING

SCENARIOS: tuple[Scenario, ...] = (*_SENDING, *_LEASING, *_SETTLING, *_ORDERING, *_WORKING)

__all__ = ["SCENARIOS", "Harness", "Scenario", "Skip"]
