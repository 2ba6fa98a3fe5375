"""How an application maps onto a provider: what is native, composed and refused, and where that is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloudq import Backoff, CloudQ, ConfigError
from cloudq.cli import main
from cloudq.errors import Unsupported
from cloudq.facts import How, facts_of, providers
from cloudq.mapping import assess, hops, reference
from cloudq.worker.process import plan

ROOT = Path(__file__).parents[2]


def shop(**task):
    app = CloudQ("memory://shop", queues={"audit": {"ordered": True}})

    @app.task(queue="mail", name="send", **task)
    def send(to: str) -> None: ...

    @app.task(queue="audit", name="note")
    def note(text: str) -> None: ...

    return app


def findings(app, scheme):
    return [line.note for line in assess(app, facts_of(scheme)) if line.finding]


def how(app, scheme, queue, aspect, task=""):
    return {line.how for line in assess(app, facts_of(scheme)) if (line.queue, line.aspect, line.task) == (queue, aspect, task)}


def test_the_written_mapping_is_the_one_of_the_facts():
    assert (ROOT / "docs/mapping.md").read_text() == reference(providers()), "run: cloudq explain --markdown > docs/mapping.md"


@pytest.mark.parametrize("scheme", ["sqlite", "sqs", "pubsub", "servicebus"])
def test_the_defaults_are_kept_everywhere(scheme):
    assert findings(shop(), scheme) == []


def test_a_retry_is_native_as_far_as_the_provider_holds_a_message():
    assert how(shop(), "sqs", "mail", "retry", "send") == {How.NATIVE}
    assert how(shop(), "pubsub", "mail", "retry", "send") == {How.COMPOSED}
    assert how(shop(retry=Backoff(cap="10m")), "pubsub", "mail", "retry", "send") == {How.NATIVE}
    assert how(shop(retry=Backoff(cap="10m")), "servicebus", "mail", "retry", "send") == {How.COMPOSED}


SERVED = {"default": {"lease": "2m", "serverless": {"timeout": "20s"}}}


def served(url="memory://shop"):
    app = CloudQ(url, queues=SERVED)

    @app.task(name="draw")
    def draw(number: int) -> None: ...

    return app, draw


@pytest.mark.parametrize(
    ("scheme", "retry", "delay"),
    [
        ("sqs", {How.NATIVE}, {How.NATIVE, How.COMPOSED}),
        ("pubsub", {How.COMPOSED}, {How.REFUSED}),
        ("servicebus", {How.COMPOSED}, {How.NATIVE}),
    ],
)
def test_a_function_keeps_what_its_platform_lets_it_keep(scheme, retry, delay):
    app, _ = served()
    assert findings(app, scheme) == []
    assert how(app, scheme, "default", "retry", "draw") == retry
    assert how(app, scheme, "default", "delay") == delay


def test_a_backoff_that_a_push_would_cut_at_its_first_step_is_refused():
    app, _ = served()

    @app.task(name="patient", retry=Backoff(first="2h"))
    def patient() -> None: ...

    (note,) = findings(app, "pubsub")
    assert "patient waits 60m at the least" in note
    assert "waits 10m at the most. Choose a shorter first" in note
    assert findings(app, "sqs") == []


def test_a_delay_that_no_function_would_end_is_refused_at_the_enqueue():
    app, draw = served("memory://shop?as=pubsub")
    with pytest.raises(Unsupported, match=r"calls it with nothing that waits for its time\. Enqueue it without the delay"):
        draw.options(delay="1h").enqueue(1)
    app, draw = served("memory://shop?as=sqs")
    assert draw.options(delay="1h").enqueue(1)
    app.close()


def test_a_function_for_ordered_work_is_refused_where_it_cannot_delay_or_bury():
    app = CloudQ("memory://shop", queues={"default": {**SERVED["default"], "ordered": True}})
    assert any("can neither delay nor dead-letter" in note for note in findings(app, "servicebus"))
    assert findings(app, "sqs") == findings(app, "pubsub") == []


def test_a_backoff_of_ordered_work_that_is_cut_is_told():
    (line,) = [line for line in assess(shop(), facts_of("pubsub")) if line.task == "note" and line.aspect == "retry"]
    assert line.how is How.COMPOSED
    assert "cut" in line.note


@pytest.mark.parametrize(
    ("scheme", "task", "said"),
    [
        ("sqs", {"timeout": None}, "12h"),
        ("sqs", {"timeout": "9h"}, "8h"),
        ("pubsub", {"retry": Backoff(max_attempts=96)}, "95"),
        ("servicebus", {"timeout": "3h"}, "dedup to at least 421m"),
    ],
)
def test_what_a_task_asks_for_in_vain_is_a_finding(scheme, task, said):
    (finding,) = findings(shop(**task), scheme)
    assert said in finding


def test_a_worker_does_not_start_with_a_finding():
    app = shop(timeout=None)
    plan(app)
    app = CloudQ("memory://refusing?as=sqs")

    @app.task(name="send", timeout=None)
    def send() -> None: ...

    with pytest.raises(ConfigError, match="Choose at most 8h"):
        plan(app)


@pytest.mark.parametrize(
    ("scheme", "delay", "count"), [("sqs", 900, 0), ("sqs", 7200, 1), ("pubsub", 60, 1), ("pubsub", 3600, 6)]
)
def test_hops_of_a_delay(scheme, delay, count):
    assert hops(delay, facts_of(scheme)) == count


PROGRAM = """
from cloudq import CloudQ
app = CloudQ("sqlite:///q.db", queues={"mail": {"lease": "20m"}})
@app.task(queue="mail")
def send() -> None: ...
"""


def test_check_ends_with_3_on_a_finding_and_explain_names_the_native_value(tmp_path, monkeypatch):
    (tmp_path / "checked_shop.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    good = CliRunner().invoke(main, ["check", "checked_shop:app", "--target", "sqs"])
    assert (good.exit_code, "refused" in good.output) == (0, False), good.output
    bad = CliRunner().invoke(main, ["check", "checked_shop:app", "--target", "pubsub,sqs"])
    assert bad.exit_code == 3
    assert "queues.mail.lease = 20m: Google Cloud Pub/Sub leases from 10s to 10m" in bad.output
    rows = json.loads(CliRunner().invoke(main, ["check", "checked_shop:app", "--target", "pubsub", "--json"]).output)
    assert {row["how"] for row in rows if row["aspect"] == "lease"} == {"refused"}
    explained = CliRunner().invoke(main, ["explain", "checked_shop:app", "--target", "sqs", "--delay", "1d"])
    assert "1200 s" in explained.output
    assert "a delay of 1d: composed: hidden 4 time" in explained.output
