"""Workers on Amazon SQS, for KEDA and for Amazon ECS. No SDK is needed to write them.

Sources: KEDA docs, scaler "AWS SQS Queue"; API RegisterTaskDefinition and CreateService (Amazon ECS), RegisterScalableTarget
and PutScalingPolicy (Application Auto Scaling), PutMetricAlarm (CloudWatch); SQS guide, CloudWatch metrics.
"""

from __future__ import annotations

import math
from typing import Any

from cloudq.driver import Part
from cloudq.errors import ConfigError
from cloudq.manifests import SPARE, Document, Identity, Source, Trigger, Workload
from cloudq_sqs.options import read

PLATFORM = "ecs"
#: EKS Pod Identity or IAM roles for service accounts: both are "aws" to KEDA.
IDENTITY = Identity(provider="aws", account_annotations={"eks.amazonaws.com/role-arn": "$ROLE_ARN"})

#: docs, Amazon ECS task definition parameters, stopTimeout: the most on Fargate, in seconds.
_LONGEST_STOP = 120
#: API PutScalingPolicy: a step scaling policy has 20 adjustments at the most (Application Auto Scaling quotas).
_STEPS = 20


def triggers(work: Workload) -> list[Trigger]:
    """Return a trigger for each queue, and one for each delay part.

    What runs counts (`scaleOnInFlight`), so that no worker is taken away from a running task; so does what waits, hidden, for
    its next attempt. In the delay part only what can be received counts: a hop is due, and the first worker takes it.
    """
    place, options = work.place
    found = read(place, options)
    region = found.region or "$AWS_REGION"

    def url(source: Source) -> str:
        own = found.urls.get(source.queue.physical)
        return own or f"https://sqs.{region}.amazonaws.com/{found.account or '$AWS_ACCOUNT_ID'}/{found.name(source.queue)}"

    return [
        Trigger(
            name=source.queue.physical,
            type="aws-sqs-queue",
            metadata={
                "queueURL": url(source),
                "awsRegion": region,
                "queueLength": str(source.backlog),
                "activationQueueLength": "0",
                "scaleOnInFlight": "true" if source.queue.part is Part.MAIN else "false",
                "scaleOnDelayed": "false",
            },
        )
        for source in work.sources
    ]


def documents(work: Workload) -> dict[str, Document]:
    """Return, for Amazon ECS on Fargate, the parameters of each call, in the order of the calls.

    Two alarms: one sets the number of workers by the backlog, in steps; one brings it back to the least when nothing is there.
    CloudWatch is a minute or more behind.
    """
    if work.killed > _LONGEST_STOP:
        raise ConfigError(
            f"worker.grace = {work.grace:g}s: ECS on Fargate kills {_LONGEST_STOP} s after SIGTERM at the latest, and the "
            f"worker needs {SPARE} s more than its grace. Set it to {_LONGEST_STOP - SPARE}s or less."
        )
    place, options = work.place
    region = read(place, options).region or "$AWS_REGION"
    target = f"service/$CLUSTER/{work.name}"
    return {
        "1-register-task-definition.json": _task(work, region),
        "2-create-service.json": {
            "cluster": "$CLUSTER",
            "serviceName": work.name,
            "taskDefinition": work.name,
            "desiredCount": work.minimum,
            "launchType": "FARGATE",
            "networkConfiguration": {
                "awsvpcConfiguration": {
                    "subnets": ["$SUBNET"],
                    "securityGroups": ["$SECURITY_GROUP"],
                    "assignPublicIp": "DISABLED",
                }
            },
            "deploymentConfiguration": {
                "deploymentCircuitBreaker": {"enable": True, "rollback": True},
                "minimumHealthyPercent": 100,
                "maximumPercent": 200,
            },
        },
        "3-register-scalable-target.json": {
            "ServiceNamespace": "ecs",
            "ResourceId": target,
            "ScalableDimension": "ecs:service:DesiredCount",
            "MinCapacity": work.minimum,
            "MaxCapacity": work.maximum,
        },
        "4-put-scaling-policy-backlog.json": _policy(work, target, "backlog", _steps(work)),
        "5-put-scaling-policy-idle.json": _policy(
            work, target, "idle", [{"MetricIntervalUpperBound": 0.0, "ScalingAdjustment": work.minimum}]
        ),
        "6-put-metric-alarm-backlog.json": _alarm(work, "backlog", "GreaterThanOrEqualToThreshold", 1, "$POLICY_ARN_BACKLOG"),
        "7-put-metric-alarm-idle.json": _alarm(work, "idle", "LessThanThreshold", 5, "$POLICY_ARN_IDLE"),
    }


