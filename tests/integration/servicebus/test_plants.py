"""Bugs planted in the emulator: each turns the conformance suite red on the wire, and which scenario finds it is written down.

A suite that cannot fail shows nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from cloudq import CloudQ
from cloudq.driver import Part
from support.plants import goes_red
from support.servicebus import need_proton

need_proton()
from cloudq_servicebus.emulator.broker import Queue  # noqa: E402  needs proton
from cloudq_servicebus.emulator.server import Server  # noqa: E402  needs proton

LEASE = 30.0
_lock, _abandon, _complete, _put, _renew, _bury = (
    Queue._lock, Queue.abandon, Queue.complete, Queue.put, Queue.renew, Queue._bury,
)  # fmt: skip
_take, _take_in = Queue.take, Server.take_in


def a_lock_ends_at_once(self, stored, now, owner):
    before, self.settings.lock = self.settings.lock, 0.001
    _lock(self, stored, now, owner)
    self.settings.lock = before


def deliveries_are_not_counted(self, stored, now):
    _abandon(self, stored, now)
    stored.count = 0


def a_completed_message_stays(self, stored):
    self._unlock(stored)
    self._show(stored)


def a_renewal_does_nothing(self, stored, now):
    return stored.locked_until


def a_lock_that_ends_loses_its_message(self, stored, now):
    if stored.locked_until <= now:
        self._remove(stored)
    else:
        _abandon(self, stored, now)


def a_message_is_lost(self, queue, message, size, now):
    if str(message.id).endswith("3"):
        return 0
    return _take_in(self, queue, message, size, now)


def a_session_is_given_to_everybody(self, name):
    return False


def properties_are_lost(self, stored, now, at=None):
    stored.message.properties = None
    return _put(self, stored, now, at)


def a_scheduled_message_comes_at_once(self, stored, now, at=None):
    return _put(self, stored, now, None)


def duplicates_are_kept(self, message_id, now):
    return False


def bodies_become_text(self, stored, now, at=None):
    stored.message.body = bytes(stored.message.body).decode("latin-1").encode()
    return _put(self, stored, now, at)


def the_reason_of_a_dead_letter_is_lost(self, stored, reason, description, now):
    _bury(self, stored, reason, "", now)


def a_cancelled_message_stays(self, sequences):
    return True


#: What is replaced by it, and who finds it.
PLANTS = {
    a_lock_ends_at_once: (Queue, "_lock", "a_leased_message_is_hidden"),
    deliveries_are_not_counted: (Queue, "abandon", "an_abandoned_message_comes_back"),
    a_completed_message_stays: (Queue, "complete", "an_acked_message_is_gone"),
    a_renewal_does_nothing: (Queue, "renew", "an_extended_lease_lasts"),
    a_lock_that_ends_loses_its_message: (Queue, "abandon", "an_abandoned_message_comes_back"),
    a_message_is_lost: (Server, "take_in", "a_full_batch_is_confirmed_and_complete"),
    a_session_is_given_to_everybody: (Queue, "_taken", "a_group_waits_for_its_leased_head"),
    properties_are_lost: (Queue, "put", "a_message_arrives_as_it_was_sent"),
    a_scheduled_message_comes_at_once: (Queue, "put", "a_delay_is_kept_by_the_provider"),
    duplicates_are_kept: (Queue, "_seen", "a_repeated_id_is_dropped_in_its_window"),
    bodies_become_text: (Queue, "put", "a_message_arrives_as_it_was_sent"),
    the_reason_of_a_dead_letter_is_lost: (Queue, "_bury", "a_dead_letter_keeps_its_bytes"),
    a_cancelled_message_stays: (Queue, "cancel", "what_is_scheduled_can_be_taken_back"),
}


class Harness:
    lease, tick = LEASE, 1.0

    def __init__(self, bus):
        self.bus = bus

    @asynccontextmanager
    async def open(self):
        async with self.bus.driver() as driver:
            yield driver

    async def queue(self, part=Part.MAIN, *, ordered=False, dedup=0.0):
        if part is Part.DEAD:
            return self.bus.dead(self.latest)
        self.latest = await self.bus.queue(ordered=ordered, lease=LEASE, dedup=dedup)
        return self.latest

    async def pass_time(self, seconds):
        self.bus.advance(seconds)

    def app(self, **queues) -> CloudQ:
        raise NotImplementedError


@pytest.mark.timeout(180)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
async def test_a_planted_bug_turns_conformance_red(bus, plant, monkeypatch):
    owner, name, finder = PLANTS[plant]
    assert not await goes_red(Harness(bus), finder)
    monkeypatch.setattr(owner, name, plant)
    assert await goes_red(Harness(bus), finder)


def test_there_are_ten():
    assert len(PLANTS) >= 10
