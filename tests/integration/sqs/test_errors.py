"""Each way in which the service refuses or is out of reach, on the wire: the portable error, its words, and its cause."""

from __future__ import annotations

import random

import botocore.exceptions as sdk
import pytest

from cloudq.driver import Queue, Settled
from cloudq.errors import AccessDenied, OutcomeUnknown, QueueNotFound, Refused, Throttled, Unavailable
from cloudq_sqs import driver as driver_module
from cloudq_sqs.emulator import Fault, Plan
from support.proxy import FaultProxy
from support.sqs import emulated, message

ANSWERS = {
    "missing queue": (Fault(code="QueueDoesNotExist"), QueueNotFound, ["region", "namespace", "cloudq queues create"]),
    "denied action": (
        Fault(code="AccessDeniedException", status=403),
        AccessDenied,
        ["sqs:SendMessage", "Allow this identity"],
    ),
    "no right to the key": (Fault(code="KmsAccessDenied"), AccessDenied, ["kms:GenerateDataKey", "kms:Decrypt"]),
    "expired credentials": (Fault(code="ExpiredTokenException", status=403), AccessDenied, ["have expired", "renew"]),
    "unknown access key": (Fault(code="UnrecognizedClientException", status=403), AccessDenied, ["get-caller-identity"]),
    "wrong secret": (Fault(code="InvalidSignatureException", status=403), AccessDenied, ["secret key is wrong"]),
    "throttled": (Fault(code="RequestThrottled"), Throttled, ["RequestThrottled"]),
    "throttled, as other services say it": (Fault(code="ThrottlingException"), Throttled, ["ThrottlingException"]),
    "429": (Fault(code="Whatever", status=429), Throttled, ["Whatever"]),
    "unavailable": (Fault(code="ServiceUnavailable", status=503), Unavailable, ["ServiceUnavailable"]),
    "503 of a load balancer": (Fault(code="Whatever", status=503), Unavailable, ["Whatever"]),
    "failed inside": (Fault(code="InternalError", status=500), OutcomeUnknown, ["InternalError"]),
    "refused for good": (Fault(code="UnsupportedOperation"), Refused, ["UnsupportedOperation"]),
    "no answer": (Fault(kind="lost"), OutcomeUnknown, ["onnection"]),
    "reset": (Fault(kind="reset"), OutcomeUnknown, ["onnection"]),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_becomes_a_portable_error(sqs, name):
    fault, kind, words = ANSWERS[name]
    queue = await sqs.queue()
    async with sqs.driver() as driver:
        assert await driver.send(queue, [message()]) == {}  # the queue's URL is known
        sqs.server.plan = Plan([fault])
        with pytest.raises(kind) as raised:
            await driver.send(queue, [message()])
    assert type(raised.value) is kind
    assert isinstance(raised.value.__cause__, (sdk.ClientError, sdk.BotoCoreError))
    for word in (queue.physical, *words):
        assert word in str(raised.value)


async def test_what_was_not_applied_is_not_there_and_what_was_is_said_to_be_unknown(sqs):
    """Every error but OutcomeUnknown promises that nothing happened."""
    for fault, kind, _ in ANSWERS.values():
        sqs.server.plan = Plan()
        queue = await sqs.queue()
        async with sqs.driver() as driver:
            assert await driver.send(queue, [message()]) == {}
            sqs.server.plan = Plan([fault])
            with pytest.raises(kind):
                await driver.send(queue, [message()])
        count = len(sqs.server.service.queues[queue.physical].messages)
        assert count == 1 or (kind is OutcomeUnknown and count == 2)


async def test_another_region_has_other_queues(sqs):
    queue = await sqs.queue()
    async with sqs.driver(region="eu-west-1") as driver:
        with pytest.raises(QueueNotFound, match="Are the region"):
            await driver.stats(queue)


async def test_a_clock_that_is_wrong_is_told_with_the_difference(sqs, monkeypatch):
    queue = await sqs.queue()
    sqs.server.plan = Plan([Fault(code="InvalidSignatureException", status=403)])
    sqs.clock.advance(20 * 60)
    async with sqs.driver() as driver:
        with pytest.raises(AccessDenied, match=r"clock is 1,(199|200) s behind.*NTP"):
            await driver.stats(queue)


async def test_no_credentials_are_told(sqs, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with sqs.driver(keys=None) as driver:
        with pytest.raises(AccessDenied, match="found no credentials") as raised:
            await driver.stats(Queue("main", "t"))
    assert isinstance(raised.value.__cause__, sdk.NoCredentialsError)


async def test_nobody_listens(sqs):
    queue = await sqs.queue()
    sqs.server.stop()
    async with sqs.driver() as driver:
        with pytest.raises(Unavailable, match="Is the region right"):
            await driver.send(queue, [message()])


async def test_a_cable_that_was_pulled(monkeypatch):
    monkeypatch.setattr(driver_module, "_ANSWER", 0.5)
    with emulated() as sqs, FaultProxy(int(sqs.endpoint.rpartition(":")[2]), random.Random(1)) as proxy:
        queue = await sqs.queue()
        sqs.endpoint = f"http://127.0.0.1:{proxy.port}"
        async with sqs.driver(account="000000000000") as driver:
            assert await driver.send(queue, [message()]) == {}
            proxy.faults.blackout = True
            with pytest.raises(OutcomeUnknown) as raised:
                await driver.send(queue, [message()])
            assert isinstance(raised.value.__cause__, sdk.ReadTimeoutError)
            proxy.faults.blackout = False
            assert await driver.send(queue, [message()]) == {}


async def test_too_many_in_flight_is_asked_again_later(sqs):
    sqs.server.service.most_in_flight = 5
    queue = await sqs.queue()
    async with sqs.driver() as driver:
        assert await driver.send(queue, [message(number) for number in range(8)]) == {}
        held = await driver.receive(queue, 10, 1.0)
        assert len(held) == 5
        with pytest.raises(Throttled, match="120,000"):
            await driver.receive(queue, 1, 0.0)
        assert await driver.ack(queue, held) == [Settled.OK] * 5
        assert len(await driver.receive(queue, 10, 1.0)) == 3


# Rights ---------------------------------------------------------------------------------------------------------------


async def test_the_emulator_refuses_what_a_policy_does_not_allow(sqs):
    queue = await sqs.queue()
    sqs.server.policies = {"reader": frozenset({"ReceiveMessage", "GetQueueUrl"})}
    async with sqs.driver(keys=("reader", "x")) as driver:
        assert await driver.receive(queue, 1, 0.0) == []
        with pytest.raises(AccessDenied, match="sqs:SendMessage"):
            await driver.send(queue, [message()])
