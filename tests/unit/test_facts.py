"""The facts of every provider are complete, sourced, and consistent with each other."""

from __future__ import annotations

import dataclasses
import math

import pytest

from cloudq.driver import Limits
from cloudq.errors import ConfigError
from cloudq.facts import ASPECTS, CASES, How, facts_of, known

PROVIDERS = ("memory", "pubsub", "servicebus", "sqlite", "sqs")
FIGURES = ("resolution", "hidden", "threshold", "tells", "peeks")

provider = pytest.mark.parametrize("facts", [facts_of(scheme) for scheme in PROVIDERS], ids=PROVIDERS)


def test_every_provider_registers_its_facts():
    assert known() == list(PROVIDERS)


def test_a_misspelt_provider_gets_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'pubsub'"):
        facts_of("pubsubs")


@provider
def test_every_figure_has_a_source(facts):
    figures = {field.name for field in dataclasses.fields(Limits)} - {"provider"} | set(FIGURES)
    assert figures == set(facts.sources)
    assert all(facts.sources.values())
    assert facts.cost.source


@provider
def test_there_is_one_rule_for_every_case(facts):
    assert sorted((rule.aspect, rule.case) for rule in facts.rules) == sorted(facts.cases())
    assert {aspect for aspect, _ in facts.cases()} == set(ASPECTS)
    assert set(facts.cases()) <= {(aspect, case) for aspect in ASPECTS for case in CASES[aspect]}


@provider
def test_what_is_composed_tells_its_cost(facts):
    for rule in facts.rules:
        assert rule.source
        assert rule.cost or rule.how is not How.COMPOSED, rule
        rule.value.format(lease=60, threshold=45, dedup=300, retention=604800, dead_retention=1209600, oldest=3600)


@provider
def test_rules_and_limits_say_the_same(facts):
    limits = facts.limits
    native = {(rule.aspect, rule.case) for rule in facts.rules if rule.how is How.NATIVE}
    assert (("dead-letter", "explicit") in native) is limits.native_dead_letter
    assert (("order", "key") in native) is limits.native_order
    assert (("delay", "ordered") in native) is limits.ordered_delay
    assert (("dedup", "plain") in native) is (limits.dedup == "all")
    assert (("dedup", "ordered") in native) is (limits.dedup != "none")
    assert (("delay", "within") in native) is (limits.send_delay > 0)


@provider
def test_a_hidden_message_has_room_for_a_run_and_its_delay(facts):
    if math.isfinite(facts.hidden):
        assert facts.limits.release_delay * 2 <= facts.hidden
        assert facts.limits.lease[1] <= facts.hidden


@pytest.mark.parametrize(
    ("scheme", "attempts", "net"),
    [("sqs", 15, 45), ("sqs", 2, 22), ("sqs", 900, 1000), ("pubsub", 15, 45), ("pubsub", 60, 100), ("sqlite", 15, None)],
)
def test_the_native_net_lies_far_behind(scheme, attempts, net):
    assert facts_of(scheme).net(attempts) == net


def test_the_net_of_a_queue_with_a_function_bears_an_outage_of_it():
    assert facts_of("sqs").net(5) == 25
    assert [facts_of(scheme).net(5, served=True) for scheme in ("sqs", "pubsub", "servicebus")] == [100, 100, 100]
    assert facts_of("sqs").net(50, served=True) == 150
