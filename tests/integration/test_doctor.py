"""`cloudq doctor` over the wire: queues as they are made are well, and each classic mistake is found and told with a remedy."""

from __future__ import annotations

import json

import pytest
from azure.servicebus.management import ServiceBusAdministrationClient
from botocore.client import BaseClient
from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types

from cloudq.driver import Declared, Part
from support import pubsub, servicebus, sqs

QUEUES = {"mail": {"lease": "30s"}, "audit": {"ordered": True}}


async def found(emulated, app, **declared):
    """What is wrong, as {(queue, setting): (declared, live, mend)}."""
    async with emulated.driver() as driver:
        queues = [Declared(queue, **declared) for name in app.queue_names() for queue in app.addresses(name)]
        checks = await driver.inspect(queues)
    assert len(checks) > 10
    assert all(check.why and check.mend for check in checks if check.ok is False)
    return {(check.queue, check.setting): (check.declared, check.live, check.mend) for check in checks if not check.ok}


async def made(emulated):
    app = emulated.app(**QUEUES)
    app._overrides["namespace"] = "shop"
    await emulated.create()
    assert await found(emulated, app) == {}
    return app


# SQS --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_sqs(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with sqs.emulated() as emulated:
        yield emulated


SQS = {
    "another lease": ("shop-mail", {"VisibilityTimeout": "31"}, "VisibilityTimeout"),
    "a shorter life": ("shop-mail-dlq", {"MessageRetentionPeriod": "345600"}, "MessageRetentionPeriod"),
    "a queue that delays": ("shop-mail", {"DelaySeconds": "5"}, "DelaySeconds"),
    "small messages": ("shop-mail", {"MaximumMessageSize": "65536"}, "MaximumMessageSize"),
    "no encryption": ("shop-mail", {"SqsManagedSseEnabled": "false"}, "encryption"),
    "no net": ("shop-mail", {"RedrivePolicy": ""}, "RedrivePolicy.deadLetterTargetArn"),
    "a net before the retries": (
        "shop-mail",
        {"RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:shop-mail-dlq", "maxReceiveCount": 3}'},
        "RedrivePolicy.maxReceiveCount",
    ),
    "a net behind what waits": (
        "shop-mail-delay",
        {"RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:shop-mail-dlq", "maxReceiveCount": 3}'},
        "RedrivePolicy",
    ),
    "a dead part that lets nobody in": (
        "shop-audit-dlq.fifo",
        {"RedriveAllowPolicy": '{"redrivePermission": "denyAll"}'},
        "RedriveAllowPolicy lets its queues in",
    ),
    "a dead part that lets others in": (
        "shop-mail-dlq",
        {"RedriveAllowPolicy": '{"redrivePermission": "byQueue", "sourceQueueArns": ["arn:aws:sqs:r:1:prod-shop-mail"]}'},
        "RedriveAllowPolicy lets its queues in",
    ),
}


@pytest.mark.parametrize("mistake", SQS)
async def test_sqs(on_sqs, mistake):
    app = await made(on_sqs)
    queue, attributes, setting = SQS[mistake]
    async with on_sqs.driver() as driver:
        client = driver.unwrap(BaseClient)
        url = client.get_queue_url(QueueName=queue)["QueueUrl"]
        client.set_queue_attributes(QueueUrl=url, Attributes=attributes)
    wrong = await found(on_sqs, app)
    assert (queue, setting) in wrong
    assert "aws sqs set-queue-attributes" in wrong[queue, setting][2]


async def test_sqs_a_queue_that_is_missing_and_a_tag_of_another_description(on_sqs):
    app = await made(on_sqs)
    async with on_sqs.driver() as driver:
        client = driver.unwrap(BaseClient)
        client.delete_queue(QueueUrl=client.get_queue_url(QueueName="shop-audit-dlq.fifo")["QueueUrl"])
        client.tag_queue(QueueUrl=client.get_queue_url(QueueName="shop-mail")["QueueUrl"], Tags={"cloudq-config": "old"})
    wrong = await found(on_sqs, app, tag="new")
    assert wrong["shop-mail", "tag cloudq-config"] == ("new", "old", "cloudq infra export, then terraform apply")
    assert ("shop-audit-dlq.fifo", "exists") in wrong
    assert ("shop-audit.fifo", "RedrivePolicy.deadLetterTargetArn") in wrong


