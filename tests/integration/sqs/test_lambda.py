"""A function on AWS Lambda: the vendor's own runtime client runs the handler, behind an event source of the emulator."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from cloudq import CloudQ
from cloudq_sqs.emulator import Fault, Plan
from support.clocks import JumpingClock
from support.processes import environment, until
from support.served import LOG, Tasks, runs

pytest.importorskip("awslambdaric")

from cloudq_sqs.emulator.lambdas import Call, EventSource, Runtime

FUNCTION = """
import logging

from cloudq import CloudQ
from cloudq_sqs import lambda_handler
from support.served import Tasks

logging.getLogger("cloudq").setLevel(logging.CRITICAL)
app = CloudQ()
Tasks(app, first={first!r})
handler = lambda_handler(app, concurrency={concurrency})
"""


class Served:
    """A queue on the emulator, a producer, and a function that an event source calls."""

    def __init__(self, sqs, path, *, concurrency=10, first="60s", timeout=10.0, account="&account=000000000000", **queue):
        self.sqs, self.path, self.log = sqs, path, path / "runs"
        self.settings = {"lease": "60s", "max_attempts": 4, **queue}
        self.url = f"sqs://us-east-1?endpoint={sqs.endpoint}{account}"
        self.app = CloudQ(self.url, namespace="served", queues={"default": self.settings})
        self.tasks = Tasks(self.app, first=first)
        self.client = boto3.client("sqs", endpoint_url=sqs.endpoint)
        (path / "function.py").write_text(FUNCTION.format(concurrency=concurrency, first=first))
        named = {f"CLOUDQ_QUEUES__DEFAULT__{key.upper()}": value for key, value in self.settings.items()}
        environ = environment(CLOUDQ_URL=self.url, CLOUDQ_NAMESPACE="served", **named, **{LOG: self.log})
        environ["AWS_ACCESS_KEY_ID"] = "function"
        self.runtime = Runtime("function.handler", cwd=path, timeout=timeout, environ=environ)

    async def create(self):
        async with self.sqs.driver() as driver:
            await driver.create(self.app.addresses("default"))

    def queue_url(self, part=""):
        ordered = ".fifo" if self.settings.get("ordered") and part != "-delay" else ""
        return self.client.get_queue_url(QueueName=f"served-default{part}{ordered}")["QueueUrl"]

    def source(self, part="", **options):
        return EventSource(self.client, self.queue_url(part), self.runtime, **options)

    def left(self, part=""):
        names = [f"ApproximateNumberOfMessages{what}" for what in ("", "NotVisible", "Delayed")]
        told = self.client.get_queue_attributes(QueueUrl=self.queue_url(part), AttributeNames=names)["Attributes"]
        return [int(told[name]) for name in names]

    def dead(self):
        found = []
        while batch := self.client.receive_message(
            QueueUrl=self.queue_url("-dlq"), MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            found += batch
        return [message["MessageAttributes"]["cloudq-dead"]["StringValue"] for message in found]

    def close(self):
        self.runtime.close()
        self.app.close()
        self.client.close()


@contextmanager
def serving(*arguments, **options):
    made = Served(*arguments, **options)
    try:
        yield made
    finally:
        made.close()


def drain(source):
    while source.once():
        pass


async def test_a_thousand_with_failures_and_poison(sqs, tmp_path, report):
    draw = random.Random(9)
    numbers = list(range(1000))
    failing, poisonous = set(draw.sample(numbers, 50)), set()
    poisonous = set(draw.sample(sorted(set(numbers) - failing), 10))
    with serving(sqs, tmp_path) as served:
        await served.create()
        served.app.enqueue_many(
            served.tasks.poison.message(number)
            if number in poisonous
            else served.tasks.work.message(number, fails=2 if number in failing else 0)
            for number in numbers
        )
        source = served.source()
        drain(source)
        # Only what failed is left, each hidden for its own backoff; what was poison is dead, with its reason.
        assert served.left() == [0, 50, 0]
        assert {run["number"] for run in runs(served.log)} == set(numbers)
        assert len(runs(served.log)) == 1000
        assert all(call.error is None for _, call in source.calls)
        asked = sqs.server.requests
        assert asked.by_action["ChangeMessageVisibilityBatch"] <= 50
        dead = served.dead()
        assert len(dead) == 10
        assert all('"kind":"rejected"' in record and "is poison" in record for record in dead)

        for attempt, longest in ((2, 60), (3, 180)):
            # Backoff 60 s, then 180 s, of which the upper half is drawn: nothing is due before half of it.
            calls = len(source.calls)
            sqs.advance(longest / 2 - 25)  # less what the run itself took
            drain(source)
            assert len(source.calls) == calls
            sqs.advance(longest / 2 + 26)
            drain(source)
            again = runs(served.log)[1000 + 50 * (attempt - 2) :]
            assert {run["number"] for run in again} == failing
            assert {run["attempt"] for run in again} == {attempt}
            assert len(again) == 50
        assert served.left() == [0, 0, 0]
        assert served.runtime.starts == 1
        report(f"lambda: 1,000 messages in {len(source.calls)} calls, one process")


async def test_near_its_time_limit_the_rest_is_returned(sqs, tmp_path):
    with serving(sqs, tmp_path, concurrency=1, timeout=4.0) as served:
        await served.create()
        served.app.enqueue_many(served.tasks.work.message(number, seconds=0.7) for number in range(10))
        source = served.source()
        assert source.once() == 10
        _, call = source.calls[0]
        done = len(runs(served.log))
        assert call.error is None
        assert 3 <= done < 7
        # What was not started is there again when its turn comes, and nothing ran that the answer does not tell.
        assert len(call.answer["batchItemFailures"]) == 10 - done
        ready, hidden, _ = served.left()
        assert ready >= 1
        assert ready + hidden == 10 - done
        until(lambda: drain(source) or sum(served.left()) == 0, "what was not started does not come again")
        assert sorted(run["number"] for run in runs(served.log)) == list(range(10))
        assert served.left() == [0, 0, 0]
        assert served.runtime.starts == 1


async def test_a_run_that_goes_on_beyond_the_call_is_told_and_comes_back(sqs, tmp_path):
    with serving(sqs, tmp_path, timeout=3.0) as served:
        await served.create()
        served.tasks.heedless.enqueue(1, 4.0)
        served.tasks.work.enqueue(2)
        source = served.source()
        while len(source.calls) < 1 or sum(len(ids) for ids, _ in source.calls) < 2:
            source.once()
        assert [call.error for _, call in source.calls] == [None] * len(source.calls)
        assert served.left() == [0, 1, 0]
        until(lambda: any(run["task"] == "told True" for run in runs(served.log)), "the run is not told")
        # It ended well, and too late: it is not removed, and comes again when its visibility ends.
        assert served.left() == [0, 1, 0]
        assert len(runs(served.log, 2)) == 1


async def test_one_run_that_was_cut_off_keeps_no_others_from_running(sqs, tmp_path):
    with serving(sqs, tmp_path, timeout=2.0) as served:
        await served.create()
        source = served.source()
        for number in range(1, 4):
            served.tasks.heedless.enqueue(number, 30.0)
            source.once()
        # By now a run is known to take as long as a whole call.
        served.tasks.work.enqueue(9)
        source.once()
        assert len(runs(served.log, 9)) == 1
        assert served.left() == [0, 3, 0]


async def test_a_batch_too_large_for_its_calls_is_run_and_not_dead_lettered(sqs, tmp_path):
    """SQS counts what is given back unrun: all of a large batch given back at once would reach the net before its turn."""
    with serving(sqs, tmp_path, concurrency=1, timeout=2.0) as served:
        await served.create()
        served.app.enqueue_many(served.tasks.work.message(number, seconds=0.1) for number in range(100))
        source = served.source(batch=100)
        while sum(served.left()):
            if not source.once():
                sqs.advance(3)
        assert {run["number"] for run in runs(served.log)} == set(range(100))
        assert len(runs(served.log)) <= 105  # of the first call nothing is known: its last run is cut off
        assert served.dead() == []
        assert max(run["attempt"] for run in runs(served.log)) <= 12


async def test_the_emulator_keeps_a_batch_whose_answer_names_a_stranger(sqs, tmp_path):
    with serving(sqs, tmp_path) as served:
        await served.create()
        served.tasks.work.enqueue(1)
        source = served.source()
        messages = source._gather()
        stranger = {"batchItemFailures": [{"itemIdentifier": "stranger"}]}
        assert source._failed(messages, Call({}, 0.0, answer=stranger)) == {messages[0]["MessageId"]}


async def test_a_group_stops_at_its_first_failure(sqs, tmp_path):
    with serving(sqs, tmp_path, ordered=True) as served:
        await served.create()
        for number in range(8):
            key = "a" if number % 2 else "b"
            served.tasks.work.options(ordering_key=key).enqueue(number, fails=1 if number == 3 else 0)
        source = served.source()
        drain(source)
        ran = [run["number"] for run in runs(served.log)]
        assert sorted(ran) == [0, 1, 2, 3, 4, 6]  # 5 and 7 wait behind 3, of their group alone
        # Only it is hidden: what is behind it must not hold up its second attempt by a lease of its own.
        assert served.left()[1] == 1
        sqs.advance(61)
        drain(source)
        order = [run["number"] for run in runs(served.log)]
        assert [number for number in order if number % 2] == [1, 3, 3, 5, 7]
        assert [number for number in order if number % 2 == 0] == [0, 2, 4, 6]
        assert served.left() == [0, 0, 0]


async def test_the_delay_part_is_pumped_by_the_function(sqs, tmp_path):
    with serving(sqs, tmp_path) as served:
        await served.create()
        served.app.clock = sqs.clock  # the producer's, and the server's; the function's own stays behind
        served.tasks.work.options(delay="8h").enqueue(1)
        delayed = served.source("-delay")
        sqs.advance(901)
        drain(delayed)
        assert served.left("-delay") == [0, 1, 0]
        assert runs(served.log) == []
        assert served.left() == [0, 0, 0]


async def test_what_is_due_is_forwarded_by_the_function(sqs, tmp_path):
    with serving(sqs, tmp_path) as served:
        await served.create()
        served.app.clock = JumpingClock()
        served.app.clock.advance(-958)  # it was enqueued sixteen minutes ago, but for two seconds
        served.tasks.work.options(delay="16m").enqueue(1)
        sqs.advance(901)
        drain(served.source("-delay"))
        assert served.left("-delay") == [0, 0, 0]
        assert served.left() == [0, 0, 1]  # with the rest as a delay of SQS
        sqs.advance(3)
        drain(served.source())
        assert [run["attempt"] for run in runs(served.log)] == [1]
        assert served.left() == [0, 0, 0]


async def test_a_process_that_ends_takes_nothing_with_it(sqs, tmp_path):
    with serving(sqs, tmp_path, concurrency=1) as served:
        await served.create()
        served.tasks.work.enqueue(1)
        served.tasks.deadly.enqueue(2)
        source = served.source()
        while sum(len(ids) for ids, _ in source.calls) < 2:
            source.once()
        assert source.calls[-1][1].error["errorType"] == "Runtime.ExitError"
        sqs.advance(61)
        source.once()
        assert served.runtime.starts == 2
        assert len(runs(served.log, 2)) == 2


async def test_what_was_delivered_often_without_a_run_is_run(sqs, tmp_path):
    """A function that could not be reached for hours has used up nobody's attempts: only a failed run gives a task up."""
    with serving(sqs, tmp_path) as served:
        await served.create()
        served.tasks.work.enqueue(1)
        for _ in range(20):
            served.client.receive_message(QueueUrl=served.queue_url(), VisibilityTimeout=0, MaxNumberOfMessages=10)
        drain(served.source())
        assert [run["attempt"] for run in runs(served.log)] == [21]
        assert served.left() == [0, 0, 0]


