"""The description of the queues, the way back from Terraform, and what both refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloudq import CloudQ, ConfigError, made
from cloudq.cli import main
from cloudq.config import load
from cloudq.driver import Part
from cloudq.facts import facts_of
from cloudq.infra import describe, described, stale, tag, written
from cloudq_pubsub.options import Options as PubSubOptions
from cloudq_servicebus.options import Options as ServiceBusOptions
from cloudq_sqs.options import Options as SqsOptions

OPTIONS = {"sqs": SqsOptions(), "pubsub": PubSubOptions(), "servicebus": ServiceBusOptions()}
QUEUES = {"mail": {"priorities": ["high", "normal"]}, "audit": {"ordered": True}}


def document(scheme="sqs", **queues):
    app = CloudQ(namespace="shop", queues=queues or QUEUES)
    return describe(app, *described(app, scheme))


def infra(**more):
    queues = {"mail": {"hash": "0" * 12}}
    return json.dumps({"schema_version": 1, "url": "sqs://eu-west-1?account=1", "namespace": "shop", "queues": queues, **more})


@pytest.mark.parametrize("scheme", OPTIONS)
def test_the_names_are_those_that_the_adapter_asks_for(scheme):
    app = CloudQ(namespace="shop", queues=QUEUES)
    for name, queue in document(scheme)["queues"].items():
        native = OPTIONS[scheme].name
        for priority, physical in queue["names"]["main"].items():
            assert physical == native(app.address(name, Part.MAIN, priority))
        for part in (Part.DELAY, Part.DEAD):
            physical = queue["names"][part.value]
            assert physical is None or physical == native(app.address(name, part))


def test_a_prefix_of_the_url_is_in_the_names_of_its_own_provider_alone():
    app = CloudQ("sqs://eu-west-1?prefix=prod-", namespace="shop", queues={"mail": {}})
    assert describe(app, *described(app, None))["queues"]["mail"]["names"]["dead"] == "prod-shop-mail-dlq"
    assert describe(app, *described(app, "pubsub"))["queues"]["mail"]["names"]["dead"] == "shop-mail-dlq"


def test_the_same_settings_are_written_the_same_and_others_have_another_hash():
    first, again = document(), document(audit={"ordered": True}, mail={"priorities": ["high", "normal"]})
    assert written(first) == written(again)
    other = document(mail={"priorities": ["high", "normal"], "lease": "61s"}, audit={"ordered": True})
    assert other["config_hash"] != first["config_hash"]
    assert other["queues"]["mail"]["hash"] != first["queues"]["mail"]["hash"]
    assert other["queues"]["audit"]["hash"] == first["queues"]["audit"]["hash"]  # a change of one leaves the others' tags


def test_times_are_whole_seconds_and_never_shorter_than_asked_for():
    queue = document(mail={"lease": "90.2s", "retention": "1h"})["queues"]["mail"]
    assert (queue["lease_seconds"], queue["retention_seconds"]) == (91, 3600)


def test_nothing_to_describe():
    with pytest.raises(ConfigError, match=r"\[queues.default\] is enough"):
        described(CloudQ(), "sqs")
    with pytest.raises(ConfigError, match="SQLite has no infrastructure to make"):
        described(CloudQ(queues={"mail": {}}), "sqlite")
    with pytest.raises(ConfigError, match="choose one with --target"):
        described(CloudQ("sqs://eu-west-1", queues={"mail": {}, "log": {"url": "pubsub://a-project"}}), None)
    with pytest.raises(ConfigError, match="lets no name begin with 'goog'"):
        describe(app := CloudQ(namespace="google", queues={"mail": {}}), *described(app, "pubsub"))
    long = CloudQ("sqs://eu-west-1?prefix=a-very-long-prefix-", namespace="n" * 30, queues={"q" * 30: {}})
    with pytest.raises(ConfigError, match=r"has 8\d characters, and Amazon SQS takes 80"):
        describe(long, *described(long, "sqs"))


def test_queues_of_another_provider_are_left_out():
    app = CloudQ("sqs://eu-west-1", queues={"mail": {}, "log": {"url": "pubsub://a-project"}})
    assert described(app, "sqs")[1] == ["mail"]
    assert described(app, "pubsub")[1] == ["log", "mail"]
    assert described(app, "aws")[0].scheme == "sqs"


def test_export_writes_and_check_tells_what_differs(tmp_path, monkeypatch):
    def run(*words):
        done = CliRunner().invoke(main, ["infra", "export", "--target", "sqs", *words])
        return done.exit_code, done.output

    (tmp_path / "cloudq.toml").write_text('namespace = "shop"\n[queues.mail]\n')
    assert run("--check")[0] == 3
    assert run()[0] == 0
    assert run("--check") == (0, "cloudq.auto.tfvars.json is what the settings say\n")
    monkeypatch.setenv("CLOUDQ_QUEUES__MAIL__LEASE", "2m")
    code, said = run("--check")
    assert code == 3
    assert "queues.mail.lease_seconds is 60, the settings say 120" in said
    assert "taken from the environment, not from the file: CLOUDQ_QUEUES__MAIL__LEASE" in said
    monkeypatch.setenv("CLOUDQ_QUEUES__LOG__LEASE", "1m")
    code, said = run("--check")
    assert code == 3
    assert "the queue 'log' is in the settings and not in the file" in said
    assert "queues.log." not in said
    monkeypatch.delenv("CLOUDQ_QUEUES__LOG__LEASE")
    assert run()[0] == 0
    file = tmp_path / "cloudq.auto.tfvars.json"
    changed = json.loads(file.read_text())
    del changed["cloudq"]["queues"]["mail"]["serverless"]
    file.write_text(json.dumps(changed))
    assert run("--check")[0] == 3, "null is not nothing"
    file.write_text("{")
    assert run("--check")[0] == 2
    assert run("--check", "-o", "-")[0] == 2
    assert run("-o", "nowhere/a.json")[0] == 2
    shown = CliRunner().invoke(main, ["infra", "export", "--target", "sqs", "-o", "-"]).stdout
    assert json.loads(shown)["cloudq"]["queues"]["mail"]["lease_seconds"] == 120


def test_what_was_made_says_where_the_queues_are_unless_somebody_else_does(tmp_path):
    (tmp_path / "cloudq.infra.json").write_text(infra())
    found = load(environ={}, directory=tmp_path)
    assert (found.url, found.namespace) == ("sqs://eu-west-1?account=1", "shop")
    assert load(environ={"CLOUDQ_URL": "memory://a"}, directory=tmp_path).url == "memory://a"
    (tmp_path / "cloudq.toml").write_text('url = "memory://b"\n')
    assert load(environ={}, directory=tmp_path).url == "memory://b"
    assert load(environ={"CLOUDQ_INFRA": infra(url="memory://c")}, directory=tmp_path / "none").url == "memory://c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (infra(schema_version=2), "this cloudq reads 1"),
        ("[]", "is not what `terraform output -json cloudq_config` prints"),
        ('{"schema_version": 1}', "missing required field"),
        ("{", "is not what"),
    ],
)
def test_what_was_made_by_something_else_is_refused(tmp_path, text, said):
    (tmp_path / "cloudq.infra.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        made.read({}, tmp_path)
    with pytest.raises(ConfigError, match="is not a file"):
        made.read({"CLOUDQ_INFRA": "nowhere.json"}, tmp_path)


def test_a_worker_is_told_of_what_was_configured_after_the_apply(tmp_path):
    app = CloudQ("sqs://eu-west-1?account=1", namespace="shop", queues={"mail": {}, "log": {}})
    right = tag(app, facts_of("sqs"), "mail")

    def told(**more):
        (tmp_path / "cloudq.infra.json").write_text(infra(**more))
        return " ".join(stale(app, {}, tmp_path))

    assert "the queue 'mail' was configured anew" in told()
    assert "has no queue 'log'" in told()
    both = {"mail": {"hash": right}, "log": {"hash": tag(app, facts_of("sqs"), "log")}}
    assert told(queues=both) == ""
    assert "the namespace 'other'" in told(queues=both, namespace="other")
    assert stale(app, {}, Path("/nowhere")) == []
