"""Workers as platforms start them: manifests, written from `cloudq.toml`, that scale on the backlog of the queues.

`workload` gathers what every platform must be told; `kubernetes` writes it for Kubernetes with KEDA, on whatever provider. What
an adapter knows of its provider, and of the platform of its own cloud, is a module in the entry-point group `cloudq.manifests`:
a `Scaling`. Everything is JSON, which each of these tools reads as well as YAML.

What a manifest cannot know is written `$IN_CAPITALS`, for `envsubst` or an editor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol

from cloudq.app import CloudQ
from cloudq.delay import used
from cloudq.driver import Part, Queue
from cloudq.durations import seconds, spoken
from cloudq.errors import ConfigError, nearest
from cloudq.opening import facts_at, parts_of, scheme_of

#: What a worker needs after its grace to flush its last settlements and to close, in seconds (docs/howto/containers.md).
SPARE = 15
#: Of a trigger that only wakes a first worker: no backlog is ever so long that it asks for a second.
WAKES = 1_000_000
_HEALTH_PORT = 8080
_USER = 10001

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A physical queue that workers are started for: one for so many waiting messages, a first one for any."""

    queue: Queue
    backlog: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a platform is to start. Times in seconds; `grace` is the worker's own, `killed` when the platform may kill it."""

    name: str
    image: str
    command: Sequence[str]
    url: str
    sources: Sequence[Source]
    minimum: int
    maximum: int
    grace: float
    namespace: str
    concurrency: int
    processes: int
    health_port: int = _HEALTH_PORT
    user: int = _USER

    @property
    def place(self) -> tuple[str, Mapping[str, str]]:
        """Place and options of the provider URL."""
        return parts_of(self.url)

    @property
    def killed(self) -> int:
        """How long after SIGTERM the platform may kill the worker, at the soonest."""
        return math.ceil(self.grace) + SPARE

    def environment(self) -> dict[str, str]:
        """Return the variables that the worker is started with: all that the manifest goes by, whatever file it has."""
        return {
            "CLOUDQ_URL": self.url,
            "CLOUDQ_NAMESPACE": self.namespace,
            "CLOUDQ_WORKER__CONCURRENCY": str(self.concurrency),
            "CLOUDQ_WORKER__PROCESSES": str(self.processes),
            "CLOUDQ_WORKER__GRACE": spoken(self.grace),
            "CLOUDQ_WORKER__HEALTH_PORT": str(self.health_port),
            "PYTHONUNBUFFERED": "1",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A KEDA trigger: its type, its metadata, which are all text, and what it is called."""

    name: str
    type: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """How a pod is somebody to the cloud: KEDA's provider of identities, and what is read on the pod and its account."""

    provider: str
    pod_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    account_annotations: Mapping[str, str] = field(default_factory=dict[str, str])


class Scaling(Protocol):
    """What an adapter's module `manifests` has."""

    #: The platform of its own cloud, as it is named on the command line.
    PLATFORM: str
    IDENTITY: Identity

    @staticmethod
    def triggers(work: Workload) -> list[Trigger]:
        """Return what KEDA is to look at: each queue, and the delay part, whose messages need a worker to be forwarded."""
        ...

    @staticmethod
    def documents(work: Workload) -> dict[str, Document]:
        """Return the files for the platform of its own cloud, by name."""
        ...


def platforms() -> list[str]:
    """Return the names of the platforms that there are manifests for."""
    return ["kubernetes", *sorted(_scaling(entry.name).PLATFORM for entry in entry_points(group="cloudq.manifests"))]


def manifests(work: Workload, platform: str) -> dict[str, Document]:
    """Return the files for a platform, by name. ConfigError: it cannot scale on this provider's queues."""
    scheme = scheme_of(work.url)
    if work.place[0] == "local" or scheme not in {entry.name for entry in entry_points(group="cloudq.manifests")}:
        raise ConfigError(
            f"the queues are at {work.url}, whose backlog no platform can see. Set CLOUDQ_URL to a managed provider."
        )
    scaling = _scaling(scheme)
    if platform == "kubernetes":
        return {"kubernetes.json": kubernetes(work, scaling.triggers(work), scaling.IDENTITY)}
    if platform != scaling.PLATFORM:
        raise ConfigError(
            f"the manifests for {platform} scale on queues of its own cloud, and these are at {work.url}. There is kubernetes, "
            f"and {scaling.PLATFORM}."
        )
    return scaling.documents(work)


def workload(app: CloudQ, *, image: str, command: Sequence[str], queues: Sequence[str] = (), name: str = "") -> Workload:
    """Return the workload of these queues; by default, of all that workers serve. ConfigError: none, or of two providers."""
    every = app.queue_names()
    served = [each for each in every if app.settings.queue(each).serverless is None]
    for each in queues:
        if each not in every:
            raise ConfigError(f"there is no queue {each!r}.{nearest(each, every)}")
        if each not in served:
            raise ConfigError(f"the queue {each!r} is declared for a function: workers serve {', '.join(served) or 'none'}.")
    if not served:
        raise ConfigError("no queue is left for workers: each is declared for a function ([queues.<name>.serverless]).")
    names = list(queues) or served
    if len(names) < len(every):
        command = [*command, *(word for each in names for word in ("--queue", each))]
    urls = {app.url_of(each) for each in names}
    if len(urls) != 1:
        raise ConfigError(f"a manifest scales on one provider, and there is {', '.join(sorted(urls))}: choose with --queue.")
    (url,) = urls
    facts = facts_at(url)
    worker = app.settings.worker
    sources: list[Source] = []
    for each in names:
        backlog = app.settings.queue(each).scale.backlog * worker.processes
        parts = app.addresses(each) if facts is None else used(app.addresses(each), facts.limits)
        sources += [
            Source(queue=part, backlog=backlog if part.part is Part.MAIN else WAKES)
            for part in parts
            if part.part is not Part.DEAD
        ]
    scales = [app.settings.queue(each).scale for each in names]
    if len({scale.maximum for scale in scales}) > 1:
        said = ", ".join(f"{name} {scale.maximum}" for name, scale in zip(names, scales, strict=True))
        raise ConfigError(
            f"scale.maximum differs ({said}), and one worker serves all of these queues: make them the same, or write a "
            f"manifest for each with --queue."
        )
    return Workload(
        name=name or f"{app.settings.namespace}-worker",
        image=image,
        command=command,
        url=url,
        sources=sources,
        minimum=max(scale.minimum for scale in scales),
        maximum=scales[0].maximum,
        grace=seconds(worker.grace),
        namespace=app.settings.namespace,
        concurrency=worker.concurrency,
        processes=worker.processes,
        health_port=worker.health_port or _HEALTH_PORT,
    )


def kubernetes(work: Workload, triggers: Sequence[Trigger], identity: Identity) -> Document:
    """Return a Deployment, its ServiceAccount, and what KEDA scales it by, as one list."""
    labels = {"app.kubernetes.io/name": work.name, "app.kubernetes.io/component": "worker"}
    meta: Document = {"name": work.name, "labels": labels}
    # A worker with several processes asks each of them, and gives it two seconds.
    probe = {"httpGet": {"path": "/livez", "port": "health"}, "timeoutSeconds": 5}
    container: Document = {
        "name": "worker",
        "image": work.image,
        "command": list(work.command),
        "env": [{"name": key, "value": value} for key, value in work.environment().items()],
        "ports": [{"name": "health", "containerPort": work.health_port}],
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 30},
        # It stands still for half a minute before it is no longer alive, and then three times in a row.
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 3},
        "readinessProbe": {**probe, "httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  the one place where a task may write
    }
    pod: Document = {
        "serviceAccountName": work.name,
        # The worker's own grace comes first.
        "terminationGracePeriodSeconds": work.killed,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": work.user,
            "runAsGroup": work.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    account = {**meta, "annotations": dict(identity.account_annotations)} if identity.account_annotations else meta
    deployment = {
        # No number of replicas: that is KEDA's to say, and an apply must not reset it.
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": {**labels, **identity.pod_labels}}, "spec": pod},
    }
    scaled = {
        "scaleTargetRef": {"name": work.name},
        "minReplicaCount": work.minimum,
        "maxReplicaCount": work.maximum,
        "pollingInterval": 15,
        "cooldownPeriod": 300,
        "triggers": [
            {
                "name": trigger.name,
                "type": trigger.type,
                "metadata": dict(trigger.metadata),
                "authenticationRef": {"name": work.name},
            }
            for trigger in triggers
        ],
    }
    items: list[Document] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment},
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "TriggerAuthentication",
            "metadata": meta,
            "spec": {"podIdentity": {"provider": identity.provider}},
        },
        {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": meta, "spec": scaled},
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _scaling(scheme: str) -> Scaling:
    (entry,) = [entry for entry in entry_points(group="cloudq.manifests") if entry.name == scheme]
    found: Scaling = entry.load()
    return found
