"""What the stand-in really makes: queues on a local server, by the vendor's own SDK. Everything else lives in the state alone.

CLOUDQ_STANDIN_AWS is the URL of an SQS server, PUBSUB_EMULATOR_HOST host:port of a Pub/Sub server, CLOUDQ_STANDIN_SERVICEBUS
host:port of a Service Bus administration. Without the variable of a provider, its queues too are only remembered.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import threading
from typing import Any

State = dict[str, Any]

_SQS = {
    "visibility_timeout_seconds": "VisibilityTimeout",
    "message_retention_seconds": "MessageRetentionPeriod",
    "delay_seconds": "DelaySeconds",
    "receive_wait_time_seconds": "ReceiveMessageWaitTimeSeconds",
    "max_message_size": "MaximumMessageSize",
}
_SQS_DOCUMENTS = {
    "aws_sqs_queue_policy": ("policy", "Policy"),
    "aws_sqs_queue_redrive_policy": ("redrive_policy", "RedrivePolicy"),
    "aws_sqs_queue_redrive_allow_policy": ("redrive_allow_policy", "RedriveAllowPolicy"),
}


class Live:
    """The servers, as far as they are named."""

    def __init__(self, provider: State) -> None:
        """With the provider block."""
        self.provider = provider
        self._queues: dict[str, Any] = {}
        if url := os.environ.get("CLOUDQ_STANDIN_AWS"):
            sqs = _Sqs(url, provider.get("region") or "us-east-1")
            self._queues["aws_lambda_event_source_mapping"] = _Mapping(url, provider.get("region") or "us-east-1")
            self._queues["aws_sqs_queue"] = sqs
            self._queues.update({kind: _SqsDocument(sqs, *names) for kind, names in _SQS_DOCUMENTS.items()})
        if os.environ.get("PUBSUB_EMULATOR_HOST"):
            topics, subscriptions = _Topic(), _Subscription()
            self._queues.update({"google_pubsub_topic": topics, "google_pubsub_subscription": subscriptions})
            self._queues["google_pubsub_topic_iam_member"] = _Member(topics.client, "topic")
            self._queues["google_pubsub_subscription_iam_member"] = _Member(subscriptions.client, "subscription")
        if admin := os.environ.get("CLOUDQ_STANDIN_SERVICEBUS"):
            self._queues["azurerm_servicebus_queue"] = _ServiceBusQueue(admin)

    def create(self, kind: str, state: State) -> State:
        return self._queues[kind].create(state) if kind in self._queues else {}

    def read(self, kind: str, state: State | None) -> State | None:
        if state is None or kind not in self._queues:
            return state
        found = self._queues[kind].read(state)
        return None if found is None else {**state, **found}

    def update(self, kind: str, prior: State, state: State) -> State:
        return self._queues[kind].update(prior, state) if kind in self._queues else {}

    def delete(self, kind: str, state: State) -> None:
        if kind in self._queues:
            self._queues[kind].delete(state)

    def data(self, kind: str, config: State) -> State:
        region = self.provider.get("region") or "us-east-1"
        return {**config, **{
            "aws_caller_identity": {"account_id": "123456789012", "id": "123456789012"},
            "aws_partition": {"partition": "aws", "dns_suffix": "amazonaws.com", "id": "aws"},
            "aws_region": {"name": region, "id": region},
        }.get(kind, {})}  # fmt: skip


def _same(live: str | None, prior: str | None) -> str | None:
    """Keep what stands in the state, where the live document says the same in another layout."""
    with contextlib.suppress(TypeError, ValueError):
        if json.loads(live or "") == json.loads(prior or ""):
            return prior
    return live


class _Sqs:
    def __init__(self, url: str, region: str) -> None:
        self.client = _aws("sqs", url, region)

    def create(self, state: State) -> State:
        url = self.client.create_queue(
            QueueName=state["name"],
            Attributes=self._attributes(state, {"FifoQueue": "true"} if state["fifo_queue"] else {}),
            tags=state.get("tags") or {},
        )["QueueUrl"]
        arn = self.attributes(url)["QueueArn"]
        return {"id": url, "url": url, "arn": arn, "policy": "", "redrive_policy": "", "redrive_allow_policy": ""}

    def read(self, state: State) -> State | None:
        try:
            live = self.attributes(state["url"])
        except self.client.exceptions.QueueDoesNotExist:
            return None
        found: State = {name: int(live[native]) for name, native in _SQS.items()}
        found["sqs_managed_sse_enabled"] = live.get("SqsManagedSseEnabled") == "true"
        if state.get("kms_master_key_id") is not None or "KmsMasterKeyId" in live:
            found["kms_master_key_id"] = live.get("KmsMasterKeyId")
        tags = self.client.list_queue_tags(QueueUrl=state["url"]).get("Tags", {})
        return {**found, "tags": tags or state.get("tags"), "tags_all": tags}

    def update(self, prior: State, state: State) -> State:
        self.client.set_queue_attributes(QueueUrl=prior["url"], Attributes=self._attributes(state, {}))
        if state.get("tags"):
            self.client.tag_queue(QueueUrl=prior["url"], Tags=state["tags"])
        return {}

    def delete(self, state: State) -> None:
        self.client.delete_queue(QueueUrl=state["url"])

    def attributes(self, url: str, names: str = "All") -> dict[str, str]:
        return self.client.get_queue_attributes(QueueUrl=url, AttributeNames=[names]).get("Attributes", {})

    def _attributes(self, state: State, also: dict[str, str]) -> dict[str, str]:
        wanted = {native: str(state[name]) for name, native in _SQS.items()} | also
        if state.get("kms_master_key_id"):
            wanted["KmsMasterKeyId"] = state["kms_master_key_id"]
        elif isinstance(state.get("sqs_managed_sse_enabled"), bool):
            wanted["SqsManagedSseEnabled"] = str(state["sqs_managed_sse_enabled"]).lower()
        return wanted


def _aws(service: str, url: str, region: str) -> Any:
    import boto3

    return boto3.client(service, endpoint_url=url, region_name=region, aws_access_key_id="test", aws_secret_access_key="test")


class _Mapping:
    """An event source mapping, as far as the tests look at it."""

    def __init__(self, url: str, region: str) -> None:
        self.client = _aws("lambda", url, region)

    def create(self, state: State) -> State:
        made = self.client.create_event_source_mapping(
            EventSourceArn=state["event_source_arn"],
            FunctionName=state["function_name"],
            BatchSize=int(state["batch_size"]),
            FunctionResponseTypes=state["function_response_types"],
        )
        return {"id": made["UUID"], "uuid": made["UUID"]}

    def read(self, state: State) -> State | None:
        found = self.client.list_event_source_mappings(EventSourceArn=state["event_source_arn"])["EventSourceMappings"]
        live = [each for each in found if each["UUID"] == state["id"]]
        return {"function_response_types": live[0].get("FunctionResponseTypes") or []} if live else None

    def update(self, prior: State, state: State) -> State:
        self.client.update_event_source_mapping(UUID=prior["id"], FunctionResponseTypes=state["function_response_types"])
        return {}

    def delete(self, state: State) -> None:
        self.client.delete_event_source_mapping(UUID=state["id"])


class _SqsDocument:
    """One JSON document of a queue, which Terraform has as a resource of its own."""

    def __init__(self, sqs: _Sqs, name: str, native: str) -> None:
        self.sqs, self.name, self.native = sqs, name, native

    def create(self, state: State) -> State:
        self.sqs.client.set_queue_attributes(QueueUrl=state["queue_url"], Attributes={self.native: state[self.name]})
        return {"id": state["queue_url"]}

    def read(self, state: State) -> State | None:
        try:
            live = self.sqs.attributes(state["queue_url"]).get(self.native)
        except self.sqs.client.exceptions.QueueDoesNotExist:
            return None
        return None if not live else {self.name: _same(live, state[self.name])}

    def update(self, prior: State, state: State) -> State:
        return self.create(state)

    def delete(self, state: State) -> None:
        with contextlib.suppress(self.sqs.client.exceptions.QueueDoesNotExist):
            self.sqs.client.set_queue_attributes(QueueUrl=state["queue_url"], Attributes={self.native: ""})


class _Topic:
    def __init__(self) -> None:
        from google.pubsub_v1 import PublisherClient

        self.client = PublisherClient()

    def create(self, state: State) -> State:
        made = self.client.create_topic(request={"name": _topic(state), "labels": state.get("labels") or {}})
        return {"id": made.name}

    def read(self, state: State) -> State | None:
        from google.api_core.exceptions import NotFound

        try:
            self.client.get_topic(request={"topic": state["id"]})
        except NotFound:
            return None
        return {}

    def update(self, prior: State, state: State) -> State:
        return {}

    def delete(self, state: State) -> None:
        self.client.delete_topic(request={"topic": state["id"]})


def _topic(state: State) -> str:
    return f"projects/{state['project']}/topics/{state['name']}"


class _Subscription:
    """What the tests look at. Pushing and labels are not read back."""

    _UPDATED = ("ack_deadline_seconds", "message_retention_duration", "retry_policy", "dead_letter_policy", "expiration_policy")

    def __init__(self) -> None:
        from google.pubsub_v1 import SubscriberClient

        self.client = SubscriberClient()

    def create(self, state: State) -> State:
        return {"id": self.client.create_subscription(self._wanted(state)).name}

    def read(self, state: State) -> State | None:
        from google.api_core.exceptions import NotFound

        try:
            live = self.client.get_subscription(request={"subscription": state["id"]})
        except NotFound:
            return None
        found: State = {
            "ack_deadline_seconds": live.ack_deadline_seconds,
            "message_retention_duration": f"{int(live.message_retention_duration.total_seconds())}s",
            "enable_message_ordering": live.enable_message_ordering,
            "dead_letter_policy": [],
        }
        if live.dead_letter_policy.dead_letter_topic:
            found["dead_letter_policy"] = [{
                "dead_letter_topic": live.dead_letter_policy.dead_letter_topic,
                "max_delivery_attempts": live.dead_letter_policy.max_delivery_attempts,
            }]  # fmt: skip
        return found

    def update(self, prior: State, state: State) -> State:
        self.client.update_subscription(
            request={
                "subscription": self._wanted(state),
                "update_mask": {"paths": ["ack_deadline_seconds", "dead_letter_policy"]},
            }
        )
        return {}

    def delete(self, state: State) -> None:
        self.client.delete_subscription(request={"subscription": state["id"]})

    def _wanted(self, state: State) -> Any:
        from google.protobuf import duration_pb2
        from google.pubsub_v1 import types

        wanted = types.Subscription(
            name=f"projects/{state['project']}/subscriptions/{state['name']}",
            topic=state["topic"],
            ack_deadline_seconds=state["ack_deadline_seconds"],
            message_retention_duration=duration_pb2.Duration(seconds=int(state["message_retention_duration"].rstrip("s"))),
            enable_message_ordering=bool(state["enable_message_ordering"]),
            enable_exactly_once_delivery=bool(state["enable_exactly_once_delivery"]),
            expiration_policy=types.ExpirationPolicy(),
            labels=state.get("labels") or {},
        )
        for policy in state["dead_letter_policy"]:
            wanted.dead_letter_policy = types.DeadLetterPolicy(**policy)
        for policy in state["retry_policy"]:
            wanted.retry_policy = types.RetryPolicy(
                minimum_backoff=duration_pb2.Duration(seconds=int(policy["minimum_backoff"].rstrip("s"))),
                maximum_backoff=duration_pb2.Duration(seconds=int(policy["maximum_backoff"].rstrip("s"))),
            )
        for push in state["push_config"]:
            token = push["oidc_token"][0]
            wanted.push_config = types.PushConfig(
                push_endpoint=push["push_endpoint"],
                oidc_token=types.PushConfig.OidcToken(
                    service_account_email=token["service_account_email"], audience=token["audience"] or ""
                ),
            )
        return wanted


class _Member:
    """One grant on a topic or a subscription. Terraform makes several at once, and each is a change of the whole policy."""

    _LOCK = threading.Lock()

    def __init__(self, client: Any, kind: str) -> None:
        self.client, self.kind = client, kind

    def create(self, state: State) -> State:
        with self._LOCK:
            policy = self._policy(state)
            policy.bindings.add(role=state["role"], members=[state["member"]])
            self.client.set_iam_policy(request={"resource": self._resource(state), "policy": policy})
        return {"id": f"{self._resource(state)}/{state['role']}/{state['member']}"}

    def read(self, state: State) -> State | None:
        bindings = self._policy(state).bindings
        return {} if any(each.role == state["role"] and state["member"] in each.members for each in bindings) else None

    def update(self, prior: State, state: State) -> State:
        return self.create(state)

    def delete(self, state: State) -> None:
        with self._LOCK:
            policy = self._policy(state)
            kept = [each for each in policy.bindings if not (each.role == state["role"] and state["member"] in each.members)]
            del policy.bindings[:]
            policy.bindings.extend(kept)
            self.client.set_iam_policy(request={"resource": self._resource(state), "policy": policy})

    def _policy(self, state: State) -> Any:
        return self.client.get_iam_policy(request={"resource": self._resource(state)})

    def _resource(self, state: State) -> str:
        name = state[self.kind].rpartition("/")[2]
        return f"projects/{state['project']}/{self.kind}s/{name}"


class _ServiceBusQueue:
    _SETTINGS = {
        "lock_duration": "lock_duration",
        "default_message_ttl": "default_message_time_to_live",
        "duplicate_detection_history_time_window": "duplicate_detection_history_time_window",
        "max_delivery_count": "max_delivery_count",
        "dead_lettering_on_message_expiration": "dead_lettering_on_message_expiration",
        "requires_session": "requires_session",
        "requires_duplicate_detection": "requires_duplicate_detection",
    }

    def __init__(self, admin: str) -> None:
        from azure.core.pipeline.transport import RequestsTransport
        from azure.servicebus.management import ServiceBusAdministrationClient

        class Plain(RequestsTransport):
            def send(self, request: Any, **options: Any) -> Any:
                request.url = request.url.replace("https://", "http://", 1)
                return super().send(request, **options)

        self.client = ServiceBusAdministrationClient.from_connection_string(
            f"Endpoint=sb://{admin};SharedAccessKeyName=local;SharedAccessKey=local;UseDevelopmentEmulator=true;",
            transport=Plain(),
            retry_total=0,
        )

    def create(self, state: State) -> State:
        self.client.create_queue(state["name"], **{native: state[name] for name, native in self._SETTINGS.items()})
        return {"id": f"{state['namespace_id']}/queues/{state['name']}"}

    def read(self, state: State) -> State | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            live = self.client.get_queue(state["name"])
        except ResourceNotFoundError:
            return None
        return {name: self._told(getattr(live, native)) for name, native in self._SETTINGS.items()}

    def _told(self, value: Any) -> Any:
        """Give durations back as Azure does: in the largest units that say them."""
        import isodate

        return isodate.duration_isoformat(value) if isinstance(value, dt.timedelta) else value

    def update(self, prior: State, state: State) -> State:
        live = self.client.get_queue(state["name"])
        for name, native in self._SETTINGS.items():
            setattr(live, native, state[name])
        self.client.update_queue(live)
        return {}

    def delete(self, state: State) -> None:
        self.client.delete_queue(state["name"])
