"""What a `servicebus://` URL may say, read into one value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloudq.driver import Queue
from cloudq.errors import ConfigError, nearest

#: The host that stands for the emulator on this machine.
LOCAL = "local"
#: Where a connection string is looked for, when the URL names no namespace.
VARIABLE = "SERVICEBUS_CONNECTION_STRING"
#: The vendor's emulator has AMQP on 5672 and its administration on 5300 (docs, Service Bus emulator). For another port, the one
#: that is as far away.
PORT, ADMIN_PORT = 5672, 5300
#: docs, Service Bus namespaces: 6 to 50 letters, digits and hyphens.
_NAMESPACE = re.compile(r"[a-zA-Z][a-zA-Z0-9\-]{4,48}[a-zA-Z0-9]", re.ASCII)
_HOST = re.compile(r"[a-zA-Z0-9\-]+(\.[a-zA-Z0-9\-]+)+", re.ASCII)
_OPTIONS = ("prefix", "receivers", "sessions", "endpoint", "admin", "port")


@dataclass(frozen=True, slots=True)
class Options:
    """Where the queues are, and how many connections may be open to each."""

    #: Fully qualified; empty where there is a connection string.
    namespace: str = ""
    connection_string: str = ""
    #: host:port of the administration of an emulator, without TLS; empty for the service's.
    admin: str = ""
    #: Before every physical name.
    prefix: str = ""
    #: Receivers for each queue without sessions, at the most, besides one that renews. Each is a connection of its own.
    receivers: int = 4
    #: Sessions that are held for each ordered queue, at the most. Each is a connection of its own.
    sessions: int = 10

    def name(self, queue: Queue) -> str:
        """Return the name of the queue's entity."""
        return f"{self.prefix}{queue.physical}"

    def sources(self, dead: Queue) -> list[str]:
        """Return the names of the entities whose built-in dead-letter queues make up a dead part."""
        return [f"{self.prefix}{physical}" for physical in dead.mains]

    def at(self, endpoint: str, admin: str) -> Options:
        """Return the same, on an emulator: host:port of both its servers."""
        return Options(
            connection_string=development(endpoint),
            admin=admin,
            prefix=self.prefix,
            receivers=self.receivers,
            sessions=self.sessions,
        )


def endpoint_of(connection_string: str) -> str:
    """Return the host that a connection string names, with its port where it has one. No secret is in it."""
    endpoints = (part for part in connection_string.split(";") if part.strip().lower().startswith("endpoint="))
    return next(endpoints, "").partition("://")[2].strip("/ ")


def development(endpoint: str) -> str:
    """Return the connection string of an emulator at host:port. It looks at no key."""
    return f"Endpoint=sb://{endpoint};SharedAccessKeyName=local;SharedAccessKey=local;UseDevelopmentEmulator=true;"


def admin_port(port: int) -> int:
    """Return the port of an emulator's administration."""
    return port - (PORT - ADMIN_PORT)


def read(place: str, query: Mapping[str, str]) -> Options:
    """Read `servicebus://<place>?<query>`. ConfigError for what is unknown or cannot be."""
    for name in query:
        if name not in _OPTIONS:
            raise ConfigError(f"servicebus:// has no option {name!r}.{nearest(name, _OPTIONS)}")
    endpoint, admin, prefix = query.get("endpoint", ""), query.get("admin", ""), query.get("prefix", "")
    if len(prefix) > 20:
        raise ConfigError(f"servicebus://: prefix={prefix!r}: 20 characters at most.")
    if "port" in query and place != LOCAL:
        raise ConfigError("servicebus://: port= is for servicebus://local alone. Elsewhere use endpoint=.")
    options = Options(
        prefix=prefix,
        receivers=_count(query, "receivers", 4),
        sessions=_count(query, "sessions", 10),
    )
    if place == LOCAL:
        if endpoint or admin:
            raise ConfigError("servicebus://local: endpoint= and admin= are for an emulator elsewhere. Here use port=.")
        port = local_port(query)
        return options.at(f"127.0.0.1:{port}", f"127.0.0.1:{admin_port(port)}")
    if endpoint or admin:
        return options.at(*_elsewhere(endpoint, admin))
    namespace, connection_string = _where(place)
    return Options(
        namespace, connection_string, _admin_of(connection_string), options.prefix, options.receivers, options.sessions
    )


def _elsewhere(endpoint: str, admin: str) -> tuple[str, str]:
    """Return host and port of both servers of an emulator. ConfigError: they are none."""
    for name, value in (("endpoint", endpoint), ("admin", admin)):
        if value and not re.fullmatch(r"[\w.\-]+:\d+", value, re.ASCII):
            raise ConfigError(f"servicebus://: {name}={value!r} is not host:port.")
    if not endpoint:
        raise ConfigError("servicebus://: admin= is the administration of an emulator, whose queues are at endpoint=.")
    host, _, port = endpoint.partition(":")
    return endpoint, admin or f"{host}:{admin_port(int(port))}"


def local_port(query: Mapping[str, str]) -> int:
    """Return the port of `servicebus://local`. ConfigError: it is none."""
    port = query.get("port", str(PORT))
    if not port.isdecimal() or not 0 < admin_port(int(port)) < int(port) < 65_536:
        raise ConfigError(f"servicebus://local: port={port!r} must be a number from {PORT - ADMIN_PORT + 1} to 65535.")
    return int(port)


def _where(place: str) -> tuple[str, str]:
    if not place:
        found = os.environ.get(VARIABLE, "")
        if not found:
            raise ConfigError(
                f"servicebus:// without a namespace: write servicebus://my-namespace, set {VARIABLE}, or use "
                f"servicebus://local for the emulator."
            )
        parts = {part.partition("=")[0].strip().lower() for part in found.split(";")}
        if "endpoint" not in parts:
            raise ConfigError(f"{VARIABLE} is no connection string: it has no Endpoint=sb://...; as the portal shows it.")
        if not parts & {"sharedaccesskey", "sharedaccesssignature"}:
            raise ConfigError(
                f"{VARIABLE} has neither a SharedAccessKey nor a SharedAccessSignature; take it as the portal shows it."
            )
        if "entitypath" in parts:
            raise ConfigError(
                f"{VARIABLE} is that of one queue (EntityPath=...). Take one of the namespace, or the same without EntityPath."
            )
        return "", found
    if "." in place:
        if not _HOST.fullmatch(place):
            raise ConfigError(f"servicebus://{place}: {place!r} is no host name.")
        return place, ""
    if not _NAMESPACE.fullmatch(place):
        raise ConfigError(
            f"servicebus://{place}: {place!r} is not the name of a namespace (6 to 50 letters, digits and hyphens). Write "
            f"servicebus://my-namespace, or servicebus://local for the emulator."
        )
    return f"{place}.servicebus.windows.net", ""


def _admin_of(connection_string: str) -> str:
    """Where the administration of an emulator is, that a connection string names: nowhere in it."""
    if "UseDevelopmentEmulator=true" not in connection_string.split(";"):
        return ""
    host, _, port = endpoint_of(connection_string).partition(":")
    return f"{host}:{admin_port(int(port)) if port.isdecimal() else ADMIN_PORT}"


def _count(query: Mapping[str, str], name: str, unset: int) -> int:
    value = query.get(name, str(unset))
    if not value.isdecimal() or not 1 <= int(value) <= 100:
        raise ConfigError(f"servicebus://: {name}={value!r}: a number from 1 to 100.")
    return int(value)
