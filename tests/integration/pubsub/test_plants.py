"""Bugs planted in the emulator: each turns the conformance suite red on the wire, and which scenario finds it is written down.

A suite that cannot fail shows nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from cloudq import CloudQ
from cloudq.driver import Part
from cloudq_pubsub.emulator.broker import Subscription
from cloudq_pubsub.emulator.service import Service
from support.plants import goes_red

#: Short, because a pull lasts a third of it at the most, in real time.
LEASE = 10.0
_take, _modify, _ack, _put, _back = (
    Subscription.take, Subscription.modify, Subscription.ack, Subscription.put, Subscription._back,
)  # fmt: skip
_publish = Service._publish


def the_deadline_is_ignored(self, most, deadline, now):
    return _take(self, most, 0.001, now)


def attempts_are_not_counted(self, held, now):
    held.attempt = 0
    _back(self, held, now)


def an_acknowledged_message_stays(self, ack_ids):
    return []


def a_release_is_not_delayed(self, ack_ids, seconds, now):
    return _modify(self, ack_ids, 0.0 if seconds != LEASE else seconds, now)


def an_extension_does_nothing(self, ack_ids, seconds, now):
    return _modify(self, ack_ids, seconds, now) if seconds == 0 else []


def an_expired_message_is_lost(self, held, now):
    if held.due <= now:
        self._forget(held)
    else:
        _back(self, held, now)


def a_message_is_lost(self, topic, messages):
    ids = [str(number) for number, _ in enumerate(messages)]
    _publish(self, topic, [message for number, message in enumerate(messages) if number != 3])
    return ids


def a_key_is_not_held_back(self, most, deadline, now):
    taken = _take(self, most, deadline, now)
    for key in self._keys.values():
        key.given.clear()
    return taken


def attributes_are_lost(self, message, now):
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("attributes")
    return _put(self, copy, now)


def a_message_is_delivered_twice(self, message, now):
    _put(self, message, now)
    return _put(self, message, now)


def bodies_become_text(self, message, now):
    copy = type(message)()
    copy.CopyFrom(message)
    copy.data = message.data.decode("latin-1").encode()
    return _put(self, copy, now)


#: What is replaced by it, and who finds it.
PLANTS = {
    the_deadline_is_ignored: (Subscription, "take", "a_leased_message_is_hidden"),
    attempts_are_not_counted: (Subscription, "_back", "an_abandoned_message_comes_back"),
    an_acknowledged_message_stays: (Subscription, "ack", "an_acked_message_is_gone"),
    a_release_is_not_delayed: (Subscription, "modify", "a_release_with_a_delay_waits_at_the_provider"),
    an_extension_does_nothing: (Subscription, "modify", "an_extended_lease_lasts"),
    an_expired_message_is_lost: (Subscription, "_back", "an_abandoned_message_comes_back"),
    a_message_is_lost: (Service, "_publish", "a_full_batch_is_confirmed_and_complete"),
    a_key_is_not_held_back: (Subscription, "take", "a_group_waits_for_its_leased_head"),
    attributes_are_lost: (Subscription, "put", "a_message_arrives_as_it_was_sent"),
    a_message_is_delivered_twice: (Subscription, "put", "receivers_share_without_overlap"),
    bodies_become_text: (Subscription, "put", "a_message_arrives_as_it_was_sent"),
}


class Harness:
    lease, tick = LEASE, 1.0

    def __init__(self, pubsub):
        self.pubsub = pubsub

    @asynccontextmanager
    async def open(self):
        async with self.pubsub.driver() as driver:
            yield driver

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        return await self.pubsub.queue(part, ordered=ordered, lease=LEASE)

    async def pass_time(self, seconds):
        self.pubsub.advance(seconds)

    def app(self, **queues) -> CloudQ:
        raise NotImplementedError


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
async def test_a_planted_bug_turns_conformance_red(pubsub, plant, monkeypatch):
    owner, name, finder = PLANTS[plant]
    assert not await goes_red(Harness(pubsub), finder)
    monkeypatch.setattr(owner, name, plant)
    assert await goes_red(Harness(pubsub), finder)


def test_there_are_ten():
    assert len(PLANTS) >= 10