async def test_sqs_what_may_not_be_read_is_not_called_well(on_sqs):
    app = await made(on_sqs)
    on_sqs.server.policies = {"test": {"GetQueueUrl"}}
    async with on_sqs.driver() as driver:
        (check,) = await driver.inspect([Declared(app.address("mail", Part.MAIN))])
    assert (check.ok, check.live) == (None, None)
    assert "sqs:GetQueueAttributes" in check.why


TLS = {"Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}


@pytest.mark.parametrize(
    ("statement", "well"),
    [
        ([TLS], True),
        (TLS, True),  # one may stand alone
        ([{**TLS, "Principal": {"AWS": "*"}, "Action": ["SQS:*"]}], True),
        ([{**TLS, "Condition": {"Bool": {"aws:SecureTransport": ["false"]}}}], True),
        ([{**TLS, "Action": "sqs:PurgeQueue"}], False),
        ([{**TLS, "Principal": {"AWS": "arn:aws:iam::1:role/a"}}], False),
        ([{**TLS, "Effect": "Allow"}], False),
        ([], False),
    ],
)
async def test_sqs_plain_http_is_refused_by_the_policy_that_terraform_makes(on_sqs, statement, well):
    app = await made(on_sqs)
    async with on_sqs.driver() as driver:
        client = driver.unwrap(BaseClient)
        url = client.get_queue_url(QueueName="shop-mail")["QueueUrl"]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
        client.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
        client.tag_queue(QueueUrl=url, Tags={"cloudq-config": "new"})
    wrong = await found(on_sqs, app, tag="new")
    assert (("shop-mail", "Policy refuses plain HTTP") not in wrong) is well


async def test_sqs_a_function_that_cannot_be_asked_about(on_sqs, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", "http://127.0.0.1:9")
    app = await made(on_sqs)
    async with on_sqs.driver() as driver:
        checks = await driver.inspect([Declared(app.address("mail", Part.MAIN), served=True)])
    (untold,) = [check for check in checks if check.ok is None]
    assert "FunctionResponseTypes" in untold.setting


# Pub/Sub ----------------------------------------------------------------------------------------------------------------

NAME = f"projects/{pubsub.PROJECT}/subscriptions/shop-mail"
PUBSUB = {
    "another lease": (types.Subscription(name=NAME, ack_deadline_seconds=31), "ack_deadline_seconds"),
    "a shorter life": (
        types.Subscription(name=NAME, message_retention_duration=duration_pb2.Duration(seconds=600)),
        "message_retention_duration",
    ),
    "a retry policy on a pull": (
        types.Subscription(name=NAME, retry_policy=types.RetryPolicy(minimum_backoff=duration_pb2.Duration(seconds=10))),
        "retry_policy",
    ),
    "a subscription that expires": (
        types.Subscription(name=NAME, expiration_policy=types.ExpirationPolicy(ttl=duration_pb2.Duration(seconds=86_400))),
        "expiration_policy.ttl",
    ),
    "no net": (types.Subscription(name=NAME), "dead_letter_policy.dead_letter_topic"),
    "pushed away": (
        types.Subscription(name=NAME, push_config=types.PushConfig(push_endpoint="https://elsewhere.example")),
        "push_config",
    ),
}


@pytest.mark.parametrize("mistake", PUBSUB)
async def test_pubsub(mistake):
    changed, setting = PUBSUB[mistake]
    with pubsub.emulated() as emulated:
        app = await made(emulated)
        async with emulated.driver() as driver:
            client = driver.unwrap(SubscriberAsyncClient)
            mask = field_mask_pb2.FieldMask(paths=[setting.partition(".")[0]])
            await client.update_subscription(subscription=changed, update_mask=mask)
        wrong = await found(emulated, app)
        assert ("shop-mail", setting) in wrong
        assert "gcloud pubsub subscriptions update shop-mail --" in wrong["shop-mail", setting][2]


async def test_pubsub_a_filter_a_topic_that_is_gone_and_grants_that_are_missing():
    with pubsub.emulated() as emulated:
        app = await made(emulated)
        async with emulated.driver() as driver:
            client = driver.unwrap(SubscriberAsyncClient)
            await client.delete_subscription(subscription=NAME)
            dead = f"projects/{pubsub.PROJECT}/topics/shop-mail-dlq"
            await client.create_subscription(
                types.Subscription(
                    name=NAME,
                    topic=f"projects/{pubsub.PROJECT}/topics/shop-mail",
                    filter='attributes.kind = "a"',
                    labels={"cloudq-config": "old"},  # as Terraform makes it: its grants are expected
                    dead_letter_policy=types.DeadLetterPolicy(dead_letter_topic=dead, max_delivery_attempts=45),
                )
            )
            await driver.unwrap(PublisherAsyncClient).delete_topic(topic=f"projects/{pubsub.PROJECT}/topics/shop-audit")
        wrong = await found(emulated, app, tag="new")
        assert ("shop-mail", "filter") in wrong
        assert wrong["shop-mail", "label cloudq-config"][:2] == ("new", "old")
        assert "add-iam-policy-binding shop-mail-dlq --role=roles/pubsub.publisher" in str(wrong)
        assert ("shop-audit", "topic and subscription exist") in wrong


async def test_pubsub_a_dead_topic_that_is_gone_hides_nothing_else():
    with pubsub.emulated() as emulated:
        app = await made(emulated)
        async with emulated.driver() as driver:
            await driver.unwrap(PublisherAsyncClient).delete_topic(topic=f"projects/{pubsub.PROJECT}/topics/shop-mail-dlq")
            checks = await driver.inspect([Declared(queue) for queue in app.addresses("mail")])
        assert len([check for check in checks if check.queue == "shop-mail"]) > 10
        assert any("nowhere to go" in check.why for check in checks)
        assert [check.queue for check in checks if check.setting == "topic and subscription exist"] == ["shop-mail-dlq"]


# Service Bus ------------------------------------------------------------------------------------------------------------

SERVICEBUS = {
    "another lock": ({"lock_duration": "PT31S"}, "lock_duration"),
    "the provider's own net": ({"max_delivery_count": 10}, "max_delivery_count"),
    "expired without a trace": ({"dead_lettering_on_message_expiration": False}, "dead_lettering_on_message_expiration"),
    "deleted when idle": ({"auto_delete_on_idle": "P1D"}, "auto_delete_on_idle"),
    "forwarded": ({"forward_to": "other"}, "forward_to"),
    "dead letters forwarded": ({"forward_dead_lettered_messages_to": "other"}, "forward_dead_lettered_messages_to"),
    "receives nothing": ({"status": "ReceiveDisabled"}, "status"),
}


@pytest.mark.parametrize("mistake", SERVICEBUS)
async def test_servicebus(mistake):
    servicebus.need_proton()
    changed, setting = SERVICEBUS[mistake]
    with servicebus.emulated() as emulated:
        app = await made(emulated)
        async with emulated.driver() as driver:
            client: ServiceBusAdministrationClient = driver._administration._client
            queue = client.get_queue("shop-mail")
            for name, value in changed.items():
                setattr(queue, name, value)
            client.update_queue(queue)
        wrong = await found(emulated, app)
        assert list(wrong) == [("shop-mail", setting)]
        assert "az servicebus queue update -g <group> --namespace-name 127.0.0.1" in wrong["shop-mail", setting][2]


async def test_servicebus_a_queue_that_is_missing():
    servicebus.need_proton()
    with servicebus.emulated() as emulated:
        app = await made(emulated)
        async with emulated.driver() as driver:
            driver._administration._client.delete_queue("shop-audit")
        assert list(await found(emulated, app)) == [("shop-audit", "exists")]


# The command ------------------------------------------------------------------------------------------------------------


def test_the_command_tells_what_is_declared_and_cannot_be(tmp_path):
    import subprocess
    import sys

    from support.processes import environment

    (tmp_path / "shop.py").write_text("from cloudq import CloudQ\napp = CloudQ('sqlite:///q.db', queues={'mail': {}})\n")

    def doctor(**variables):
        done = subprocess.run(
            [sys.executable, "-m", "cloudq", "doctor", "shop:app", "--json"],
            cwd=tmp_path, env=environment(**variables), check=False, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    assert doctor() == (0, [])
    code, checks = doctor(CLOUDQ_QUEUES__MAIL__URL="pubsub://a-project?endpoint=http://127.0.0.1:9")
    assert code == 1, "nobody answers"
    assert checks[0]["ok"] is None
    where = "sqs://eu-west-1?endpoint=http://127.0.0.1:9"
    code, checks = doctor(CLOUDQ_QUEUES__MAIL__URL=where, CLOUDQ_QUEUES__MAIL__RETENTION="30d")
    assert code == 3
    assert "Choose a time between" in checks[0]["why"]
