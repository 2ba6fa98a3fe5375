"""From a `pubsub://` URL to a driver. Importing this needs google-cloud-pubsub; the package and its facts do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cloudq.clock import Clock
from cloudq_pubsub.driver import PubSubDriver
from cloudq_pubsub.local import LOCAL as EMULATOR
from cloudq_pubsub.options import LOCAL, read


def open_pubsub(place: str, query: Mapping[str, str], clock: Clock) -> PubSubDriver:
    """Open `pubsub://<place>?<query>`."""
    options = read(place, query)
    if place == LOCAL:
        options = replace(options, endpoint=EMULATOR.ensure(options.port), plain=True)
    return PubSubDriver(options, clock)
