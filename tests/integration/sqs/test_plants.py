"""Bugs planted in the emulator: each turns the conformance suite red on the wire, and which scenario finds it is written down.

A suite that cannot fail shows nothing.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import boto3
import pytest

from cloudq import CloudQ
from cloudq.driver import Part, Queue
from cloudq_sqs import provision
from cloudq_sqs.emulator.broker import Message, Refusal
from cloudq_sqs.emulator.broker import Queue as Held
from cloudq_sqs.emulator.service import Service
from support.plants import goes_red

#: Short, because a poll lasts a third of it at the most, in real time.
LEASE = 6.0
_take, _change, _remove, _put = Held.take, Held.change, Held.remove, Held.put
_receive, _delete, _send, _create = Service.receive_message, Service._delete, Service._send, Service.create_queue


def visibility_is_ignored(self, message, now, visibility):
    _take(self, message, now, 0.001)


def the_count_is_not_raised(self, message, now, visibility):
    before = message.count
    _take(self, message, now, visibility)
    message.count = max(1, before)


def a_deleted_message_stays(self, queue, entry):
    return {}


def a_release_is_not_delayed(self, message, now, visibility):
    _change(self, message, now, 0.0 if visibility != LEASE else visibility)


def an_extension_does_nothing(self, message, now, visibility):
    if visibility == 0:
        _change(self, message, now, visibility)


def a_delay_is_dropped(self, queue, entry):
    return _send(self, queue, {**entry, "DelaySeconds": 0} if not queue.fifo else entry)


def an_entry_is_lost(self, queue, entry):
    answer = _send(self, queue, entry)
    if entry.get("Id") == "3":
        queue.remove(queue.messages[answer["MessageId"]])
    return answer


def a_group_is_not_locked(self, message, now, visibility):
    _take(self, message, now, visibility)
    if self.fifo:
        self._groups[message.group or ""].in_flight -= 1


def attributes_are_lost(self, message: Message, now):
    message.attributes = {}
    _put(self, message, now)


def a_duplicate_is_delivered(self, dedup_id, group, now):
    return None


def a_failed_entry_fails_its_neighbours(self, queue, entry):
    if entry.get("Id") == "0" or getattr(self, "broken", False):
        self.broken = True
        raise Refusal("ReceiptHandleIsInvalid", "planted")
    return _delete(self, queue, entry)


#: What is replaced by it, and who finds it.
PLANTS = {
    visibility_is_ignored: (Held, "take", "a_leased_message_is_hidden"),
    the_count_is_not_raised: (Held, "take", "an_abandoned_message_comes_back"),
    a_deleted_message_stays: (Service, "_delete", "an_acked_message_is_gone"),
    a_release_is_not_delayed: (Held, "change", "a_release_with_a_delay_waits_at_the_provider"),
    an_extension_does_nothing: (Held, "change", "an_extended_lease_lasts"),
    a_delay_is_dropped: (Service, "_send", "a_delay_is_kept_by_the_provider"),
    an_entry_is_lost: (Service, "_send", "a_full_batch_is_confirmed_and_complete"),
    a_group_is_not_locked: (Held, "take", "a_group_waits_for_its_leased_head"),
    attributes_are_lost: (Held, "put", "a_message_arrives_as_it_was_sent"),
    a_duplicate_is_delivered: (Held, "duplicate_of", "a_repeated_id_is_dropped_in_its_window"),
    a_failed_entry_fails_its_neighbours: (Service, "_delete", "an_acked_message_is_gone"),
}


class Harness:
    lease, tick = 3.0, 1.0

    def __init__(self, sqs):
        self.sqs = sqs

    @asynccontextmanager
    async def open(self):
        async with self.sqs.driver() as driver:
            yield driver

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        queue = Queue("main", f"p{random.getrandbits(48)}", part, ordered=ordered, lease=LEASE, dedup=dedup)
        provision.create(self.client(), self.sqs.options(), [queue])
        return queue

    def client(self):
        return boto3.client("sqs", endpoint_url=self.sqs.endpoint)

    async def pass_time(self, seconds):
        self.sqs.advance(seconds)

    def app(self, **queues) -> CloudQ:
        raise NotImplementedError


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
async def test_a_planted_bug_turns_conformance_red(sqs, plant, monkeypatch):
    owner, name, finder = PLANTS[plant]
    assert not await goes_red(Harness(sqs), finder)
    monkeypatch.setattr(owner, name, plant)
    assert await goes_red(Harness(sqs), finder)


def test_there_are_ten():
    assert len(PLANTS) >= 10