def _task(work: Workload, region: str) -> Document:
    return {
        "family": work.name,
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "cpu": "256",
        "memory": "512",
        "executionRoleArn": "$EXECUTION_ROLE_ARN",
        # The worker's role, as the Terraform module makes it.
        "taskRoleArn": "$TASK_ROLE_ARN",
        "containerDefinitions": [
            {
                "name": "worker",
                "image": work.image,
                "essential": True,
                "command": list(work.command[1:]),
                "entryPoint": [work.command[0]],
                "user": f"{work.user}:{work.user}",
                "readonlyRootFilesystem": True,
                "environment": [{"name": key, "value": value} for key, value in work.environment().items()],
                "stopTimeout": work.killed,
                "healthCheck": {
                    "command": ["CMD", "cloudq", "health", "--port", str(work.health_port)],
                    "interval": 30,
                    "timeout": 5,
                    "retries": 3,
                    "startPeriod": 30,
                },
                "linuxParameters": {"capabilities": {"drop": ["ALL"]}},
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {
                        "awslogs-group": f"/ecs/{work.name}",
                        "awslogs-region": region,
                        "awslogs-stream-prefix": "worker",
                    },
                },
            }
        ],
    }


def _policy(work: Workload, target: str, name: str, steps: list[dict[str, Any]]) -> Document:
    return {
        "PolicyName": f"{work.name}-{name}",
        "ServiceNamespace": "ecs",
        "ResourceId": target,
        "ScalableDimension": "ecs:service:DesiredCount",
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ExactCapacity",
            "StepAdjustments": steps,
            "MetricAggregationType": "Maximum",
            "Cooldown": 60,
        },
    }


def _steps(work: Workload) -> list[dict[str, Any]]:
    """Return how many workers for which backlog. The bounds are distances from the alarm's threshold of 1."""
    backlog = min(source.backlog for source in work.sources)
    count = min(work.maximum, _STEPS)
    steps: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        workers = math.ceil(work.maximum * number / count)
        before = math.ceil(work.maximum * (number - 1) / count)
        step: dict[str, Any] = {
            "MetricIntervalLowerBound": float(before * backlog),
            "ScalingAdjustment": max(work.minimum, workers),
        }
        if number < count:
            step["MetricIntervalUpperBound"] = float(workers * backlog)
        steps.append(step)
    return steps


def _alarm(work: Workload, name: str, comparison: str, periods: int, action: str) -> Document:
    """Return an alarm on all that is to be done: what waits and what runs, and what is due in the delay parts."""
    found = read(*work.place)
    metrics: list[dict[str, Any]] = []
    for source in work.sources:
        kinds = ["Visible", "NotVisible"] if source.queue.part is Part.MAIN else ["Visible"]
        for kind in kinds:
            metrics.append(
                {
                    "Id": f"m{len(metrics)}",
                    "ReturnData": False,
                    "MetricStat": {
                        "Metric": {
                            "Namespace": "AWS/SQS",
                            "MetricName": f"ApproximateNumberOfMessages{kind}",
                            "Dimensions": [{"Name": "QueueName", "Value": found.name(source.queue)}],
                        },
                        "Period": 60,
                        "Stat": "Maximum",
                    },
                }
            )
    total = " + ".join(metric["Id"] for metric in metrics)
    return {
        "AlarmName": f"{work.name}-{name}",
        "ComparisonOperator": comparison,
        "Threshold": 1.0,
        "EvaluationPeriods": periods,
        "TreatMissingData": "notBreaching" if name == "backlog" else "breaching",
        "Metrics": [*metrics, {"Id": "total", "Expression": total, "Label": "waiting and running", "ReturnData": True}],
        "AlarmActions": [action],
    }
