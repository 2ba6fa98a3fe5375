"""Ordering keys through failures, kills and restarts: a sample of the part `order` of docs/proof, on Service Bus."""

from __future__ import annotations

import pytest

from proofs.order import order
from support.wired import wire

pytestmark = pytest.mark.processes


@pytest.mark.timeout(300)
def test_a_key_keeps_its_order_through_failures_and_kills(tmp_path, report):
    with wire("servicebus") as served:
        result = order(tmp_path, served.url(served.server.port), keys=10, each=10, kills=2)
    report(f"Service Bus: {result.figures}")
    assert not result.broken, result.broken
