"""The rights that the modules give, against the calls that are made: nothing missing, nothing extra.

A producer, a worker and an operator are run one after the other against this project's servers, which note every call with the
queue that it is about. The rights are read from the plan.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

from cloudq import CloudQ, Context, Reject, Retry, redrive
from cloudq.conformance.working import Watch
from cloudq.deadletters import Wanted, look
from cloudq.driver import Declared, Inspects, MovesDeadLetters, Part
from cloudq.events import Name
from cloudq.facts import facts_of
from cloudq.infra import describe
from cloudq.worker.process import Plan, working
from support import pubsub, servicebus, sqs
from support.rights import PUBSUB_ROLES
from support.terraform import MODULES, planned

QUEUES = {"mail": {"priorities": ["high", "normal"], "lease": "10s"}}
PARTS = {
    "main/mail/high": "shop-mail-high",
    "main/mail/normal": "shop-mail",
    "delay/mail": "shop-mail-delay",
    "dead/mail": "shop-mail-dlq",
}
ROLES = ("producer", "worker", "operator")
Calls = set[tuple[str, str]]


def declare(app: CloudQ):
    @app.task(queue="mail")
    def good() -> None: ...

    @app.task(queue="mail")
    def bad() -> None:
        raise Reject("no")

    @app.task(queue="mail")
    def slow(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise Retry(after="10h")

    @app.task(queue="mail")
    def flaky(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise Retry(after="1s")

    return good, bad, slow, flaky


#: Dead letters that the operator sends back, one to each priority; the others stay.
sent_back: list[str] = []


async def produce(app, tasks, emulated):
    good, bad, *_ = tasks
    for priority in ("high", "normal"):
        await app.aenqueue_many([task.options(priority=priority).message() for task in tasks])
        await good.options(priority=priority, delay="20h").aenqueue()
        sent_back.append((await bad.options(priority=priority).aenqueue()).task_id)


async def work(app, tasks, emulated):
    emulated.advance(901)  # what is delayed is met in the delay part, and it is asked how much is parked there
    watch = Watch(app)
    async with working(app, Plan(queues=["mail"], grace=6.0)):
        await watch.until(Name.DEAD_LETTERED, 4)
        await watch.until(Name.SUCCEEDED, 2)
        emulated.advance(2)
        await watch.until(Name.SUCCEEDED, 4)
        emulated.advance(10 * 3600)  # the slow ones are due; what is due later is looked at, and hidden again
        await watch.until(Name.SUCCEEDED, 6)
        emulated.advance(10 * 3600)
        await watch.until(Name.SUCCEEDED, 8)
        await watch.until(Name.ACKED, 8)


async def operate(app, tasks, emulated):
    async with app.driver(app.url_of("mail")) as driver:
        for queue in app.addresses("mail"):
            if queue.part is not Part.DELAY or driver.limits.send_delay < float("inf"):
                await driver.stats(queue)
        assert len(await look(driver, app.address("mail", Part.DEAD), 10)) == 4
        assert isinstance(driver, Inspects)
        await driver.inspect([Declared(queue) for queue in app.addresses("mail")])
        moves = isinstance(driver, MovesDeadLetters)
    assert (await redrive.redrive(app, "mail", Wanted(ids=tuple(sent_back)), limit=10)).done == 2
    if moves:
        assert (await redrive.move(app, "mail")).error == ""
    else:
        assert (await redrive.purge(app, "mail", Wanted(), limit=10)).done == 2


async def calls(emulated, counted, url=None) -> dict[str, Calls]:
    """What each role asks for, by call and queue."""
    app = emulated.app(**QUEUES)
    app._overrides["namespace"] = "shop"
    await emulated.create()
    app._overrides["url"] = url or app._overrides["url"]
    app.__dict__.pop("settings", None)
    tasks, found = declare(app), {}
    sent_back.clear()
    for role, act in zip(ROLES, (produce, work, operate), strict=True):
        app.close()
        before = Counter(counted())
        await act(app, tasks, emulated)
        found[role] = set(counted() - before)
    app.close()
    return found


def plan(terraform, cloud, scheme, **more):
    app = CloudQ(namespace="shop", queues=QUEUES)
    principals = {f"{role}s": {"one": f"serviceAccount:{role}"} for role in ROLES}
    made = terraform(
        f"modules/{cloud}", **MODULES[cloud], cloudq=describe(app, facts_of(scheme), ["mail"]), principals=principals, **more
    )
    return planned(made.plan())


@pytest.mark.timeout(300)
async def test_aws(terraform, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    values = plan(terraform, "aws", "sqs")
    granted = {role: set() for role in ROLES}
    for role in ROLES:
        for statement in json.loads(values[f'aws_iam_policy.role["{role}"]']["policy"])["Statement"]:
            for arn in statement["Resource"]:
                granted[role] |= {(action.removeprefix("sqs:"), arn.rpartition(":")[2]) for action in statement["Action"]}
    with sqs.emulated() as emulated:
        # Without the account in its URL, an application asks for each queue's own.
        made = await calls(emulated, lambda: emulated.server.requests.by_queue, f"sqs://us-east-1?endpoint={emulated.endpoint}")
    # IAM knows no batches.
    used = {role: {(action.removesuffix("Batch"), queue) for action, queue in found} for role, found in made.items()}
    # Where a move ends, it is a send (API StartMessageMoveTask, permissions).
    used["operator"].remove(("StartMessageMoveTask", "shop-mail"))
    used["operator"].add(("SendMessage", "shop-mail"))
    for role in ROLES:
        assert used[role] - granted[role] == set(), f"{role}: missing"
        assert granted[role] - used[role] == set(), f"{role}: extra"


@pytest.mark.timeout(300)
async def test_gcp(terraform):
    needs = {call: role for role, calls in PUBSUB_ROLES.items() for call in calls}
    values = plan(terraform, "gcp", "pubsub")
    granted = {role: set() for role in ROLES}
    for address, each in values.items():
        role = each.get("member", "").removeprefix("serviceAccount:")
        if role in ROLES:
            # The name itself is known after the apply: a grant must be given anew when what it is on is made anew.
            part = address.partition('"')[2].split()[2].rstrip('"]')
            kind = "topics" if "topic_iam" in address else "subscriptions"
            granted[role].add((each["role"], f"{kind}/{PARTS[part]}"))
    with pubsub.emulated() as emulated:
        made = await calls(emulated, lambda: emulated.server.requests.by_resource)
    # Who may read grants is a matter of the project; doctor says so where it may not.
    used = {role: {(needs[call], on) for call, on in found if call != "GetIamPolicy"} for role, found in made.items()}
    for role in ROLES:
        assert used[role] - granted[role] == set(), f"{role}: missing"
        assert granted[role] - used[role] == set(), f"{role}: extra"


@pytest.mark.timeout(300)
async def test_azure(terraform):
    servicebus.need_proton()
    needs = {"Send": "Azure Service Bus Data Sender", "Listen": "Azure Service Bus Data Receiver"}
    values = plan(terraform, "azure", "servicebus")
    granted = {role: set() for role in ROLES}
    for address, each in values.items():
        if address.startswith("azurerm_role_assignment"):
            queue = address.split()[2].partition("/")[2]
            name = "shop-mail" if queue == "normal" else f"shop-mail-{queue}"
            granted[each["principal_id"].removeprefix("serviceAccount:")].add((each["role_definition_name"], name))
    with servicebus.emulated() as emulated:
        made = await calls(emulated, lambda: emulated.server.requests.by_claim)
    used = {role: {(needs[claim], on) for claim, on in made[role] if claim != "Manage"} for role in ("producer", "worker")}
    # To read settings and counts is to manage, and who may manage may do all.
    assert {claim for claim, _ in made["operator"]} == {"Manage", "Listen", "Send"}
    used["operator"] = {("Azure Service Bus Data Owner", on) for _, on in made["operator"]}
    assert not any(claim == "Manage" for role in ("producer", "worker") for claim, _ in made[role])
    for role in ROLES:
        assert used[role] - granted[role] == set(), f"{role}: missing"
        assert granted[role] - used[role] == set(), f"{role}: extra"
