"""Terraform makes the queues, and the program runs on them; what is changed by hand is found, by a plan and by `cloudq doctor`.

On AWS against moto: the complete example with the stand-in, the minimal one with the real provider where a mirror has it.
Pub/Sub and Service Bus against this project's own servers, with the stand-in: topics, subscriptions, their grants and queues
are made there; alarms, identities, roles, keys, the namespace and Lambda's function are only remembered.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from google.protobuf import field_mask_pb2
from google.pubsub_v1 import SubscriberClient, types

from cloudq_pubsub.emulator import Server
from cloudq_servicebus.administration import Administration
from cloudq_servicebus.options import read
from conftest import missing
from support import servicebus
from support.foreign import moto_for_terraform
from support.processes import environment
from support.terraform import EXAMPLES, ROOT, Terraform, copy, real_mirror

PROGRAM = """
from pathlib import Path
from cloudq import CloudQ, Reject

app = CloudQ()
DONE = Path("done.txt")

def note(what):
    with DONE.open("a") as file:
        file.write(what + "\\n")

@app.task(queue="mail")
def send(number: int) -> None:
    if number == 13:
        raise Reject("there is no such address")
    note(f"mail {number}")
"""
MORE = """
@app.task(queue="audit")
def book(number: int) -> None:
    note(f"audit {number}")

def fill():
    for number in range(20):
        send.options(priority=("high", "normal", "low")[number % 3]).enqueue(number)
        book.options(ordering_key="a").enqueue(number)
"""
FEW = """
def fill():
    for number in range(20):
        send.enqueue(number)
