"""What the schemas lack and the tests need: defaults, ranges, conflicts, and which change makes a new one. Written by hand.

From the providers' documentation; what is not here is not checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

State = dict[str, Any]

DEFAULTS: dict[str, State] = {
    "aws_sqs_queue": {
        "content_based_deduplication": False,
        "delay_seconds": 0,
        "fifo_queue": False,
        "max_message_size": 262_144,
        "message_retention_seconds": 345_600,
        "receive_wait_time_seconds": 0,
        "visibility_timeout_seconds": 30,
    },
    "azurerm_servicebus_queue": {
        "batched_operations_enabled": True,
        "duplicate_detection_history_time_window": "PT10M",
        "lock_duration": "PT1M",
        "max_delivery_count": 10,
        "status": "Active",
    },
}

#: A change of one of these makes a new one: what waits in the old one is lost.
FORCES_NEW: dict[str, tuple[str, ...]] = {
    "aws_sqs_queue": ("name", "name_prefix", "fifo_queue"),
    "aws_sqs_queue_policy": ("queue_url",),
    "aws_sqs_queue_redrive_policy": ("queue_url",),
    "aws_sqs_queue_redrive_allow_policy": ("queue_url",),
    "aws_iam_policy": ("name", "description"),
    "aws_lambda_event_source_mapping": ("event_source_arn",),
    "google_pubsub_topic": ("name", "kms_key_name", "project"),
    "google_pubsub_subscription": ("name", "topic", "filter", "enable_message_ordering", "project"),
    "azurerm_servicebus_namespace": ("name", "resource_group_name", "location"),
    "azurerm_servicebus_queue": (
        "name", "namespace_id", "requires_session", "requires_duplicate_detection", "partitioning_enabled",
    ),
    "azurerm_role_assignment": ("scope", "role_definition_name", "principal_id"),
}  # fmt: skip

RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("aws_sqs_queue", "visibility_timeout_seconds"): (0, 43_200),
    ("aws_sqs_queue", "message_retention_seconds"): (60, 1_209_600),
    ("aws_sqs_queue", "delay_seconds"): (0, 900),
    ("aws_sqs_queue", "max_message_size"): (1024, 1_048_576),
    ("aws_lambda_event_source_mapping", "batch_size"): (1, 10_000),
    ("google_pubsub_subscription", "ack_deadline_seconds"): (10, 600),
    ("google_pubsub_subscription", "dead_letter_policy.max_delivery_attempts"): (5, 100),
    ("azurerm_servicebus_queue", "max_delivery_count"): (1, 2000),
}

PATTERNS: dict[tuple[str, str], str] = {
    ("aws_sqs_queue", "name"): r"[a-zA-Z0-9_-]{1,80}|[a-zA-Z0-9_-]{1,75}\.fifo",
    ("google_pubsub_topic", "name"): r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}",
    ("google_pubsub_subscription", "name"): r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}",
    ("azurerm_servicebus_queue", "lock_duration"): r"P(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?",
    ("azurerm_servicebus_queue", "default_message_ttl"): r"P(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?",
    ("azurerm_monitor_metric_alert", "window_size"): "PT1M|PT5M|PT15M|PT30M|PT1H|PT6H|PT12H|P1D",
    ("azurerm_monitor_metric_alert", "frequency"): "PT1M|PT5M|PT15M|PT30M|PT1H",
}


def wrong(kind: str, config: State) -> list[str]:
    """Return what the real provider would refuse of a configuration, as far as it stands here."""
    found = []
    for (of, path), (least, most) in RANGES.items():
        value = _at(config, path) if of == kind else None
        if value is not None and not least <= value <= most:
            found.append(f"{path} = {value} is not in the range {least} to {most}")
    for (of, path), pattern in PATTERNS.items():
        value = _at(config, path) if of == kind else None
        if value is not None and not re.fullmatch(pattern, value):
            found.append(f"{path} = {value!r} does not match {pattern}")
    if kind == "aws_sqs_queue":
        if config.get("sqs_managed_sse_enabled") is not None and config.get("kms_master_key_id") is not None:
            found.append("sqs_managed_sse_enabled conflicts with kms_master_key_id")
        if bool(config.get("fifo_queue")) != str(config.get("name", "")).endswith(".fifo"):
            found.append(f"fifo_queue and the name {config.get('name')!r} contradict")
    return found


def planned(kind: str, state: State) -> State:
    """Return what the real provider would plan beside."""
    if "tags_all" in state and kind.startswith("aws_"):
        state["tags_all"] = state.get("tags") or {}
    if kind.startswith("google_pubsub") and "effective_labels" in state:
        state["effective_labels"] = state["terraform_labels"] = state.get("labels") or {}
    return state


def invented(kind: str, name: str, type_: Any, state: State) -> Any:
    """Return a value for a computed attribute of what is only remembered."""
    text = f"{kind}-{hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()[:12]}"
    own = state.get("name") or state.get("alarm_name") or text
    if name == "arn":
        return f"arn:aws:{kind.split('_')[1]}:us-east-1:123456789012:{own}"
    if kind == "google_pubsub_topic" and name == "id":
        return f"projects/{state['project']}/topics/{own}"
    if kind == "google_pubsub_subscription" and name == "id":
        return f"projects/{state['project']}/subscriptions/{own}"
    if type_ == "string":
        return f"/subscriptions/0/{kind}/{own}" if kind.startswith("azurerm") and name == "id" else f"{own}"
    return {"number": 0, "bool": False}.get(type_) if isinstance(type_, str) else ({} if type_[0] == "map" else [])


def _at(config: State, path: str) -> Any:
    first, _, rest = path.partition(".")
    value = config.get(first)
    if not rest:
        return value
    return _at(value[0], rest) if isinstance(value, list) and value else None
