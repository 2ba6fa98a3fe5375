"""One script of requests, on the emulator, on moto and on LocalStack: every difference is listed here, with who is right.

What is compared is what a client can see: that it was done, or the code of the error, and figures that do not vary.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from cloudq_sqs.emulator import Server
from conftest import missing
from support.foreign import LOCALSTACK, localstack, moto

#: By step, who differs from the emulator, and why. "model" is the service model, "guide" the developer guide.
DIFFERENCES: dict[str, dict[str, str]] = {
    "moto": {
        "fifo duplicate": "moto forgets what was deleted: model, SendMessage, MessageDeduplicationId: for 5 minutes",
        "attributes count toward the size": "moto counts the body alone: model, SendMessage: attributes included",
        "a character that XML has not": "moto takes it: model, SendMessage: InvalidMessageContents",
        "change the visibility of what is not in flight": "moto takes it: model, MessageNotInflight",
        "delete with an old handle": "moto deletes: model, DeleteMessage: might not be deleted; the emulator never does",
        "move task": "moto has none",
        "a dead letter's source": "moto does not tell it: model, DeadLetterQueueSourceArn",
    },
    "localstack": {
        "a delay of 901 s": "LocalStack takes it: model, SendMessage: 0 to 900",
        "a visibility of 43,201 s": "LocalStack takes it: model, ChangeMessageVisibility: 0 to 43,200",
        "change the visibility of what is not in flight": "LocalStack takes it: model, MessageNotInflight",
        "delete with an old handle": "LocalStack deletes: model, DeleteMessage: might not be deleted; the emulator never does",
        "move task": "LocalStack goes on counting: guide, redrive: a new message; which it is on the service was not seen",
    },
}


class Script:
    """The steps, in order. Each returns what is compared."""

    def __init__(self, endpoint: str) -> None:
        self.sqs = boto3.client(
            "sqs", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test",  # noqa: S106  none is looked at
            config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        self.count = 0

    def run(self) -> dict[str, Any]:
        return {name: self.outcome(step) for name, step in STEPS.items()}

    def outcome(self, step: Callable[[Script], Any]) -> Any:
        try:
            return step(self)
        except ClientError as error:
            return f"refused: {error.response['Error']['Code']}"
        except (ValueError, IndexError):  # of the one message that was to be received
            return "nothing was received"

    def queue(self, fifo: bool = False, **attributes: str) -> str:
        self.count += 1
        name = f"d{self.count}" + (".fifo" if fifo else "")
        if fifo:
            attributes["FifoQueue"] = "true"
        return self.sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "1", **attributes})["QueueUrl"]

    def send(self, url: str, body: str = "x", **more: Any) -> Any:
        return self.sqs.send_message(QueueUrl=url, MessageBody=body, **more)

    def receive(self, url: str, **more: Any) -> list[Any]:
        wanted = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"], "MaxNumberOfMessages": 10}
        return self.sqs.receive_message(QueueUrl=url, **{**wanted, "WaitTimeSeconds": 2, **more}).get("Messages", [])

    def arn(self, url: str) -> str:
        return self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


STEPS: dict[str, Callable[[Script], Any]] = {}


def step(name: str) -> Callable[[Callable[[Script], Any]], Callable[[Script], Any]]:
    def add(function: Callable[[Script], Any]) -> Callable[[Script], Any]:
        STEPS[name] = function
        return function

    return add


@step("send and receive")
def _(s: Script) -> Any:
    url = s.queue()
    attributes = {"n": {"DataType": "Number", "StringValue": "7"}, "b": {"DataType": "Binary.x", "BinaryValue": b"\x00"}}
    sent = s.send(url, "größe", MessageAttributes=attributes)
    (got,) = s.receive(url)
    told = got["Attributes"]
    same = got["MD5OfBody"] == sent["MD5OfMessageBody"]
    return got["Body"], got["MessageAttributes"], same, got["MD5OfMessageAttributes"], told["ApproximateReceiveCount"]


@step("a batch with a bad entry")
def _(s: Script) -> Any:
    url = s.queue()
    s.send(url)
    (got,) = s.receive(url)
    done = s.sqs.delete_message_batch(
        QueueUrl=url, Entries=[{"Id": "a", "ReceiptHandle": got["ReceiptHandle"]}, {"Id": "b", "ReceiptHandle": "bad"}]
    )
    return [each["Id"] for each in done["Successful"]], [(each["Id"], each["Code"]) for each in done["Failed"]]


@step("an empty batch")
def _(s: Script) -> Any:
    return s.sqs.send_message_batch(QueueUrl=s.queue(), Entries=[])


@step("eleven entries")
def _(s: Script) -> Any:
    return s.sqs.send_message_batch(QueueUrl=s.queue(), Entries=[{"Id": str(n), "MessageBody": "x"} for n in range(11)])


@step("an id twice")
def _(s: Script) -> Any:
    return s.sqs.send_message_batch(QueueUrl=s.queue(), Entries=[{"Id": "a", "MessageBody": "x"}] * 2)


@step("a batch over a mebibyte")
def _(s: Script) -> Any:
    entries = [{"Id": str(n), "MessageBody": "x" * 600_000} for n in range(2)]
    return s.sqs.send_message_batch(QueueUrl=s.queue(), Entries=entries)


@step("attributes count toward the size")
def _(s: Script) -> Any:
    s.send(s.queue(), "x" * 1_000_000, MessageAttributes={"a": {"DataType": "String", "StringValue": "y" * 60_000}})


@step("a character that XML has not")
def _(s: Script) -> Any:
    s.send(s.queue(), "\x02")


@step("a queue that is not there")
def _(s: Script) -> Any:
    s.sqs.get_queue_url(QueueName="none")


@step("a delay of 901 s")
def _(s: Script) -> Any:
    s.send(s.queue(), DelaySeconds=901)


@step("a delay of a message in a FIFO queue")
def _(s: Script) -> Any:
    s.send(s.queue(fifo=True), DelaySeconds=1, MessageGroupId="a", MessageDeduplicationId="1")


@step("a wait of 21 s")
def _(s: Script) -> Any:
    s.receive(s.queue(), WaitTimeSeconds=21)


@step("eleven messages")
def _(s: Script) -> Any:
    s.receive(s.queue(), MaxNumberOfMessages=11)


@step("a visibility of 43,201 s")
def _(s: Script) -> Any:
    url = s.queue(VisibilityTimeout="30")
    s.send(url)
    (got,) = s.receive(url)
    s.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"], VisibilityTimeout=43_201)


@step("a delay")
def _(s: Script) -> Any:
    url = s.queue()
    s.send(url, DelaySeconds=1)
    early = s.receive(url, WaitTimeSeconds=0)
    return early, len(s.receive(url, WaitTimeSeconds=5))


@step("a visibility that ends")
def _(s: Script) -> Any:
    url = s.queue()
    s.send(url)
    s.receive(url)
    hidden = s.receive(url, WaitTimeSeconds=0)
    (again,) = s.receive(url, WaitTimeSeconds=5)
    return hidden, again["Attributes"]["ApproximateReceiveCount"]


@step("give back at once")
def _(s: Script) -> Any:
    url = s.queue(VisibilityTimeout="30")
    s.send(url)
    (got,) = s.receive(url)
    s.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"], VisibilityTimeout=0)
    return [each["Attributes"]["ApproximateReceiveCount"] for each in s.receive(url)]


@step("change the visibility of what is not in flight")
def _(s: Script) -> Any:
    url = s.queue()
    s.send(url)
    (got,) = s.receive(url)
    time.sleep(2.2)  # its visibility timeout of a second ends
    s.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"], VisibilityTimeout=30)


@step("delete with an old handle")
def _(s: Script) -> Any:
    url = s.queue()
    s.send(url)
    (old,) = s.receive(url)
    s.receive(url, WaitTimeSeconds=5)
    s.sqs.delete_message(QueueUrl=url, ReceiptHandle=old["ReceiptHandle"])
    return len(s.receive(url, WaitTimeSeconds=5))


@step("delete twice")
def _(s: Script) -> Any:
    url = s.queue()
    s.send(url)
    (got,) = s.receive(url)
    for _ in range(2):
        s.sqs.delete_message(QueueUrl=url, ReceiptHandle=got["ReceiptHandle"])


@step("redrive after two receives")
def _(s: Script) -> Any:
    dead = s.queue()
    url = s.queue(RedrivePolicy=f'{{"deadLetterTargetArn": "{s.arn(dead)}", "maxReceiveCount": 2}}')
    s.send(url)
    counts = [s.receive(url, WaitTimeSeconds=5)[0]["Attributes"]["ApproximateReceiveCount"] for _ in range(2)]
    time.sleep(2.2)  # the second visibility timeout ends
    s.receive(url, WaitTimeSeconds=0)
    (letter,) = s.receive(dead, WaitTimeSeconds=5)
    return counts, letter["Attributes"]["ApproximateReceiveCount"]


@step("a dead letter's source")
def _(s: Script) -> Any:
    dead = s.queue()
    url = s.queue(RedrivePolicy=f'{{"deadLetterTargetArn": "{s.arn(dead)}", "maxReceiveCount": 1}}')
    s.send(url)
    s.receive(url)
    time.sleep(2.2)  # as above
    s.receive(url, WaitTimeSeconds=0)
    (letter,) = s.receive(dead, WaitTimeSeconds=5)
    return "DeadLetterQueueSourceArn" in letter["Attributes"]


@step("move task")
def _(s: Script) -> Any:
    dead = s.queue()
    url = s.queue(RedrivePolicy=f'{{"deadLetterTargetArn": "{s.arn(dead)}", "maxReceiveCount": 1}}')
    s.send(dead)
    s.sqs.start_message_move_task(SourceArn=s.arn(dead), DestinationArn=s.arn(url))
    (got,) = s.receive(url, WaitTimeSeconds=5)
    return got["Attributes"]["ApproximateReceiveCount"]


@step("fifo order and group lock")
def _(s: Script) -> Any:
    url = s.queue(fifo=True, VisibilityTimeout="30")
    for number, group in enumerate("aab"):
        s.send(url, str(number), MessageGroupId=group, MessageDeduplicationId=str(number))
    (first,) = s.receive(url, MaxNumberOfMessages=1)
    second = s.receive(url, MaxNumberOfMessages=1)
    s.sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    third = s.receive(url, MaxNumberOfMessages=1)
    return first["Body"], [each["Body"] for each in second], [each["Body"] for each in third]


@step("fifo duplicate")
def _(s: Script) -> Any:
    url = s.queue(fifo=True)
    for _ in range(2):
        s.send(url, MessageGroupId="a", MessageDeduplicationId="same")
    got = s.receive(url, VisibilityTimeout=30)
    s.sqs.delete_message(QueueUrl=url, ReceiptHandle=got[0]["ReceiptHandle"])
    s.send(url, MessageGroupId="a", MessageDeduplicationId="same")
    return len(got), len(s.receive(url, WaitTimeSeconds=0))


@step("fifo sequence number")
def _(s: Script) -> Any:
    return bool(s.send(s.queue(fifo=True), MessageGroupId="a", MessageDeduplicationId="1").get("SequenceNumber"))


@step("fifo without a group")
def _(s: Script) -> Any:
    s.send(s.queue(fifo=True), MessageDeduplicationId="1")


@step("a tenant on a standard queue")
def _(s: Script) -> Any:
    url = s.queue()
    s.send(url, MessageGroupId="acme")
    return s.receive(url)[0]["Attributes"]["MessageGroupId"]


@step("counts")
def _(s: Script) -> Any:
    url = s.queue(VisibilityTimeout="30")
    for number in range(3):
        s.send(url, DelaySeconds=30 * (number == 2))
    s.receive(url, MaxNumberOfMessages=1)
    names = [f"ApproximateNumberOfMessages{what}" for what in ("", "NotVisible", "Delayed")]
    return s.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]


@pytest.fixture(scope="module")
def expected():
    server = Server().start()
    yield Script(server.endpoint).run()
    server.stop()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", DIFFERENCES)
def test_every_difference_is_known(name, expected, report):
    if name == "localstack" and not LOCALSTACK.exists():
        missing("localstack", "an environment of its own: make localstack")
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context({"moto": moto, "localstack": localstack}[name]())
        found = Script(endpoint).run()
    different = {step for step in STEPS if found[step] != expected[step]}
    report(f"SQS: {len(STEPS)} steps, {name} differs from the emulator in {len(different)}: {', '.join(sorted(different))}")
    assert different == set(DIFFERENCES[name]), {
        step: (expected[step], found[step]) for step in different ^ set(DIFFERENCES[name])
    }
