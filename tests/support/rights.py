"""Which calls the Terraform modules' roles allow, for suites that note every call: none may ask for more."""

from __future__ import annotations

import re
from pathlib import Path

_MODULES = Path(__file__).parents[2] / "terraform" / "modules"
#: IAM reference, Pub/Sub roles: the methods behind their permissions, as far as a driver calls any.
PUBSUB_ROLES = {
    "roles/pubsub.publisher": {"Publish"},
    "roles/pubsub.subscriber": {"Pull", "Acknowledge", "ModifyAckDeadline"},
    "roles/pubsub.viewer": {"GetTopic", "GetSubscription"},
}
#: What making a queue asks for, which no role of a module may.
_MAKING = {"sqs": {"CreateQueue"}, "pubsub": {"CreateTopic", "CreateSubscription"}}


def allowed(scheme: str) -> set[str]:
    """Return the calls that a producer, a worker, an operator or whoever makes queues may make, batches apart."""
    if scheme == "sqs":
        lists = re.findall(r"actions\s*=\s*\[(.*?)\]", (_MODULES / "aws" / "access.tf").read_text(), re.DOTALL)
        calls = {action for each in lists for action in re.findall(r'"(\w+)"', each)}
    else:
        roles = set(re.findall(r'"(roles/pubsub\.\w+)"', (_MODULES / "gcp" / "access.tf").read_text()))
        calls = {call for role in roles for call in PUBSUB_ROLES[role]}
    return calls | _MAKING[scheme]
