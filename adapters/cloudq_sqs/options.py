"""What an `sqs://` URL may say, read into one value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cloudq.driver import Part, Queue
from cloudq.errors import ConfigError, nearest

#: The host that stands for the emulator on this machine.
LOCAL = "local"
_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+-\d+", re.ASCII)
_ACCOUNT = re.compile(r"\d{12}", re.ASCII)
_QUEUE_URL = "url."
_OPTIONS = ("account", "endpoint", "prefix", "sse", "fifo_throughput", "port", f"{_QUEUE_URL}<physical name>")
#: guide, quotas-queues: 80 characters, the suffix included.
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Options:
    """Where the queues are, and how those are made that `create` makes."""

    #: Empty: from the environment or the profile.
    region: str = ""
    #: Owner of the queues. With it a queue URL is known without asking for it.
    account: str = ""
    #: Before every physical name.
    prefix: str = ""
    #: Empty: what the SDK finds (AWS_ENDPOINT_URL_SQS, the profile, the region's own).
    endpoint: str = ""
    #: By physical name.
    urls: Mapping[str, str] = field(default_factory=dict[str, str])
    #: "sqs" for keys of the service, "off", or the id, alias or ARN of a KMS key.
    sse: str = "sqs"
    fifo_throughput: Literal["standard", "high"] = "standard"
    #: Of the emulator that `sqs://local` uses.
    port: int = 9324
    #: Access key and secret, for the emulator alone: everywhere else they come from the SDK's chain.
    keys: tuple[str, str] | None = None

    def name(self, queue: Queue) -> str:
        """Return the name that the queue has at the provider."""
        return f"{self.prefix}{queue.physical}{'.fifo' if is_fifo(queue) else ''}"


def is_fifo(queue: Queue) -> bool:
    """Say of which kind the queue is. The dead-letter queue of a FIFO queue is one too (guide, dead-letter queues)."""
    return queue.ordered or (queue.of_ordered and queue.part is Part.DEAD)


def read(place: str, query: Mapping[str, str]) -> Options:
    """Read `sqs://<place>?<query>`. ConfigError for what is unknown or cannot be."""
    region = "us-east-1" if place == LOCAL else place
    if region and not _REGION.fullmatch(region):
        raise ConfigError(
            f"sqs://{place}: {place!r} is not the name of an AWS region. Write sqs://eu-west-1, sqs:// for the region of the "
            f"environment or profile, or sqs://local for the emulator."
        )
    if place == LOCAL and "endpoint" in query:
        raise ConfigError("sqs://local: endpoint= is for a server elsewhere: sqs://us-east-1?endpoint=... Here use port=.")
    fields: dict[str, str | int] = {}
    urls: dict[str, str] = {}
    for name, value in query.items():
        if name.startswith(_QUEUE_URL):
            urls[name.removeprefix(_QUEUE_URL)] = _http(name, value)
        elif name == "region":
            raise ConfigError(f"sqs:// has no option 'region': the region is the place. Write sqs://{value}.")
        elif name not in _OPTIONS:
            raise ConfigError(f"sqs:// has no option {name!r}.{nearest(name, _OPTIONS)}")
        else:
            fields[name] = _checked(name, value, local=place == LOCAL)
    return Options(region=region, urls=urls, **fields)  # type: ignore[arg-type]  # checked one by one above


def _checked(name: str, value: str, *, local: bool) -> str | int:
    if name == "account" and not _ACCOUNT.fullmatch(value):
        raise ConfigError(f"sqs://: account={value!r}: an AWS account is 12 digits.")
    if name == "endpoint":
        return _http(name, value)
    if name == "fifo_throughput" and value not in ("standard", "high"):
        raise ConfigError(f"sqs://: fifo_throughput={value!r}: 'standard', or 'high' for limits by message group.")
    if name == "prefix" and len(value) > 20:
        raise ConfigError(f"sqs://: prefix={value!r}: 20 characters at most, so that names stay within {_LONGEST_NAME}.")
    if name == "port":
        if not local or not value.isdecimal() or not 0 < int(value) < 65_536:
            raise ConfigError(f"sqs://: port={value!r}: a port number, and only for sqs://local. Elsewhere use endpoint=.")
        return int(value)
    return value


def _http(name: str, value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ConfigError(f"sqs://: {name}={value!r} is not an http(s) URL.")
    if "@" in value.partition("://")[2].partition("/")[0]:
        raise ConfigError(f"sqs://: {name}= holds a user or a password. Leave it out: credentials come from the SDK's chain.")
    return value
