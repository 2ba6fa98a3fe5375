"""Workers on Amazon SQS, for KEDA and for Amazon ECS. No SDK is needed to write them.

Sources: KEDA docs, scaler "AWS SQS Queue"; API RegisterTaskDefinition and CreateService (Amazon ECS), RegisterScalableTarget
and PutScalingPolicy (Application Auto Scaling), PutMetricAlarm (CloudWatch); SQS guide, CloudWatch metrics.
"""

from __future__ import annotations

import math
from itertools import pairwise
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
#: CloudWatch guide, alarms on metric math: so many metrics at the most.
_METRICS = 10


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
        "volumes": [{"name": "tmp"}],
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
                "mountPoints": [{"sourceVolume": "tmp", "containerPath": "/tmp"}],  # noqa: S108  the one place to write to
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
                        # Needs logs:CreateLogGroup in the execution role, where the group is not there.
                        "awslogs-create-group": "true",
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
    """Return as many workers as the alarm's expression asks for. The bounds are distances from its threshold of 1."""
    count = min(work.maximum, _STEPS)
    bounds = [math.ceil(work.maximum * number / count) for number in range(count + 1)]
    steps: list[dict[str, Any]] = []
    for before, workers in pairwise(bounds):
        step: dict[str, Any] = {"MetricIntervalLowerBound": float(before), "ScalingAdjustment": max(work.minimum, workers)}
        if workers < work.maximum:
            step["MetricIntervalUpperBound"] = float(workers)
        steps.append(step)
    return steps


def _alarm(work: Workload, name: str, comparison: str, periods: int, action: str) -> Document:
    """Return an alarm on how many workers are asked for: of each queue by its own backlog, one for what is due in a delay part.

    A queue that was idle for hours tells nothing: that is taken as 0 (CloudWatch guide, FILL).
    """
    found = read(*work.place)
    metrics: list[dict[str, Any]] = []
    asked: list[str] = []
    for source in work.sources:
        main = source.queue.part is Part.MAIN
        ids = [f"m{len(metrics) + number}" for number in range(2 if main else 1)]
        filled = " + ".join(f"FILL({each}, 0)" for each in ids)
        asked.append(f"CEIL(({filled}) / {source.backlog})" if main else f"IF({filled} > 0, 1, 0)")
        metrics += [
            {
                "Id": each,
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
            for each, kind in zip(ids, ("Visible", "NotVisible"), strict=False)
        ]
    if len(metrics) > _METRICS:
        raise ConfigError(
            f"{len(metrics)} metrics are looked at for {len(work.sources)} queues, and an alarm takes {_METRICS}: write a "
            f"manifest for some of them with --queue."
        )
    expression = asked[0] if len(asked) == 1 else f"MAX([{', '.join(asked)}])"
    return {
        "AlarmName": f"{work.name}-{name}",
        "ComparisonOperator": comparison,
        "Threshold": 1.0,
        "EvaluationPeriods": periods,
        # Where nothing is told, nothing is changed: workers are not taken from work that cannot be seen.
        "TreatMissingData": "notBreaching",
        "Metrics": [*metrics, {"Id": "workers", "Expression": expression, "Label": "workers asked for", "ReturnData": True}],
        "AlarmActions": [action],
    }
