"""What Terraform made, as the application finds it: the output `cloudq_config` of the modules, saved as `cloudq.infra.json`.

It holds where the queues are, so that no URL has to be repeated, and the tag of each, so that a worker can tell that it was
configured after the last apply. CLOUDQ_INFRA names another file, or holds the document itself, as a container gets it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloudq.errors import ConfigError

#: Of the description and of what comes back; raised when a key is added, goes or changes its meaning.
SCHEMA_VERSION = 1
FILE, VARIABLE = "cloudq.infra.json", "CLOUDQ_INFRA"


@dataclass(frozen=True, slots=True)
class Made:
    """The provider's URL, the namespace, and the tag that the resources of each queue carry."""

    origin: str
    url: str
    namespace: str
    tags: Mapping[str, str]


class _Queue(msgspec.Struct, frozen=True):
    hash: str


class _Document(msgspec.Struct, frozen=True):
    schema_version: int
    url: str
    namespace: str
    queues: dict[str, _Queue]


def read(environ: Mapping[str, str], directory: Path) -> Made | None:
    """Return what was made; None where nothing says so. ConfigError for a document of another version, or of another kind."""
    origin, text = _text(environ, directory)
    if text is None:
        return None
    try:
        version = json.loads(text)["schema_version"]
        if version == SCHEMA_VERSION:
            found = msgspec.json.decode(text, type=_Document)
            return Made(origin, found.url, found.namespace, {name: queue.hash for name, queue in found.queues.items()})
    except (ValueError, TypeError, KeyError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"{origin} is not what `terraform output -json cloudq_config` prints: {type(error).__name__}: {error}."
        ) from error
    raise ConfigError(
        f"{origin} has schema_version {version!r}, and this cloudq reads {SCHEMA_VERSION}. Remove it; then export, apply with "
        f"the Terraform modules of the installed version, and save the output again."
    )


def _text(environ: Mapping[str, str], directory: Path) -> tuple[str, str | bytes | None]:
    named = environ.get(VARIABLE, "")
    if named.lstrip().startswith("{"):
        return VARIABLE, named
    if named and not Path(named).is_file():
        raise ConfigError(f"{VARIABLE} names {named!r}, which is not a file.")
    path = Path(named) if named else directory / FILE
    return str(path), path.read_bytes() if path.is_file() else None