async def test_a_copy_that_cannot_be_sent_is_no_reason_to_delete(sqs, tmp_path):
    """The right to send is taken away: what should be dead-lettered stays."""
    with serving(sqs, tmp_path, timeout=3.0) as served:
        await served.create()
        served.tasks.poison.enqueue(1)
        sqs.server.plan = Plan([Fault("SendMessageBatch", code="AccessDenied", status=403)])
        source = served.source()
        source.once()
        assert len(source.calls[0][1].answer["batchItemFailures"]) == 1
        assert sum(served.left()) == 1


async def test_the_module_gives_a_function_the_rights_that_it_uses(sqs, tmp_path):
    """All that it does with messages, against the policy in terraform/modules/aws: nothing missing, and nothing extra."""
    text = (Path(__file__).parents[3] / "terraform/modules/aws/access.tf").read_text()
    block = text[text.index("function_roles = {") :]
    on_queue, on_dead = (set(re.findall(r'"(\w+)"', found)) for found in re.findall(r"actions\s*=\s*\[(.*?)\]", block)[:2])
    with serving(sqs, tmp_path, account="") as served:
        await served.create()
        sqs.server.policies = {"function": frozenset(on_queue | on_dead)}
        served.app.clock = JumpingClock()
        served.app.clock.advance(-960)
        served.tasks.work.options(delay="16m").enqueue(1)
        served.tasks.work.options(delay="8h").enqueue(2)
        sqs.advance(901)
        drain(served.source("-delay"))
        sqs.advance(2)
        served.tasks.poison.enqueue(3)
        served.tasks.again.enqueue(4, 30.0)
        drain(served.source())
        assert len(runs(served.log)) == 3
        assert len(served.dead()) == 1
    calls = {
        (action.removesuffix("Batch"), "dlq" if queue.endswith("-dlq") else "queue")
        for action, queue in sqs.server.requests.by_queue
        if sqs.server.requests.by_caller["function"][action]
    }
    # What Lambda itself does with the function's role (Lambda guide, execution role).
    lambdas = {"ReceiveMessage", "DeleteMessage", "GetQueueAttributes"}
    used = {action for action, count in sqs.server.requests.by_caller["function"].items() if count}
    assert {action.removesuffix("Batch") for action in used} | lambdas == on_queue | on_dead
    assert ("SendMessage", "dlq") in calls


