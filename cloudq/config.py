"""Settings: constructor over environment over file over what Terraform made (`cloudq.made`) over defaults. Every key stands
here, typed and explained.

The file is `cloudq.toml`, or the table `[tool.cloudq]` of pyproject.toml, in the working directory; CLOUDQ_CONFIG names
another. The environment spells keys in capitals, `__` for nesting: CLOUDQ_URL, CLOUDQ_QUEUES__MAIL__LEASE=5m.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeGuard, cast, get_args, get_origin

import msgspec

from cloudq import made
from cloudq.durations import seconds
from cloudq.errors import ConfigError, NoProvider, nearest
from cloudq.retry import Backoff

#: A duration as a file can hold it: "90s", or seconds.
Written = str | float
PriorityName = Literal["high", "normal", "low"]
#: Most urgent first, which is also the order in which they are listed and polled.
PRIORITIES: tuple[PriorityName, ...] = get_args(PriorityName)

#: Where no URL is set, on a developer's machine.
LOCAL_DEFAULT = "sqlite:///cloudq.db"

_VARIABLES = "environment"
_NO_FILE = "defaults"
#: Variables that begin with CLOUDQ_ and are no settings.
_NOT_SETTINGS = {
    "CLOUDQ_CONFIG",
    made.VARIABLE,
    "CLOUDQ_REQUIRE",
    "CLOUDQ_DEMO_DIR",
    "CLOUDQ_WORKER_INDEX",
    "CLOUDQ_SUPERVISOR_FD",
}

#: Set by the platforms where a file in the working directory is gone with the instance.
_PLATFORMS = {
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
    "ECS_CONTAINER_METADATA_URI": "Amazon ECS",
    "ECS_CONTAINER_METADATA_URI_V4": "Amazon ECS",
    "AWS_LAMBDA_FUNCTION_NAME": "AWS Lambda",
    "K_SERVICE": "Cloud Run",
    "CLOUD_RUN_JOB": "a Cloud Run job",
    "CLOUD_RUN_WORKER_POOL": "a Cloud Run worker pool",
    "FUNCTIONS_WORKER_RUNTIME": "Azure Functions",
    "CONTAINER_APP_NAME": "Azure Container Apps",
    "WEBSITE_INSTANCE_ID": "Azure App Service",
}
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
#: Containers that a developer works in: their working directory is a mounted checkout.
_DEVELOPERS = ("REMOTE_CONTAINERS", "CODESPACES", "DEVCONTAINER")


class AlarmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When somebody is told (`[queues.<name>.alarm]`), by alarms that the Terraform modules make."""

    #: The oldest waiting task is older than this; 0 for never.
    oldest: Written = "1h"
    #: So many tasks are dead, or more; 0 for never.
    dead: int = 1

    def __post_init__(self) -> None:
        """Refuse what no provider could watch."""
        seconds(self.oldest, "alarm.oldest")
        if self.dead < 0:
            raise ValueError(f"alarm.dead = {self.dead}: 1 to be told of the first dead task, 0 for never.")


class ScaleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many workers a backlog asks for (`[queues.<name>.scale]`), as data for the platform that starts them."""

    #: Waiting tasks for each worker process: one more is started for so many more.
    backlog: int = 10
    minimum: int = 0
    maximum: int = 10

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.backlog < 1:
            raise ValueError(f"scale.backlog = {self.backlog}: one worker takes at least 1 waiting task. Choose 1 or more.")
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise ValueError(
                f"scale.minimum = {self.minimum}, scale.maximum = {self.maximum}: choose 0 <= minimum <= maximum, and a "
                f"maximum of 1 or more."
            )


class ServerlessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function takes the place of workers (`[queues.<name>.serverless]`). None of the figures is the function's own code."""

    #: Of one call of the function: what it is deployed with.
    timeout: Written = "10s"
    #: Messages for one call, at the most. None: what is usual at the provider.
    batch: int | None = None
    #: How long a batch may gather.
    window: Written = 0
    #: Calls at once, at the most. None: the provider's own limit.
    concurrency: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no provider could call."""
        if seconds(self.timeout, "serverless.timeout") < 1:
            raise ValueError(f"serverless.timeout = {self.timeout!r}: a function has at least a second.")
        seconds(self.window, "serverless.window")
        for name, count in (("batch", self.batch), ("concurrency", self.concurrency)):
            if count is not None and count < 1:
                raise ValueError(f"serverless.{name} = {count}: choose 1 or more, or leave it out.")


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What infrastructure and code must agree on for one queue (`[queues.<name>]`)."""

    #: The provider of this queue, when it is not the application's.
    url: str | None = None
    #: How long a received task is hidden from other workers; renewed while it runs. A crashed one comes back after it.
    lease: Written = "60s"
    #: One physical queue each; a task may ask only for one that is listed.
    priorities: tuple[PriorityName, ...] = ("normal",)
    #: Keep the order of tasks with the same `ordering_key`.
    ordered: bool = False
    #: Upper bound of `max_attempts` for every task of the queue.
    max_attempts: int | None = None
    #: Drop a task whose id was sent within this window. Refused where the provider cannot.
    dedup: Written = 0
    #: How long a waiting task is kept at the least, by a provider that forgets.
    retention: Written = "7d"
    #: The same for a dead one. None: as long as the provider keeps anything.
    dead_retention: Written | None = None
    alarm: AlarmSettings = AlarmSettings()
    scale: ScaleSettings = ScaleSettings()
    #: None: workers run the tasks.
    serverless: ServerlessSettings | None = None

    def __post_init__(self) -> None:
        """Refuse what no provider could serve."""
        if seconds(self.lease, "lease") < 1:
            raise ValueError(f"lease = {self.lease!r} is under one second; renewal could not keep up. Use 10s or more.")
        if "normal" not in self.priorities:
            raise ValueError(
                f"priorities = {list(self.priorities)} must contain 'normal': it is what a task without a priority gets."
            )
        if len(set(self.priorities)) != len(self.priorities):
            raise ValueError(f"priorities = {list(self.priorities)} names one twice. Name each once.")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"max_attempts = {self.max_attempts}: a task is run at least once.")
        seconds(self.dedup, "dedup")
        kept = seconds(self.retention, "retention")
        if kept < 60:
            raise ValueError(
                f"retention = {self.retention!r} is under a minute; what waits for a worker would be gone. Use 1d or more."
            )
        if self.dead_retention is not None and seconds(self.dead_retention, "dead_retention") < kept:
            raise ValueError(
                f"dead_retention = {self.dead_retention!r} is shorter than retention = {self.retention!r}: what died late is "
                f"gone before it is looked at. Choose {self.retention!r} or more, or leave it out for the longest."
            )

    @property
    def attempts(self) -> int:
        """How often a task of this queue may be tried, as far as infrastructure must know."""
        return self.max_attempts or Backoff().max_attempts


_DEFAULTS = QueueSettings()


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a worker runs (`[worker]`)."""

    #: Tasks at once, per process.
    concurrency: int = 10
    processes: int = 1
    #: How long running tasks may go on after SIGTERM. Below what platforms allow before they kill: Kubernetes 30 s.
    grace: Written = "25s"
    #: How long a task that no worker knows is offered before it is dead-lettered.
    unknown_grace: Written = "1h"
    #: Answers /livez and /readyz at this port. None: it does not.
    health_port: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if self.concurrency < 1 or self.processes < 1:
            raise ValueError("concurrency and processes are 1 or more.")
        if self.health_port is not None and not 0 < self.health_port < 65_536 - self.processes:
            raise ValueError(
                f"health_port = {self.health_port}: a port number; with several processes, each takes one of those behind it."
            )
        seconds(self.grace, "grace")
        seconds(self.unknown_grace, "unknown_grace")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of cloudq.toml."""

    #: Where the queues are: provider and place, never a secret.
    url: str | None = None
    #: First part of every physical name, so that two applications or stages share an account without meeting.
    namespace: str = "cloudq"
    queues: dict[str, QueueSettings] = {}
    worker: WorkerSettings = WorkerSettings()

    def queue(self, name: str) -> QueueSettings:
        """Return the settings of a queue; one that the file does not name has the defaults."""
        return self.queues.get(name) or _DEFAULTS


