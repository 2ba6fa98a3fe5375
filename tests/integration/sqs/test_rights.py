"""The least rights of a producer, a worker and an operator: what docs/howto/sqs.md grants is what they use, and all of it.

The emulator records which actions each access key signs for; a batch counts as its single action, as IAM has it. The policies
are read from the page, so that it cannot drift from what is asked for.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from cloudq import Backoff, Reject
from cloudq import redrive as redrive_module
from cloudq.conformance.working import Watch
from cloudq.deadletters import Wanted, look
from cloudq.driver import Part
from cloudq.errors import EnqueueError
from cloudq.events import Name
from cloudq.worker.process import Plan, working

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "sqs.md"


def documented() -> dict[str, frozenset[str]]:
    """By role, the SQS actions of the policy in the page."""
    found = {}
    for role, policy in re.findall(r"^### (\w+)$.*?```json\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        actions = [action for statement in json.loads(policy)["Statement"] for action in statement["Action"]]
        found[role.lower()] = frozenset(action.removeprefix("sqs:") for action in actions if action.startswith("sqs:"))
    return found


async def produce(app, tasks):
    await tasks["good"].aenqueue()
    await app.aenqueue_many([tasks["bad"].message(), tasks["flaky"].message()])
    await tasks["good"].options(delay="20m").aenqueue()


async def work(app, tasks):
    watch = Watch(app)
    async with working(app, Plan(queues=["mail"], grace=6.0)):
        await watch.until(Name.DEAD_LETTERED)
        await watch.until(Name.ACKED, 3)


async def operate(app, tasks):
    async with app.driver(app.url_of("mail")) as driver:
        await driver.stats(app.address("mail", Part.MAIN))
        assert await look(driver, app.address("mail", Part.DEAD), 10)
    tally = await redrive_module.redrive(app, "mail", Wanted(), limit=10)
    assert tally.done == 1
    await work_again(app, tasks)
    tally = await redrive_module.move(app, "mail")
    assert tally.error == ""
    await redrive_module.purge(app, "mail", Wanted(), limit=10)


async def work_again(app, tasks):
    watch = Watch(app)
    async with working(app, Plan(queues=["mail"], grace=6.0)):
        await watch.until(Name.DEAD_LETTERED)


ROLES = {"producer": produce, "worker": work, "operator": operate}


def declare(app):
    @app.task(queue="mail")
    def good() -> None: ...

    @app.task(queue="mail")
    def bad() -> None:
        raise Reject("no")

    runs = []

    @app.task(queue="mail", retry=Backoff(first="1s"))
    def flaky() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError

    return {"good": good, "bad": bad, "flaky": flaky}


async def used(sqs, monkeypatch, policies=None):
    """Run every role under a key of its own. Returns the actions that each signed for."""
    app = sqs.app(clock=False, mail={"lease": "6s"})
    await sqs.create()
    tasks = declare(app)
    url = f"sqs://us-east-1?endpoint={sqs.endpoint}"  # without the account: the queue's URL is asked for
    sqs.server.policies = dict(policies or {})
    for role, act in ROLES.items():
        sqs.advance(901)  # so that the pump meets what is delayed, and asks how much is parked
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", role)
        app.close()
        app._overrides["url"] = url
        app.__dict__.pop("settings", None)
        await act(app, tasks)
        app.close()
    return {role: frozenset(action.removesuffix("Batch") for action in sqs.server.requests.by_caller[role]) for role in ROLES}


@pytest.mark.processes
async def test_each_role_needs_exactly_what_is_documented(sqs, monkeypatch):
    granted = documented()
    assert set(granted) == set(ROLES)
    found = await used(sqs, monkeypatch)
    # The operator tried out here also works, once: what a worker does is granted to it by the worker's policy.
    found["operator"] -= granted["worker"] - granted["operator"]
    assert found == granted


async def test_the_documented_rights_suffice(sqs, monkeypatch):
    granted = documented()
    await used(sqs, monkeypatch, {**granted, "operator": granted["operator"] | granted["worker"]})


async def test_one_right_less_is_too_little(sqs, monkeypatch):
    """The comparison can fail: a producer without SendMessage is refused, and told which action it lacks."""
    sqs.server.policies = {"producer": documented()["producer"] - {"SendMessage"}}
    app = sqs.app(clock=False, mail={})
    await sqs.create()
    tasks = declare(app)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "producer")
    with pytest.raises(EnqueueError, match="sqs:SendMessage"):
        await asyncio.to_thread(tasks["good"].enqueue)
    app.close()
