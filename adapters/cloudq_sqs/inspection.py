"""How the queues that there are differ from those that are declared, for `cloudq doctor`. Only reads.

Beside the settings themselves it looks for what loses work on SQS without a word: a redrive policy on the delay part, a dead
part that refuses its queue, a function whose failures are deleted because it may not name them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import botocore.exceptions as sdk

from cloudq.driver import Check, Declared, Part
from cloudq_sqs.errors import translate
from cloudq_sqs.options import Options, is_fifo
from cloudq_sqs.provision import attributes, existing, read

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

#: What a queue has of its own accord where nothing is said (API SetQueueAttributes).
_UNSAID = {"FifoQueue": "false", "DelaySeconds": "0"}
_TLS = "aws:SecureTransport"
#: API ListEventSourceMappings, State.
_OFF = ("Disabled", "Disabling", "Deleting")
#: What older versions of the Terraform provider set at the most.
_ENOUGH = 262_144
_WHY = {
    "VisibilityTimeout": "other receivers, functions above all, get a task again while it runs, or wait too long after a crash",
    "MessageRetentionPeriod": "a task is deleted at the end of it, whether it was run or not",
    "MaximumMessageSize": "tasks that fit everywhere else are refused here",
    "FifoQueue": "a queue keeps its kind for ever; tasks would lose their order, or sends fail",
    "DelaySeconds": "every task waits for so long before a worker sees it",
    "encryption": "what waits is not encrypted at rest",
}

Answer = Mapping[str, str]


def inspect(client: SQSClient, options: Options, functions: Callable[[], Any], queues: Sequence[Declared]) -> list[Check]:
    """Compare each queue. `functions` makes a client of Lambda, which is asked only where a function is declared."""
    checks: list[Check] = []
    dead_arns: dict[str, str] = {}
    # For the vendor's own command, which does not know what the URL says.
    where = f"--region {client.meta.region_name}" + (f" --endpoint-url {options.endpoint}" if options.endpoint else "")
    # Lambda is not where the URL's endpoint is, unless the environment says so.
    local = bool(options.endpoint) and not {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_LAMBDA"} & set(os.environ)
    for declared in sorted(queues, key=lambda declared: declared.queue.part is not Part.DEAD):
        queue, name = declared.queue, options.name(declared.queue)
        try:
            url = existing(client, name)
            if url is None:
                checks.append(
                    Check.compare(
                        name,
                        "exists",
                        declared=True,
                        live=False,
                        why="tasks cannot be sent to it, or given up",
                        mend="terraform apply, or for development: cloudq queues create",
                    )
                )
                continue
            live = read(client, url, "All")
            tags = client.list_queue_tags(QueueUrl=url).get("Tags", {})
        except (sdk.BotoCoreError, sdk.ClientError) as error:
            told = translate(error, getattr(error, "operation_name", "GetQueueAttributes"), name)
            checks.append(Check.untold(name, "all settings", "readable", str(told)))
            continue
        if queue.part is Part.DEAD:
            dead_arns[queue.logical] = live["QueueArn"]
        one = _One(name, url, where, live, tags)
        wanted: Answer = {str(key): value for key, value in attributes(queue, options, "arn").items()}
        checks += one.settings(wanted, options)
        checks += one.dead_letters(declared, options, dead_arns.get(queue.logical, ""), wanted)
        if "cloudq-config" in tags:  # made by Terraform
            checks.append(one.tls())
            if declared.tag:
                checks.append(one.tag(declared.tag))
        if declared.served and queue.part is not Part.DEAD and not local:
            checks += _functions(functions, name, live["QueueArn"])
    return checks


class _One:
    """One queue as it is."""

    def __init__(self, name: str, url: str, where: str, live: Answer, tags: Answer) -> None:
        self.name, self.url, self.live = name, url, live
        self.where, self.tags = where, tags

    def settings(self, wanted: Answer, options: Options) -> list[Check]:
        """Compare what CreateQueue sets."""
        kept = {key: value for key, value in wanted.items() if key in _WHY} | {"DelaySeconds": "0"}
        del kept["MaximumMessageSize"]
        kept.setdefault("FifoQueue", "false")
        found = [
            self._compare(key, value, self.live.get(key, _UNSAID.get(key, "-")), _WHY[key])
            for key, value in sorted(kept.items())
        ]
        size = int(self.live.get("MaximumMessageSize", 0))
        mend = self._mend("MaximumMessageSize", wanted["MaximumMessageSize"])
        found.append(
            Check(
                queue=self.name,
                setting="MaximumMessageSize",
                declared=f"{_ENOUGH} or more",
                live=str(size),
                ok=size >= _ENOUGH,
                why="" if size >= _ENOUGH else _WHY["MaximumMessageSize"],
                mend="" if size >= _ENOUGH else mend,
            )
        )
        if options.sse != "off":
            encrypted = self.live.get("SqsManagedSseEnabled") == "true" or bool(self.live.get("KmsMasterKeyId"))
            mend = self._mend("SqsManagedSseEnabled", "true")
            found.append(
                Check.compare(self.name, "encryption", declared=True, live=encrypted, why=_WHY["encryption"], mend=mend)
            )
        return found

    def dead_letters(self, declared: Declared, options: Options, dead_arn: str, wanted: Answer) -> list[Check]:
        """Compare the net: it hangs behind the queue, at the declared count, and nowhere else."""
        live = _document(self.live.get("RedrivePolicy"))
        if declared.queue.part is Part.MAIN:
            count = json.loads(wanted["RedrivePolicy"])["maxReceiveCount"] if "RedrivePolicy" in wanted else None
            why = "SQS moves tasks in the middle of their retries, or poison for ever comes back"
            policy = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": count})
            mend = self._mend("RedrivePolicy", policy)
            return [
                self._say("RedrivePolicy.maxReceiveCount", count, _number(live.get("maxReceiveCount")), why, mend),
                self._say(
                    "RedrivePolicy.deadLetterTargetArn",
                    dead_arn or "missing",
                    live.get("deadLetterTargetArn", "none"),
                    why,
                    mend,
                ),
            ]
        why = "each look at a message counts, and SQS would move what only waits"
        # Not Terraform's to mend: it makes no such policy here, and would not take away what somebody else has made.
        mend = self._command("RedrivePolicy", "")
        found = [self._say("RedrivePolicy", "none", "none" if not live else json.dumps(live), why, mend)]
        if declared.queue.part is Part.DEAD:
            allow = _document(self.live.get("RedriveAllowPolicy"))
            sources = {str(arn).rpartition(":")[2] for arn in allow.get("sourceQueueArns", ())}
            ours = {f"{options.prefix}{each}{'.fifo' if is_fifo(declared.queue) else ''}" for each in declared.queue.mains}
            permission = allow.get("redrivePermission", "allowAll")
            denied = permission == "denyAll" or (permission == "byQueue" and not ours <= sources)
            why = "SQS cannot move poison here, and nobody is told"
            mend = self._mend("RedriveAllowPolicy", json.dumps({"redrivePermission": "allowAll"}))
            found.append(self._say("RedriveAllowPolicy lets its queues in", declared=True, live=not denied, why=why, mend=mend))
        return found

    def tls(self) -> Check:
        """Look for the statement that refuses what comes without TLS."""
        refused = any(
            statement.get("Effect") == "Deny"
            and any(principal in ("*", {"AWS": "*"}, {"AWS": ["*"]}) for principal in _listed(statement.get("Principal")))
            and any(action in ("*", "sqs:*", "SQS:*") for action in _listed(statement.get("Action")))
            and "false" in [str(v).lower() for v in _listed(statement.get("Condition", {}).get("Bool", {}).get(_TLS))]
            for statement in _listed(_document(self.live.get("Policy")).get("Statement"))
        )
        why = "what is sent over plain HTTP is accepted"
        return self._say("Policy refuses plain HTTP", declared=True, live=refused, why=why, mend="terraform apply")

    def tag(self, wanted: str) -> Check:
        """Compare the description it was made of."""
        why = "cloudq.toml was changed after the last apply, or the apply was of another one"
        return self._say(
            "tag cloudq-config", wanted, self.tags["cloudq-config"], why, "cloudq infra export, then terraform apply"
        )

    def _compare(self, key: str, wanted: str, live: str, why: str) -> Check:
        mend = "make a new queue: this cannot be changed" if key == "FifoQueue" else self._mend(key, wanted)
        return self._say(key, wanted, live, why, mend)

    def _say(self, setting: str, declared: object, live: object, why: str, mend: str) -> Check:
        return Check.compare(self.name, setting, declared, live, why=why, mend=mend)

    def _mend(self, key: str, value: str) -> str:
        return "terraform apply" if "cloudq-config" in self.tags else self._command(key, value)

    def _command(self, key: str, value: str) -> str:
        asked = json.dumps({key: value})
        return f"aws sqs set-queue-attributes {self.where} --queue-url {self.url} --attributes '{asked}'"


def _functions(client: Callable[[], Any], name: str, arn: str) -> list[Check]:
    """Find what hands the queue to functions: each must let them say which messages failed."""
    setting = "FunctionResponseTypes of its functions"
    try:
        pages = client().get_paginator("list_event_source_mappings").paginate(EventSourceArn=arn)
        mappings = [mapping for page in pages for mapping in page["EventSourceMappings"] if mapping["State"] not in _OFF]
    except (sdk.BotoCoreError, sdk.ClientError) as error:
        return [Check.untold(name, setting, "ReportBatchItemFailures", str(translate(error, "ListEventSourceMappings", name)))]
    if not mappings:
        why = "[queues.<name>.serverless] is declared, and no function is called: there is no mapping that is enabled"
        return [Check.compare(name, "event source mappings", "one or more", "none", why=why, mend="terraform apply")]
    why = "the function's list of failures is ignored, and what failed is deleted"
    wanted = "ReportBatchItemFailures"
    return [
        Check.compare(
            name,
            f"FunctionResponseTypes of {mapping['FunctionArn']}",
            wanted,
            ", ".join(mapping.get("FunctionResponseTypes", [])) or "none",
            why=why,
            mend=f"aws lambda update-event-source-mapping --uuid {mapping['UUID']} --function-response-types {wanted}",
        )
        for mapping in mappings
    ]


def _listed(value: Any) -> list[Any]:
    """Return what IAM lets be written as one or as several, as several."""
    return [] if value is None else [*value] if isinstance(value, list) else [value]


def _document(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else "none" if value is None else value