async def test_a_kill_between_the_dead_copy_and_the_answer_loses_nothing(sqs, tmp_path):
    with serving(sqs, tmp_path) as served:
        await served.create()
        served.tasks.poison.enqueue(1)
        sent = sqs.server.requests.by_action["SendMessageBatch"]
        # The copy arrives, and its confirmation is on its way for a while: then the process is gone.
        sqs.server.plan = Plan([Fault("SendMessageBatch", kind="slow", seconds=5.0, times=1)])
        source = served.source()
        calling = threading.Thread(target=source.once)
        calling.start()
        until(lambda: sqs.server.requests.by_action["SendMessageBatch"] > sent, "no copy is sent")
        os.kill(served.runtime.pid, signal.SIGKILL)
        calling.join(20)
        assert source.calls[0][1].error["errorType"] == "Runtime.ExitError"
        assert served.left() == [0, 1, 0]  # not removed: nobody knows of a copy
        sqs.advance(61)
        drain(source)
        assert served.left() == [0, 0, 0]
        assert len(runs(served.log)) == 2
        assert len(served.dead()) in (1, 2)  # the copy of the first run may have arrived: twice at the most, never not at all


class Context:
    def get_remaining_time_in_millis(self):
        return 10_000


def handler_of(sqs, **queue):
    from cloudq_sqs import lambda_handler

    app = CloudQ(f"sqs://us-east-1?endpoint={sqs.endpoint}", namespace="served", queues={"default": queue})
    Tasks(app)
    return lambda_handler(app)


