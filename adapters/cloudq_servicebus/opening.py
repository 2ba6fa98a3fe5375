"""From a `servicebus://` URL to a driver. Importing this needs azure-servicebus; the package and its facts do not."""

from __future__ import annotations

from collections.abc import Mapping

from cloudq.clock import Clock
from cloudq_servicebus.driver import ServiceBusDriver
from cloudq_servicebus.local import LOCAL as EMULATOR
from cloudq_servicebus.options import LOCAL, local_port, read


def open_servicebus(place: str, query: Mapping[str, str], clock: Clock) -> ServiceBusDriver:
    """Open `servicebus://<place>?<query>`."""
    options = read(place, query)
    if place == LOCAL:
        EMULATOR.ensure(local_port(query))
    return ServiceBusDriver(options, clock)
