"""How the queues that there are differ from those that are declared, for `cloudq doctor`. Only reads.

Beside the settings themselves it looks for what loses work on Service Bus without a word: a queue that is deleted when idle,
dead letters that are forwarded away, a queue that takes or gives nothing. The tag of the last apply is on the namespace, where
it is not seen from here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cloudq.driver import Check, Queue
from cloudq_servicebus.settings import settings

if TYPE_CHECKING:
    from azure.servicebus.management import QueueProperties

_WHY = {
    "lock_duration": "a task comes again while it runs, or too late after a crash",
    "requires_session": "a queue keeps its kind for ever; tasks would lose their order, or sends fail",
    "requires_duplicate_detection": "a queue keeps its kind for ever; a copy that is made twice is run twice",
    "duplicate_detection_history_time_window": "a copy that is made twice is run twice",
    "max_delivery_count": "Service Bus moves tasks in the middle of their retries, or poison for ever comes back",
    "default_message_time_to_live": "a task is moved away at the end of it, whether it was run or not",
    "dead_lettering_on_message_expiration": "a task that waited too long is deleted without a trace",
}
_FOR_EVER = {"requires_session", "requires_duplicate_detection"}
_FLAGS = {
    "lock_duration": "--lock-duration",
    "duplicate_detection_history_time_window": "--duplicate-detection-history-time-window",
    "max_delivery_count": "--max-delivery-count",
    "default_message_time_to_live": "--default-message-time-to-live",
    "dead_lettering_on_message_expiration": "--enable-dead-lettering-on-message-expiration",
}
#: docs, message expiration: the longest there is, which stands for never.
_NEVER = timedelta(days=10_000)


def compare(name: str, namespace: str, queue: Queue, live: QueueProperties | None) -> list[Check]:
    """Compare one queue; `live` is None when there is none of this name."""
    update = f"terraform apply, or: az servicebus queue update -g <group> --namespace-name {namespace} --name {name}"
    if live is None:
        why, mend = "tasks cannot be sent to it", "terraform apply, or for development: cloudq queues create"
        return [Check.compare(name, "exists", declared=True, live=False, why=why, mend=mend)]
    found: list[Check] = []
    for setting, wanted in settings(queue).items():
        mend = f"{update} {_FLAGS.get(setting, '')} {_iso(wanted)}"
        if setting in _FOR_EVER:
            mend = "make a new queue: this cannot be changed"
        found.append(_say(name, setting, _iso(wanted), _iso(getattr(live, setting)), _WHY[setting], mend))
    idle: Any = live.auto_delete_on_idle
    mend = update.removeprefix("terraform apply, or: ")
    found += [
        _say(
            name,
            "auto_delete_on_idle",
            "never",
            "never" if idle is None or idle >= _NEVER else _iso(idle),
            "a queue that nobody uses for so long is deleted, with what waits in it",
            f"{mend} --auto-delete-on-idle P10675199D",
        ),
        _say(name, "forward_to", "none", live.forward_to or "none", "workers get nothing", f"{mend} --forward-to ''"),
        _say(
            name,
            "forward_dead_lettered_messages_to",
            "none",
            live.forward_dead_lettered_messages_to or "none",
            "`cloudq dlq` does not find what was given up",
            f"{mend} --forward-dead-lettered-messages-to ''",
        ),
        _say(
            name,
            "status",
            "Active",
            str(getattr(live.status, "value", live.status)),
            "it takes nothing, or gives nothing",
            f"{mend} --status Active",
        ),
    ]
    return found


def _say(name: str, setting: str, declared: str, live: str, why: str, mend: str) -> Check:
    return Check.compare(name, setting, declared, live, why=why, mend=mend)


def _iso(value: object) -> str:
    """Return a setting as the portal and the command line write it."""
    if not isinstance(value, timedelta):
        return str(value)
    rest = int(value.total_seconds()) % 86_400
    hours, minutes, seconds = rest // 3600, rest % 3600 // 60, rest % 60
    time = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M"), (seconds, "S")) if count)
    days = f"{value.days}D" if value.days else ""
    return f"P{days}{'T' + time if time else ''}" if days or time else "PT0S"