def test_what_succeeded_is_told_although_nothing_can_be_given_back(monkeypatch, tmp_path):
    """The driver cannot even be opened: no region. That must not send back what is done."""
    monkeypatch.setenv(LOG, str(tmp_path / "runs"))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    from cloudq_sqs import lambda_handler

    app = CloudQ("sqs://?account=000000000000", namespace="served", queues={"default": {}})
    Tasks(app)
    handler = lambda_handler(app, concurrency=1)

    class Short:
        def get_remaining_time_in_millis(self):
            return 1500

    records = [
        {
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:served-default",
            "messageId": f"m{number}",
            "receiptHandle": "h",
            "body": json.dumps(
                {"cloudq": 1, "id": f"t{number}", "type": "work", "time": 1.0, "data": {"number": number, "seconds": 0.3}}
            ),
        }
        for number in range(10)
    ]
    failures = {each["itemIdentifier"] for each in handler({"Records": records}, Short())["batchItemFailures"]}
    assert "m0" not in failures
    assert 5 <= len(failures) < 10


def test_another_event_is_refused(sqs):
    handler = handler_of(sqs)
    with pytest.raises(ValueError, match=r"is for an event source mapping of SQS.*has httpMethod"):
        handler({"httpMethod": "GET"}, Context())


def test_a_queue_that_is_not_served_is_refused(sqs):
    record = {"eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:served-defolt"}
    with pytest.raises(Exception, match=r"'served-defolt', which is not served here. Did you mean 'served-default'"):
        handler_of(sqs)({"Records": [record]}, Context())


def test_an_application_elsewhere_is_refused():
    from cloudq_sqs import lambda_handler

    app = CloudQ("sqlite:///q.db")
    Tasks(app)
    with pytest.raises(Exception, match=r"no queue of this application lives with sqs://.*default is at sqlite:///q.db"):
        lambda_handler(app)


async def test_without_reported_failures_they_are_deleted(sqs, tmp_path):
    """What the Terraform module rules out, and doctor finds: the function cannot see it."""
    with serving(sqs, tmp_path) as served:
        await served.create()
        served.tasks.work.enqueue(1, fails=1)
        served.source(reports_failures=False).once()
        assert served.left() == [0, 0, 0]


async def test_every_slot_held_by_a_lost_run_ends_the_process(sqs, tmp_path):
    with serving(sqs, tmp_path, timeout=1.0, concurrency=1, lease="6s") as served:
        await served.create()
        served.tasks.heedless.enqueue(1, 60.0)
        source = served.source()
        source.once()
        first = served.runtime.pid
        over = threading.Event()

        def ended():
            return served.runtime._process.poll() is not None or over.is_set()

        until(ended, "the process goes on, deaf", patience=20)
        served.tasks.work.enqueue(2)
        while not runs(served.log, 2):
            source.once()
        assert served.runtime.pid != first
