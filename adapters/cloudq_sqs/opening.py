"""From an `sqs://` URL to a driver. Importing this needs boto3; the package and its facts do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cloudq.clock import Clock
from cloudq_sqs.driver import SQSDriver
from cloudq_sqs.local import LOCAL as EMULATOR
from cloudq_sqs.options import LOCAL, read


def open_sqs(place: str, query: Mapping[str, str], clock: Clock) -> SQSDriver:
    """Open `sqs://<place>?<query>`."""
    options = read(place, query)
    if place == LOCAL:
        # The emulator looks at no signature; its account is fixed.
        endpoint = f"http://{EMULATOR.ensure(options.port)}"
        options = replace(options, endpoint=endpoint, account="000000000000", keys=("local", "local"))
    return SQSDriver(options, clock)
