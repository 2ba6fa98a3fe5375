"""Workers on Azure Service Bus, for KEDA and for Azure Container Apps. No SDK is needed to write them.

Sources: KEDA docs, scaler "Azure Service Bus"; Azure Container Apps docs, scaling rules, and API ContainerApps 2025-07-01.
"""

from __future__ import annotations

from cloudq.manifests import Document, Identity, Source, Trigger, Workload
from cloudq_servicebus.options import read

PLATFORM = "container-apps"
IDENTITY = Identity(
    provider="azure-workload",
    pod_labels={"azure.workload.identity/use": "true"},
    account_annotations={"azure.workload.identity/client-id": "$CLIENT_ID"},
)

#: API ContainerApps, Template.terminationGracePeriodSeconds: the most.
_LONGEST_STOP = 600


def triggers(work: Workload) -> list[Trigger]:
    """Return a trigger for each queue. It counts what is active, which is what waits and what runs; what is scheduled, when it
    is due: there is no delay part. The identity must be allowed to manage (KEDA docs), for only so are counts told.
    """
    return [
        Trigger(name=source.queue.physical, type="azure-servicebus", metadata=_metadata(work, source))
        for source in work.sources
    ]


def _metadata(work: Workload, source: Source) -> dict[str, str]:
    found = read(*work.place)
    return {
        "queueName": found.name(source.queue),
        "namespace": found.namespace.partition(".")[0] or "$NAMESPACE",
        "messageCount": str(source.backlog),
        "activationMessageCount": "0",
    }


def documents(work: Workload) -> dict[str, Document]:
    """Return a container app without ingress, scaled by KEDA rules."""
    probe: Document = {"httpGet": {"path": "/livez", "port": work.health_port}, "timeoutSeconds": 5}
    ready: Document = {**probe, "httpGet": {"path": "/readyz", "port": work.health_port}}
    app: Document = {
        "location": "$LOCATION",
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {"$IDENTITY_ID": {}}},
        "properties": {
            "environmentId": "$ENVIRONMENT_ID",
            "configuration": {"activeRevisionsMode": "Single"},
            "template": {
                "containers": [
                    {
                        "name": "worker",
                        "image": work.image,
                        "command": list(work.command),
                        "env": [
                            *({"name": key, "value": value} for key, value in work.environment().items()),
                            {"name": "AZURE_CLIENT_ID", "value": "$CLIENT_ID"},
                        ],
                        "resources": {"cpu": 0.5, "memory": "1Gi"},
                        "probes": [
                            {**probe, "type": "Startup", "periodSeconds": 2, "failureThreshold": 30},
                            {**probe, "type": "Liveness", "periodSeconds": 10, "failureThreshold": 3},
                            {**ready, "type": "Readiness", "periodSeconds": 5, "failureThreshold": 3},
                        ],
                    }
                ],
                "scale": {
                    "minReplicas": work.minimum,
                    "maxReplicas": work.maximum,
                    "pollingInterval": 15,
                    "cooldownPeriod": 300,
                    "rules": [
                        {
                            "name": trigger.name,
                            "custom": {
                                "type": trigger.type,
                                "metadata": dict(trigger.metadata),
                                "identity": "$IDENTITY_ID",
                            },
                        }
                        for trigger in triggers(work)
                    ],
                },
                "terminationGracePeriodSeconds": min(work.killed, _LONGEST_STOP),
            },
        },
    }
    return {"container-app.json": app}
