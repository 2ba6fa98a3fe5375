"""One description of the queues for the application, for Terraform and for the checks: `cloudq.toml`, resolved.

`describe` is what `cloudq infra export` writes for the modules in terraform/: every default filled in, every time in whole
seconds, every physical name as the provider will have it, so that nothing is left to be decided a second time. The way back is
`cloudq.made`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cloudq import made
from cloudq.app import CloudQ
from cloudq.config import QueueSettings
from cloudq.delay import used
from cloudq.driver import Part, Queue
from cloudq.durations import seconds
from cloudq.errors import ConfigError
from cloudq.facts import Facts, Infrastructure, facts_of, providers
from cloudq.made import SCHEMA_VERSION
from cloudq.opening import facts_at, scheme_of

#: Where `cloudq infra export` writes, by default; Terraform reads every *.auto.tfvars.json of its directory.
EXPORTED = "cloudq.auto.tfvars.json"
#: As many hex digits of a hash as a tag or label carries.
_TAG = 12


def described(app: CloudQ, scheme: str | None) -> tuple[Facts, list[str]]:
    """Return the provider to describe, and its queues. ConfigError where there is nothing to make, or a choice to be made.

    Without a scheme it is that of the settings; queues whose own `url` names another provider are left out.
    """
    names = app.queue_names()
    if not names:
        raise ConfigError(
            "there is no queue to describe: cloudq.toml names none ([queues.default] is enough), and no APP was given whose "
            "tasks name some."
        )
    if scheme is None:
        schemes = {scheme_of(app.url_of(name)) for name in names}
        if len(schemes) > 1:
            raise ConfigError(f"the queues live with {', '.join(sorted(schemes))}: choose one with --target.")
        scheme = schemes.pop()
    else:
        scheme = _schemes_by_cloud().get(scheme, scheme)
        names = [name for name in names if app.settings.queue(name).url is None or scheme_of(app.url_of(name)) == scheme]
    facts = facts_of(scheme)
    if facts.infrastructure is None:
        raise ConfigError(f"{facts.name} has no infrastructure to make. Name a provider that has: --target, or CLOUDQ_URL.")
    return facts, names


def _schemes_by_cloud() -> dict[str, str]:
    """Return the provider that each module is for: its directory is named for the cloud."""
    known = {facts.scheme: facts.infrastructure for facts in map(facts_of, providers())}
    return {infra.cloud: scheme for scheme, infra in known.items() if infra is not None}


def describe(app: CloudQ, facts: Facts, names: Sequence[str]) -> dict[str, Any]:
    """Return the description of these queues for a provider. Nothing is connected to."""
    infrastructure = facts.infrastructure
    assert infrastructure is not None, "asked in `described`"
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "provider": facts.scheme,
        "namespace": app.settings.namespace,
        "prefix": _prefix(app.settings.url, facts.scheme),
        "queues": {name: _queue(app, name, facts, infrastructure) for name in names},
    }
    return {**document, "config_hash": _hash(document)}


def written(document: Mapping[str, Any]) -> str:
    """Return the description as the file has it: sorted, and the same on every machine."""
    return json.dumps({"cloudq": document}, indent=2, sort_keys=True) + "\n"


def tag(app: CloudQ, facts: Facts, name: str) -> str:
    """Return what the resources of a queue are tagged with: it changes when its description does."""
    assert facts.infrastructure is not None, "of a provider that has any"
    return str(_queue(app, name, facts, facts.infrastructure)["hash"])


def stale(app: CloudQ, environ: Mapping[str, str], directory: Path) -> list[str]:
    """Return, in words, what was configured after Terraform made the queues, or made for somebody else. Reads one file."""
    found = made.read(environ, directory)
    if found is None:
        return []
    told: list[str] = []
    if found.namespace != app.settings.namespace:
        told.append(
            f"{found.origin} is of the namespace {found.namespace!r}, and this application has {app.settings.namespace!r}: its "
            f"queues were not made by that apply."
        )
    for name in app.queue_names():
        facts = facts_at(app.url_of(name))
        if facts is None or facts.infrastructure is None or scheme_of(found.url) != facts.scheme:
            continue
        if name not in found.tags:
            told.append(f"{found.origin} has no queue {name!r}: it was not there at the last apply.")
        elif found.tags[name] != tag(app, facts, name):
            told.append(
                f"the queue {name!r} was configured anew after the last apply ({found.origin}): cloudq doctor tells how."
            )
    return told


def _queue(app: CloudQ, name: str, facts: Facts, infra: Infrastructure) -> dict[str, Any]:
    settings, scheme = app.settings.queue(name), facts.scheme
    parts = used(app.addresses(name), facts.limits)
    prefix = _prefix(settings.url or app.settings.url, scheme)

    for each in parts:
        _refuse_name(_physical(prefix, each, infra), facts.name, infra)

    def physical(part: Part) -> str | None:
        found = [queue for queue in parts if queue.part is part]
        return _physical(prefix, found[0], infra) if found else None

    main = app.address(name, Part.MAIN)
    longest = infra.dead_retention[1] if infra.dead_retention is not None else 0
    queue: dict[str, Any] = {
        "lease_seconds": math.ceil(main.lease),
        "max_attempts": settings.attempts,
        "max_deliveries": facts.net(settings.attempts, served=settings.serverless is not None),
        "ordered": settings.ordered,
        # Where copies are dropped, they are also without a window of the user's own.
        "dedup_seconds": math.ceil(main.dedup or facts.copies or 0),
        "retention_seconds": math.ceil(seconds(settings.retention, "retention")),
        "delay_retention_seconds": math.ceil(infra.retention[1]) if physical(Part.DELAY) else 0,
        "dead_retention_seconds": math.ceil(seconds(settings.dead_retention or longest, "dead_retention")),
        "names": {
            "main": {each.priority: _physical(prefix, each, infra) for each in parts if each.part is Part.MAIN},
            "delay": physical(Part.DELAY),
            "dead": physical(Part.DEAD) if infra.dead_retention is not None else None,
        },
        "alarm": {"oldest_seconds": math.ceil(seconds(settings.alarm.oldest, "oldest")), "dead": settings.alarm.dead},
        "scale": {
            "backlog": settings.scale.backlog,
            "minimum": settings.scale.minimum,
            "maximum": settings.scale.maximum,
        },
        "serverless": _serverless(settings, infra),
    }
    of = {"schema_version": SCHEMA_VERSION, "provider": scheme, "namespace": app.settings.namespace, "queue": queue}
    return {**queue, "hash": _hash(of)[:_TAG]}


def _serverless(settings: QueueSettings, infra: Infrastructure) -> dict[str, int] | None:
    asked = settings.serverless
    if asked is None:
        return None
    return {
        "timeout_seconds": math.ceil(seconds(asked.timeout, "timeout")),
        "batch": asked.batch or infra.functions.usual_batch,
        "window_seconds": math.ceil(seconds(asked.window, "window")),
        # 0: the provider's own limit.
        "concurrency": asked.concurrency or 0,
    }


def _refuse_name(name: str, provider: str, infra: Infrastructure) -> None:
    for beginning in infra.reserved:
        if name.lower().startswith(beginning):
            raise ConfigError(
                f"{name!r}: {provider} lets no name begin with {beginning!r}. Choose another namespace or prefix."
            )
    if len(name) > infra.longest_name:
        raise ConfigError(
            f"{name!r} has {len(name)} characters, and {provider} takes {infra.longest_name}. Choose a shorter namespace, "
            f"prefix or name of the queue."
        )


def _prefix(url: str | None, scheme: str) -> str:
    """Return what the URL of this provider puts before every name; a URL of another one says nothing about it."""
    if url is None or scheme_of(url) != scheme:
        return ""
    return dict(parse_qsl(url.partition("?")[2])).get("prefix", "")


def _physical(prefix: str, queue: Queue, infra: Infrastructure) -> str:
    # A dead part is of the same kind as its queue; what waits for its time is in no order.
    ordered = queue.ordered or (queue.of_ordered and queue.part is Part.DEAD)
    return f"{prefix}{queue.physical}{infra.ordered_suffix if ordered else ''}"


def _hash(document: Mapping[str, Any]) -> str:
    # As Terraform's jsonencode writes it, so that the modules can tell a file that was changed by hand.
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
