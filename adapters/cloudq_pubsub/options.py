"""What a `pubsub://` URL may say, read into one value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloudq.driver import Queue
from cloudq.errors import ConfigError, nearest

#: The host that stands for the emulator on this machine.
LOCAL = "local"
#: Resource Manager, project ids: 6 to 30, letters, digits and hyphens; older ones have a domain before them.
_PROJECT = re.compile(r"([a-z0-9.\-]+:)?[a-z][a-z0-9\-]{4,28}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[a-z]+-[a-z]+\d+", re.ASCII)
_OPTIONS = ("region", "endpoint", "prefix", "exactly_once", "kms", "port")


@dataclass(frozen=True, slots=True)
class Options:
    """Where the topics are, and how those are made that `create` makes."""

    #: Empty: GOOGLE_CLOUD_PROJECT, or that of the credentials.
    project: str = ""
    #: host:port. Empty: PUBSUB_EMULATOR_HOST, the region's, or the service's global endpoint.
    endpoint: str = ""
    #: Of the service. Ordering keys and exactly-once delivery hold within one.
    region: str = ""
    #: Without TLS and without credentials.
    plain: bool = False
    #: Before every physical name.
    prefix: str = ""
    #: Acknowledgements are answered one by one; for subscriptions that `create` makes, and to know what answers mean.
    exactly_once: bool = False
    #: A Cloud KMS key for topics that `create` makes; empty for Google's own keys.
    kms: str = ""
    #: Of the emulator that `pubsub://local` uses.
    port: int = 8085

    def name(self, queue: Queue) -> str:
        """Return the name of the queue's topic, and of its subscription."""
        return f"{self.prefix}{queue.physical}"


def read(place: str, query: Mapping[str, str]) -> Options:
    """Read `pubsub://<place>?<query>`. ConfigError for what is unknown or cannot be."""
    local = place == LOCAL
    for name in query:
        if name not in _OPTIONS:
            raise ConfigError(f"pubsub:// has no option {name!r}.{nearest(name, _OPTIONS)}")
    if place and not local and not _PROJECT.fullmatch(place):
        raise ConfigError(
            f"pubsub://{place}: {place!r} is not the id of a Google Cloud project. Write pubsub://my-project, pubsub:// for "
            f"the project of the environment or the credentials, or pubsub://local for the emulator."
        )
    region, endpoint, plain = _where(query)
    prefix, port = query.get("prefix", ""), query.get("port", "8085")
    if len(prefix) > 20:
        raise ConfigError(f"pubsub://: prefix={prefix!r}: 20 characters at most.")
    if "port" in query and (not local or not port.isdecimal() or not 0 < int(port) < 65_536):
        raise ConfigError(f"pubsub://: port={port!r}: a port number, and only for pubsub://local. Elsewhere use endpoint=.")
    exactly_once = query.get("exactly_once", "false")
    if exactly_once not in ("true", "false"):
        raise ConfigError(f"pubsub://: exactly_once={exactly_once!r}: true or false.")
    return Options(
        project="local-project" if local else place,
        endpoint=endpoint,
        region=region,
        plain=plain,
        prefix=prefix,
        exactly_once=exactly_once == "true",
        kms=query.get("kms", ""),
        port=int(port),
    )


def _where(query: Mapping[str, str]) -> tuple[str, str, bool]:
    region, endpoint = query.get("region", ""), query.get("endpoint", "")
    if region and endpoint:
        raise ConfigError("pubsub://: region= and endpoint= name the same thing. Choose one.")
    if region and not _REGION.fullmatch(region):
        raise ConfigError(f"pubsub://: region={region!r} is not the name of a region, e.g. europe-west1.")
    plain = endpoint.startswith("http://")
    bare = endpoint.removeprefix("http://").removeprefix("https://")
    if endpoint and not re.fullmatch(r"[\w.\-]+(:\d+)?", bare, re.ASCII):
        raise ConfigError(f"pubsub://: endpoint={endpoint!r} is not host:port, with http:// before it for one without TLS.")
    return region, bare, plain
