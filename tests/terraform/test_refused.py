"""What cannot be is refused three times: by `cloudq check`, by `cloudq infra export`, and by Terraform if it gets that far.

Each message names the setting, the value, the limit and what to do. What reaches Terraform is a description that somebody
changed after the export; its hash is made right again, so that each rule is seen by itself.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.infra import _hash, describe, described
from support.terraform import CLOUDS, MODULES

TARGETS = {scheme: cloud for cloud, scheme in CLOUDS.items()}
GOOD = {"mail": {"lease": "2m"}, "audit": {"ordered": True}}


@dataclass(frozen=True)
class Bad:
    """A configuration that is refused; `said` are setting, value, limit and remedy, in both languages' words."""

    target: str
    toml: str
    edit: dict[str, Any]
    said: tuple[str, ...]
    terraform: tuple[str, ...] = ()
    ordered: bool = False


S = '[queues.mail.serverless]\ntimeout = "20s"\n'
FUNCTION = {"timeout_seconds": 20, "batch": 10, "window_seconds": 0, "concurrency": 0}
BAD = {
    "lease too short": Bad(
        "pubsub", 'lease = "5s"', {"lease_seconds": 5}, ("queues.mail.lease", "5s", "10s", "Choose|Change")
    ),
    "lease too long": Bad(
        "servicebus", 'lease = "10m"', {"lease_seconds": 600}, ("queues.mail.lease", "10m|600s", "5m|300s", "Choose|Change")
    ),
    "retention too long": Bad(
        "sqs", 'retention = "15d"', {"retention_seconds": 1_296_000},
        ("queues.mail.retention", "15d|1296000s", "14d|1209600s|1.2096e", "Choose|Change"),
    ),
    "retention too short": Bad(
        "pubsub", 'retention = "5m"', {"retention_seconds": 300},
        ("queues.mail.retention", "5m|300s", "10m|600s", "Choose|Change"),
    ),
    "dead retention too long": Bad(
        "pubsub", 'dead_retention = "60d"', {"dead_retention_seconds": 5_184_000},
        ("queues.mail.dead_retention", "60d|5184000s", "31d|2678400s", "Choose|Change"),
    ),
    "dead retention where there is none": Bad(
        "servicebus", 'dead_retention = "30d"', {"dead_retention_seconds": 2_592_000},
        ("queues.mail.dead_retention", "30d|2592000s", "until somebody removes it", "Leave the setting out"),
    ),
    "dead sooner gone than waiting": Bad(
        "sqs", 'dead_retention = "1d"', {"dead_retention_seconds": 86_400},
        ("dead_retention", "1d|86400s", "7d|604800s", "Choose|Change"),
    ),
    "nothing left of what is moved late": Bad(
        "sqs", 'retention = "14d"', {"retention_seconds": 1_209_600},
        ("queues.mail.retention", "14d|1209600s", "keeps its age", "Choose a retention below"),
    ),
    "more attempts than the net can bear": Bad(
        "pubsub", "max_attempts = 99", {"max_attempts": 99, "max_deliveries": 100},
        ("queues.mail.max_attempts", "99", "100 deliveries", "Choose 95"),
    ),
    "no attempt at all": Bad(
        "sqs", "max_attempts = 0", {"max_attempts": 0}, ("max_attempts = 0", "at least once|Choose \\d+ or fewer")
    ),
    "dedup without order": Bad(
        "sqs", 'dedup = "5m"', {"dedup_seconds": 300},
        ("queues.mail.dedup", "5m|300s", "drops no duplicates where ordered is not set", "Remove it"),
    ),
    "dedup where there is none": Bad(
        "pubsub", 'dedup = "5m"', {"dedup_seconds": 300}, ("queues.mail.dedup", "5m|300s", "drops no duplicates", "Remove it")
    ),
    "another window than there is": Bad(
        "sqs", 'ordered = true\ndedup = "1h"', {"dedup_seconds": 3600},
        ("queues.(mail|audit).dedup", "60m|3600s", "5m|300s", "Choose that"), ordered=True,
    ),
    "a window that is too long": Bad(
        "servicebus", 'dedup = "8d"', {"dedup_seconds": 691_200},
        ("queues.mail.dedup", "8d|691200s", "7d|604800s", "Choose that"),
    ),
    "no normal priority": Bad(
        "sqs", 'priorities = ["high"]', {"names": {"main": {"high": "shop-mail-high"}, "delay": "d", "dead": "e"}},
        ("priorities", "high", "normal", "must contain|must be one"),
    ),
    "a priority that there is not": Bad(
        "sqs", 'priorities = ["normal", "urgent"]',
        {"names": {"main": {"normal": "n", "urgent": "u"}, "delay": "d", "dead": "e"}},
        ("queues.mail.priorities", "urgent", "high", "'low'|'urgent'"),
    ),
    "two queues of one name": Bad(
        "sqs", '[queues.mail-dlq]\nlease = "1m"', {"names": {"main": {"normal": "shop-audit.fifo"}, "delay": "d", "dead": "e"}},
        ("mail", "shop-mail-dlq|shop-audit.fifo", "would both use the physical queue", "Rename one of them"),
    ),
    "an age that is not watched": Bad(
        "servicebus", '[queues.mail.alarm]\noldest = "2h"', {"alarm": {"oldest_seconds": 7200, "dead": 1}},
        ("queues.mail.alarm.oldest", "2h|7200s", "12h|43200", "Choose one of them"),
    ),
    "an age that nothing reaches": Bad(
        "sqs", 'retention = "4d"\n[queues.mail.alarm]\noldest = "5d"',
        {"retention_seconds": 345_600, "alarm": {"oldest_seconds": 432_000, "dead": 1}},
        ("queues.mail.alarm.oldest", "5d|432000s", "4d|345600s", "Choose a shorter time"),
    ),
    "a function for what is in order": Bad(
        "servicebus", f"ordered = true\n{S}", {"serverless": {**FUNCTION, "batch": 1}},
        ("queues.(mail|audit).serverless with ordered = true", "Let workers run it"), ordered=True,
    ),
    "fewer dead than none": Bad(
        "sqs", "[queues.mail.alarm]\ndead = -1", {"alarm": {"oldest_seconds": 3600, "dead": -1}},
        ("alarm.dead", "-1", "the first dead task", "0 for never"),
    ),
    "fewer workers than the fewest": Bad(
        "sqs", "[queues.mail.scale]\nminimum = 5\nmaximum = 2", {"scale": {"backlog": 10, "minimum": 5, "maximum": 2}},
        ("minimum", "5", "0 <= minimum <= maximum", "choose"),
    ),
    "a backlog of nothing": Bad(
        "sqs", "[queues.mail.scale]\nbacklog = 0", {"scale": {"backlog": 0, "minimum": 0, "maximum": 2}},
        ("scale.backlog = 0", "1 waiting task|a backlog of 1", "[Cc]hoose"),
    ),
    "a function that is slower than it may be": Bad(
        "sqs", 'lease = "11h"\n[queues.mail.serverless]\ntimeout = "20m"',
        {"lease_seconds": 39_600, "serverless": {**FUNCTION, "timeout_seconds": 1200}},
        ("queues.mail.serverless.timeout", "20m|1200s", "15m|900s", "Choose"),
    ),
    "a lease that is too short for its function": Bad(
        "sqs", f"{S}", {"lease_seconds": 60, "serverless": FUNCTION},
        ("queues.mail.lease = 60s", "at least 6 ", "20s", "Set lease"),
    ),
    "too large a batch": Bad(
        "sqs", f'lease = "2m"\n{S}batch = 20000\nwindow = "5s"',
        {"serverless": {**FUNCTION, "batch": 20_000, "window_seconds": 5}},
        ("queues.mail.serverless.batch", "20000", "10000|1e\\+04", "Choose that"),
    ),
    "a batch where one at a time is pushed": Bad(
        "pubsub", f"{S}batch = 10", {"serverless": FUNCTION},
        ("queues.mail.serverless.batch", "batch = 10", "hands over 1", "Choose that"),
    ),
    "a large batch without a window": Bad(
        "sqs", f'lease = "2m"\n{S}batch = 100', {"serverless": {**FUNCTION, "batch": 100}},
        ("queues.mail.serverless.batch", "100", "a second", "Set"),
    ),
    "a window on ordered work": Bad(
        "sqs", f'lease = "2m"\nordered = true\n{S}window = "5s"', {"serverless": {**FUNCTION, "window_seconds": 5}},
        ("serverless.window", "5s", "an ordered queue|0 to 0", "Choose"), ordered=True,
    ),
    "one call at once": Bad(
        "sqs", f'lease = "2m"\n{S}concurrency = 1', {"serverless": {**FUNCTION, "concurrency": 1}},
        ("queues.mail.serverless.concurrency = 1:", "2 to 1000", "Choose"),
    ),
    "a bound that nobody keeps": Bad(
        "pubsub", f"{S}concurrency = 5", {"serverless": {**FUNCTION, "batch": 1, "concurrency": 5}},
        ("queues.mail.serverless.concurrency = 5:", "does not bound|nothing", "leave it out|Leave it out"),
    ),
    "a misspelt key": Bad(
        "sqs", 'laese = "5m"', {"laese_seconds": 300},
        ("queues.mail.*laese", "laese", "lease", "Did you mean|Write it anew"),
    ),
    "a misspelt table": Bad(
        "sqs", '[queues.mail.alarms]\noldest = "1h"', {"alarms": {}},
        ("queues.mail.*alarms", "alarms", "alarm", "Did you mean|Write it anew"),
    ),
    "text for a number": Bad(
        "sqs", 'max_attempts = "many"', {"max_attempts": "many"},
        ("queues.mail.max_attempts", "many", "int|is not a number", "Expected|Change cloudq.toml"),
    ),
}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory with an application and the configuration."""

    def write(toml: str) -> None:
        (tmp_path / "shop.py").write_text("from cloudq import CloudQ\napp = CloudQ()\n")
        (tmp_path / "cloudq.toml").write_text(f'namespace = "shop"\n[queues.mail]\n{toml}\n')

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["check", "export"])
def test_python_refuses(project, monkeypatch, name, command):
    bad = BAD[name]
    project(bad.toml)
    monkeypatch.delitem(__import__("sys").modules, "shop", raising=False)
    words = ["check", "shop:app", "--target", bad.target] if command == "check" else ["infra", "export", "--target", bad.target]
    done = CliRunner().invoke(main, words)
    assert done.exit_code in (2, 3), done.output
    for said in bad.said:
        assert re.search(said, done.output), (said, done.output)


@pytest.mark.parametrize("name", BAD)
def test_terraform_refuses(terraform, name):
    bad = BAD[name]
    document = copy.deepcopy(describe(app := CloudQ(namespace="shop", queues=GOOD), *described(app, bad.target)))
    document["queues"]["audit" if bad.ordered else "mail"].update(bad.edit)
    document["config_hash"] = _hash({key: value for key, value in document.items() if key != "config_hash"})
    cloud = TARGETS[bad.target]
    made = terraform(f"modules/{cloud}", **MODULES[cloud], cloudq=document)
    done = made.run("plan", "-input=false", "-no-color")
    text = re.sub(r"\s+", " ", done.out)
    assert done.code == 1, text[-2000:]
    for said in bad.terraform or bad.said:
        assert re.search(said, text), (said, text[-3000:])


def test_a_description_that_was_not_hashed_again_is_refused_as_a_whole(terraform):
    document = describe(app := CloudQ(namespace="shop", queues=GOOD), *described(app, "sqs"))
    document["queues"]["mail"]["lease_seconds"] = 90
    done = terraform("modules/aws", cloudq=document).run("plan", "-input=false", "-no-color")
    assert done.code == 1
    assert "Change cloudq.toml, and write it anew" in re.sub(r"\s+", " ", done.out)


def test_more_queues_than_a_policy_can_name_are_refused_before_the_apply(terraform):
    app = CloudQ(namespace="shop", queues={f"mail-{number}": {} for number in range(40)})
    done = terraform("modules/aws", cloudq=describe(app, *described(app, "sqs"))).run("plan", "-input=false", "-no-color")
    said = re.sub(r"\s+", " ", done.out)
    assert done.code == 1
    assert re.search(
        r"40 queues are too many for one policy: that of the worker has some \d+ characters, and IAM takes 6144", said
    )


@pytest.mark.parametrize(("key", "value", "said"), [("schema_version", 2, "read 1"), ("provider", "pubsub", "--target sqs")])
def test_a_description_for_something_else_is_refused(terraform, key, value, said):
    document = {**describe(app := CloudQ(namespace="shop", queues=GOOD), *described(app, "sqs")), key: value}
    document["config_hash"] = _hash({key: value for key, value in document.items() if key != "config_hash"})
    done = terraform("modules/aws", cloudq=document).run("plan", "-input=false", "-no-color")
    assert done.code == 1
    assert said in re.sub(r"\s+", " ", done.out)


def test_there_are_enough():
    assert len(BAD) >= 20