def load(
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """Read the settings. ConfigError names the file or variable, the key, and the nearest right one."""
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    found = made.read(environ, directory or Path.cwd())
    for origin, part in (
        (_NO_FILE, {}) if found is None else (found.origin, {"url": found.url, "namespace": found.namespace}),
        _file(environ, directory or Path.cwd()),
        (_VARIABLES, _environment(environ)),
        ("CloudQ(...)", dict(overrides or {})),
    ):
        _convert(part, origin)  # each source alone first, so that the error names it
        merged = _merge(merged, part)
    return _convert(merged, "settings")


def origin(environ: Mapping[str, str] | None = None, directory: Path | None = None) -> str:
    """Return in words where the settings come from, beside the environment: which file, or that there is none."""
    directory = directory or Path.cwd()
    found, _ = _file(os.environ if environ is None else environ, directory)
    return found if found != _NO_FILE else f"no cloudq.toml in {directory}"


def default_url(environ: Mapping[str, str] | None = None, marks: tuple[str, ...] = _CONTAINER_MARKS) -> str:
    """Return the local default, or raise NoProvider where its file would vanish with the container or function."""
    environ = os.environ if environ is None else environ
    place = next((name for variable, name in _PLATFORMS.items() if environ.get(variable)), None)
    if place is None and not any(environ.get(name) for name in _DEVELOPERS):
        place = next((f"a container ({mark} exists)" for mark in marks if Path(mark).exists()), None)
    if place is not None:
        raise NoProvider(
            f"no provider is configured: CLOUDQ_URL is not set, and {Path.cwd()} has no cloudq.toml with a url. This looks "
            f"like {place}, where the local default, a file in the working directory, would be lost with the instance. Set "
            f"CLOUDQ_URL to your provider, or name a file that is kept: CLOUDQ_URL=sqlite:////data/cloudq.db"
        )
    return LOCAL_DEFAULT


def _file(environ: Mapping[str, str], directory: Path) -> tuple[str, dict[str, Any]]:
    named = environ.get("CLOUDQ_CONFIG")
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"CLOUDQ_CONFIG names {named!r}, which is not a file.")
        return named, _toml(Path(named))
    own = directory / "cloudq.toml"
    if own.is_file():
        return str(own), _toml(own)
    project = directory / "pyproject.toml"
    if project.is_file():
        return f"{project} [tool.cloudq]", _toml(project).get("tool", {}).get("cloudq", {})
    return _NO_FILE, {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def from_environment(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that are settings, sorted."""
    return sorted(name for name in environ if name.startswith("CLOUDQ_") and name not in _NOT_SETTINGS)


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in from_environment(environ):
        value = environ[name]
        path = name.removeprefix("CLOUDQ_").lower().split("__")
        listed = path[-1] == "priorities"
        _put(result, path, [item.strip() for item in value.split(",")] if listed else value, name)
    return result


def _put(table: dict[str, Any], path: list[str], value: object, name: str) -> None:
    first, *rest = path
    below: object = table.setdefault(first, {}) if rest else {}
    if (not rest and first in table) or not isinstance(below, dict):
        raise ConfigError(f"environment: {name} and a variable whose name is the beginning of it, or goes on, contradict.")
    if rest:
        _put(cast("dict[str, Any]", below), rest, value, name)
    else:
        table[first] = value


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    result = dict(lower)
    for key, value in upper.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        result[key] = _merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value)) if both else value
    return result


def _convert(raw: dict[str, Any], origin: str) -> Settings:
    _check(raw, Settings, origin, ())
    return msgspec.convert(raw, Settings, strict=False)


def _check(table: object, struct: type[msgspec.Struct], origin: str, path: tuple[str, ...]) -> None:
    """Convert value by value, so that an error names the key as its source spells it, the value, and the nearest right key."""
    if not _is_table(table):
        raise ConfigError(f"{origin}: {_spelled(origin, path)} = {table!r} is not a table of settings.")
    known = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        where = (*path, str(key))
        kind = known.get(key)
        if kind is None:
            right = known if origin != _VARIABLES else [_spelled(origin, (*path, name)) for name in known]
            close = nearest(str(key) if origin != _VARIABLES else _spelled(origin, where), right)
            raise ConfigError(f"{origin}: there is no setting {_spelled(origin, where)}.{close}")
        nested = _nested(kind)
        if nested is not None and value is not None:
            _check(value, nested, origin, where)
        elif key == "queues" and _is_table(value):
            for name, queue in value.items():
                _check(queue, QueueSettings, origin, (*where, name))
        else:
            _convertible(value, kind, origin, where)
    _convertible(table, struct, origin, path)


def _nested(kind: Any) -> type[msgspec.Struct] | None:
    """Return the table that a key holds: `X`, or the X of `X | None`."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    structs = [each for each in kinds if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    return structs[0] if structs else None


def _is_table(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _convertible(value: object, kind: Any, origin: str, path: tuple[str, ...]) -> None:
    try:
        msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, ConfigError) as error:
        own = error if isinstance(error, ConfigError) else error.__cause__
        if own is not None:  # from a __post_init__ here: it names the key and the value itself
            raise ConfigError(f"{origin}: {_spelled(origin, path)}: {own}" if path else f"{origin}: {own}") from error
        choices = ", ".join(repr(choice) for choice in _choices(kind))
        remedy = f" Choose from {choices}." if choices else ""
        raise ConfigError(f"{origin}: {_spelled(origin, path)} = {value!r} does not fit: {error}.{remedy}") from error


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the words that a setting takes, where it takes only some."""
    of = get_args(kind)
    return of if get_origin(kind) is Literal else tuple(choice for each in of for choice in _choices(each))


def _spelled(origin: str, path: tuple[str, ...]) -> str:
    """Return a key as its source spells it."""
    return "CLOUDQ_" + "__".join(path).upper() if origin == _VARIABLES else ".".join(path)
