"""Workers on Google Cloud Pub/Sub, for KEDA and for Cloud Run worker pools. No SDK is needed to write them.

Sources: KEDA docs, scaler "Prometheus", and its notice of 2025-09-15 that the Pub/Sub scaler goes with Google's MQL; Cloud Run
docs, worker pools and their health checks; README of cloud-run-external-metrics-autoscaling (CREMA), a preview.
"""

from __future__ import annotations

from dataclasses import replace

from cloudq.driver import Part
from cloudq.manifests import WAKES, Document, Identity, Source, Trigger, Workload
from cloudq_pubsub.options import read

PLATFORM = "cloud-run"
IDENTITY = Identity(provider="gcp", account_annotations={"iam.gke.io/gcp-service-account": "$SERVICE_ACCOUNT"})

#: Cloud Run docs, container contract: SIGTERM comes ten seconds before the end. That of worker pools was not found to differ.
_KILLED = 10.0
#: So the worker itself has this long, in seconds: the rest is for its last settlements.
_GRACE = 6.0


def triggers(work: Workload) -> list[Trigger]:
    """Return a trigger for each subscription, in PromQL on Cloud Monitoring, which is minutes behind.

    In a delay part, everything that waits counts, due or not: a worker has to look at it every ten minutes. So as long as
    anything is delayed, one worker is up.
    """
    project = read(*work.place).project or "$PROJECT"
    server = f"https://monitoring.googleapis.com/v1/projects/{project}/location/global/prometheus"
    return [
        Trigger(
            name=source.queue.physical,
            type="prometheus",
            metadata={
                "serverAddress": server,
                "query": _query(work, source),
                "threshold": str(source.backlog),
                "activationThreshold": "0",
                "ignoreNullValues": "true",
            },
        )
        for source in work.sources
    ]


def _query(work: Workload, source: Source) -> str:
    name = read(*work.place).name(source.queue)
    return (
        '{"__name__"="pubsub.googleapis.com/subscription/num_undelivered_messages",'
        f'"monitored_resource"="pubsub_subscription","subscription_id"="{name}"}}'
    )


def documents(work: Workload) -> dict[str, Document]:
    """Return a worker pool, and the configuration of the autoscaler that sets its number of instances.

    A worker pool has no scaling of its own; the autoscaler is a service of yours (CREMA). Where the grace of the settings is
    longer than Cloud Run leaves, the worker is given a shorter one.
    """
    found = read(*work.place)
    own = replace(work, grace=min(work.grace, _GRACE))
    probe: Document = {"httpGet": {"path": "/livez", "port": own.health_port}, "timeoutSeconds": 5}
    pool: Document = {
        "template": {
            "serviceAccount": "$SERVICE_ACCOUNT",
            "containers": [
                {
                    "name": "worker",
                    "image": own.image,
                    "command": list(own.command),
                    "env": [{"name": key, "value": value} for key, value in own.environment().items()],
                    "resources": {"limits": {"cpu": "1", "memory": "512Mi"}},
                    "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 30},
                    "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 3},
                }
            ],
        },
        "scaling": {"manualInstanceCount": own.minimum},
    }
    account = {"name": "own", "spec": {"podIdentity": {"provider": "gcp"}}}
    scaled: Document = {
        "scaleTargetRef": {"name": f"projects/{found.project or '$PROJECT'}/locations/$REGION/workerpools/{own.name}"},
        "minReplicaCount": own.minimum,
        "maxReplicaCount": own.maximum,
        "triggers": [
            {
                # Not PromQL here: this one is tried by its authors, the other is not told of.
                "type": "gcp-pubsub",
                "metadata": {
                    "subscriptionName": found.name(source.queue),
                    "mode": "SubscriptionSize",
                    "value": str(source.backlog if source.queue.part is Part.MAIN else WAKES),
                    "activationValue": "0",
                },
                "authenticationRef": {"name": "own"},
            }
            for source in own.sources
        ],
    }
    crema: Document = {
        "apiVersion": "crema/v1",
        "kind": "CremaConfig",
        "spec": {
            "pollingInterval": 30,
            "triggerAuthentications": [{"metadata": {"name": account["name"]}, "spec": account["spec"]}],
            "scaledObjects": [{"spec": scaled}],
        },
    }
    return {"worker-pool.json": pool, "crema.json": crema}