"""


@dataclass
class Shop:
    """A project directory: cloudq.toml as the example has it, what Terraform made, and a program."""

    place: Path
    variables: dict[str, str] = field(default_factory=dict)

    def write(self, example: str, made: dict[str, Any], program: str) -> None:
        text = (ROOT / "terraform/examples" / example / "cloudq.toml").read_text()
        # Where the queues are is told by what Terraform made.
        (self.place / "cloudq.toml").write_text(re.sub(r"(?m)^url = .*\n", "", text))
        (self.place / "cloudq.infra.json").write_text(json.dumps(made))
        (self.place / "shop.py").write_text(program)

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.place,
            env=environment(**self.variables),
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def work(self, *queues: str) -> list[str]:
        self.run("-c", "import shop; shop.fill()")
        self.run("-m", "cloudq", "worker", "shop:app", "--burst", *(word for queue in queues for word in ("--queue", queue)))
        return (self.place / "done.txt").read_text().splitlines()

    def doctor(self, code: int = 0) -> str:
        return self.run("-m", "cloudq", "doctor", "shop:app", code=code)


@pytest.fixture
def shop(tmp_path):
    place = tmp_path / "shop"
    place.mkdir()
    return Shop(place)


@pytest.fixture
def moto(monkeypatch):
    with moto_for_terraform() as endpoint:
        yield endpoint


def aws(service: str, endpoint: str, region: str = "eu-west-1") -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106  what a local server takes
    )


def aws_variables(endpoint: str) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def a_function(endpoint: str) -> None:
    """What the example takes as deployed elsewhere."""
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = aws("iam", endpoint).create_role(RoleName="thumbs", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    aws("lambda", endpoint).create_function(
        FunctionName="thumbs", Runtime="python3.11", Role=role, Handler="f.handler", Code={"ZipFile": b"PK\x05\x06" + bytes(18)}
    )


@pytest.mark.timeout(300)
def test_aws_complete_with_the_stand_in(terraform, shop, moto):
    a_function(moto)
    made = terraform("examples/aws-complete", environ={"CLOUDQ_STANDIN_AWS": moto}, **EXAMPLES["aws-complete"])
    made.apply()
    assert not made.changed()

    shop.variables = aws_variables(moto)
    shop.write("aws-complete", made.output("cloudq_config"), PROGRAM + MORE)
    done = shop.work("mail", "audit")
    assert sorted(line for line in done if line.startswith("mail")) == sorted(f"mail {n}" for n in range(20) if n != 13)
    assert [line for line in done if line.startswith("audit")] == [f"audit {number}" for number in range(20)]
    assert "there is no such address" in shop.run("-m", "cloudq", "dlq", "ls", "shop:app")
    shop.doctor()

    sqs, functions = aws("sqs", moto), aws("lambda", moto)
    url = sqs.get_queue_url(QueueName="shop-mail-high")["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "61"})
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.update_event_source_mapping(UUID=mapping["UUID"], FunctionResponseTypes=[])
    said = shop.doctor(code=3)
    assert re.search(r"shop-mail-high +VisibilityTimeout +120 +61", said)
    assert "what failed is deleted" in said
    assert "terraform apply" in said
    assert made.changed()
    made.apply()
    assert not made.changed()
    shop.doctor()


@pytest.mark.timeout(600)
def test_aws_minimal_with_the_real_provider(tmp_path, shop, moto):
    """Each queue takes some 25 s, because the provider reads it back again and again until it stays the same."""
    if shutil.which("terraform") is None:
        missing("terraform", "there is no terraform on the path", installable=False)
    mirror = real_mirror()
    if mirror is None:
        missing("terraform-aws", "no mirror has the real AWS provider: TF_PLUGIN_MIRROR", installable=False)
    made = Terraform(copy("examples/aws-minimal", tmp_path / "real"), mirror)
    endpoints = "\n".join(f'    {service} = "{moto}"' for service in ("sqs", "iam", "sts", "cloudwatch"))
    (made.directory / "provider_override.tf").write_text(
        'provider "aws" {\n  access_key = "test"\n  secret_key = "test"\n  skip_credentials_validation = true\n'
        "  skip_requesting_account_id = true\n  skip_metadata_api_check = true\n"
        f"  endpoints {{\n{endpoints}\n  }}\n}}\n"
    )
    main = made.directory / "main.tf"
    # This version of the provider takes no more, and says so.
    main.write_text(
        main.read_text().replace("  cloudq = var.cloudq\n", "  cloudq            = var.cloudq\n  max_message_bytes = 262144\n")
    )
    made.init()
    made.run("validate", "-no-color").ok()
    made.apply(timeout=300)
    assert not made.changed()

    shop.variables = aws_variables(moto)
    shop.write("aws-minimal", made.output("cloudq_config"), PROGRAM + FEW)
    assert len(shop.work("mail")) == 19
    shop.doctor()

    sqs = aws("sqs", moto)
    url = sqs.get_queue_url(QueueName="shop-mail")["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "61"})
    assert re.search(r"shop-mail +VisibilityTimeout +60 +61", shop.doctor(code=3))
    assert made.changed()


@pytest.mark.timeout(300)
def test_pubsub_complete_with_the_stand_in(terraform, shop, monkeypatch):
    server = Server().start()
    try:
        given = {"PUBSUB_EMULATOR_HOST": server.endpoint}
        made = terraform("examples/gcp-complete", environ=given, **EXAMPLES["gcp-complete"])
        made.apply()
        assert not made.changed()

        shop.variables = given
        shop.write("gcp-complete", made.output("cloudq_config"), PROGRAM + MORE)
        done = shop.work("mail", "audit")
        assert len([line for line in done if line.startswith("mail")]) == 19
        assert [line for line in done if line.startswith("audit")] == [f"audit {number}" for number in range(20)]
        shop.doctor()

        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.endpoint)
        with SubscriberClient() as client:
            name = "projects/shop-production/subscriptions/shop-mail-high"
            client.update_subscription(
                subscription=types.Subscription(name=name, ack_deadline_seconds=61),
                update_mask=field_mask_pb2.FieldMask(paths=["ack_deadline_seconds"]),
            )
            policy = client.get_iam_policy(request={"resource": name})
            del policy.bindings[:]
            client.set_iam_policy(request={"resource": name, "policy": policy})
        said = shop.doctor(code=3)
        assert re.search(r"shop-mail-high +ack_deadline_seconds +120 +61", said)
        assert "what was delivered too often is not moved" in said
        assert made.changed()
        made.apply()
        assert not made.changed()
        shop.doctor()
    finally:
        server.stop()


@pytest.mark.timeout(300)
def test_servicebus_complete_with_the_stand_in(terraform, shop):
    servicebus.need_proton()
    with servicebus.emulated() as emulated:
        place = emulated.place
        given = {"CLOUDQ_STANDIN_SERVICEBUS": place["admin"]}
        made = terraform("examples/azure-complete", environ=given, **EXAMPLES["azure-complete"])
        made.apply()
        assert not made.changed()

        # The name of a namespace leads to Azure alone: elsewhere it has to be said where its servers are.
        shop.variables = {"CLOUDQ_URL": emulated.url}
        shop.write("azure-complete", made.output("cloudq_config"), PROGRAM + MORE)
        done = shop.work("mail", "audit")
        assert len([line for line in done if line.startswith("mail")]) == 19
        assert [line for line in done if line.startswith("audit")] == [f"audit {number}" for number in range(20)]
        shop.doctor()

        client = Administration(read("", place))._client
        queue = client.get_queue("shop-mail")
        queue.lock_duration, queue.auto_delete_on_idle = timedelta(seconds=61), timedelta(days=1)
        client.update_queue(queue)
        said = shop.doctor(code=3)
        assert re.search(r"shop-mail +lock_duration +PT2M +PT1M1S", said)
        assert re.search(r"shop-mail +auto_delete_on_idle +never +P1D", said)
        assert made.changed()
        made.apply()
        assert "lock_duration" not in shop.doctor(code=3), "what Terraform does not declare here stays as it was made"
