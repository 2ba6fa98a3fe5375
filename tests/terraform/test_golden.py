"""The way from cloudq.toml to a provider's own settings exists twice, in Python and in HCL. Both must say the same.

Python's is what `cloudq queues create` makes and `cloudq doctor` compares with; HCL's is what Terraform plans.
"""

from __future__ import annotations

import json
from datetime import timedelta

import isodate
import pytest

from cloudq import CloudQ
from cloudq.driver import Part
from cloudq.infra import describe, described
from cloudq_pubsub.options import Options as PubSubOptions
from cloudq_pubsub.provision import subscription
from cloudq_servicebus.settings import settings as servicebus_settings
from cloudq_sqs.options import Options as SqsOptions
from cloudq_sqs.provision import attributes
from support.terraform import CLOUDS, MODULES, planned

#: At least twelve for each provider; what it refuses is left out for it.
QUEUES = {
    "default": {},
    "brief": {"lease": "10s"},
    "slow": {"lease": "5m", "retention": "13d"},
    "odd": {"lease": "90.5s", "retention": "1h30m", "dead_retention": "2h"},
    "urgent": {"priorities": ["high", "normal", "low"]},
    "once": {"max_attempts": 1},
    "stubborn": {"max_attempts": 90},
    "ordered": {"ordered": True},
    "ordered-twice": {"ordered": True, "priorities": ["high", "normal"], "max_attempts": 3},
    "served": {"lease": "2m", "serverless": {"timeout": "20s"}},
    "quiet": {"alarm": {"oldest": 0, "dead": 0}, "dead_retention": "8d"},
    "patient": {"max_attempts": 40, "lease": "45s", "alarm": {"oldest": "6h", "dead": 100}},
    "kept": {"retention": "2d", "scale": {"backlog": 100, "minimum": 2, "maximum": 50}},
    "distinct": {"dedup": "10m", "retention": "1d12h5s", "ordered": True},
}
REFUSED = {"sqs": {"distinct"}, "pubsub": {"distinct"}, "servicebus": {"odd", "quiet"}}


@pytest.fixture(params=list(CLOUDS))
def plan(request, terraform):
    """The planned values of all queues on one cloud, and the application that has them."""
    cloud, scheme = request.param, CLOUDS[request.param]
    app = CloudQ(namespace="shop", queues={name: each for name, each in QUEUES.items() if name not in REFUSED[scheme]})
    target = "https://served.run.app" if cloud == "gcp" else "arn:aws:lambda:us-east-1:1:function:f"
    made = terraform(
        f"modules/{cloud}",
        **MODULES[cloud],
        cloudq=describe(app, *described(app, scheme)),
        functions={"served": {"target": target, "identity": "served"}},
    )
    return cloud, app, planned(made.plan())


def test_python_and_terraform_make_the_same(plan):
    cloud, app, values = plan
    assert len(app.queue_names()) >= 12
    compared = 0
    for name in app.queue_names():
        dead = app.address(name, Part.DEAD)
        for queue in app.addresses(name):
            key = {Part.MAIN: f"{name}/{queue.priority}"}.get(queue.part, name)
            kind = queue.part.value
            if cloud == "aws":
                options = SqsOptions()
                assert values[f'aws_sqs_queue.{kind}["{key}"]']["name"] == options.name(queue)
                wanted = attributes(queue, options, f"arn:aws:sqs:us-east-1:123456789012:{options.name(dead)}")
                assert _sqs(values, kind, key) == wanted
            elif cloud == "gcp":
                topic = f"projects/shop-production/topics/{dead.physical}"
                wanted = subscription(queue, PubSubOptions(), "shop-production", topic)
                found = values[f'google_pubsub_subscription.{kind}["{key}"]']
                assert f"projects/shop-production/subscriptions/{found['name']}" == wanted.name
                assert _pubsub(found) == _written(wanted, dead=queue.part is Part.MAIN)
                assert (len(found["retry_policy"]) == 1) == (name == "served" and queue.part is Part.MAIN)
            elif queue.part is Part.MAIN:
                found = values[f'azurerm_servicebus_queue.main["{key}"]']
                assert found["name"] == queue.physical
                assert _servicebus(found) == servicebus_settings(queue)
            else:
                continue
            compared += 1
    assert compared >= 12


def _sqs(values, kind, key):
    found = values[f'aws_sqs_queue.{kind}["{key}"]']
    native = {
        "VisibilityTimeout": str(found["visibility_timeout_seconds"]),
        "MessageRetentionPeriod": str(found["message_retention_seconds"]),
        "MaximumMessageSize": str(found["max_message_size"]),
        "SqsManagedSseEnabled": str(found["sqs_managed_sse_enabled"]).lower(),
    }
    if found["fifo_queue"]:
        native["FifoQueue"] = "true"
    policy = values.get(f'aws_sqs_queue_redrive_policy.{kind}["{key}"]')
    if policy is not None:
        native["RedrivePolicy"] = json.dumps(json.loads(policy["redrive_policy"]))
    return native


def _pubsub(found):
    kept = ("ack_deadline_seconds", "message_retention_duration", "enable_message_ordering", "enable_exactly_once_delivery")
    return {
        **{name: found[name] for name in kept},
        "never expires": found["expiration_policy"] == [{"ttl": ""}],
        "max_delivery_attempts": [each["max_delivery_attempts"] for each in found["dead_letter_policy"]],
    }


def _written(wanted, *, dead):
    return {
        "ack_deadline_seconds": wanted.ack_deadline_seconds,
        "message_retention_duration": f"{int(wanted.message_retention_duration.total_seconds())}s",
        "enable_message_ordering": wanted.enable_message_ordering,
        "enable_exactly_once_delivery": wanted.enable_exactly_once_delivery,
        "never expires": "expiration_policy" in wanted and "ttl" not in wanted.expiration_policy,
        "max_delivery_attempts": [wanted.dead_letter_policy.max_delivery_attempts] if dead else [],
    }


def _servicebus(found):
    def duration(name) -> timedelta:
        return isodate.parse_duration(found[name])

    same = ("requires_session", "requires_duplicate_detection", "max_delivery_count", "dead_lettering_on_message_expiration")
    return {
        **{name: found[name] for name in same},
        "lock_duration": duration("lock_duration"),
        "duplicate_detection_history_time_window": duration("duplicate_detection_history_time_window"),
        "default_message_time_to_live": duration("default_message_ttl"),
    }
