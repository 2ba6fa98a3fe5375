"""cloudq: declare a task once, run it on any managed queue.

from cloudq import CloudQ

app = CloudQ()

@app.task
def greet(name: str) -> None:
    print(f"hello, {name}")

greet.enqueue("world")
"""

from cloudq.app import CloudQ
from cloudq.context import Context
from cloudq.errors import (
    ArgumentsError,
    CloudQError,
    ConfigError,
    EnqueueError,
    EnqueueRejected,
    EnqueueUnknown,
    MessageTooLarge,
    PartialEnqueueError,
    Unsupported,
)
from cloudq.outcome import Reject, Retry
from cloudq.retry import NO_RETRY, Backoff
from cloudq.task import Message, Receipt, Task

__all__ = [
    "NO_RETRY",
    "ArgumentsError",
    "Backoff",
    "CloudQ",
    "CloudQError",
    "ConfigError",
    "Context",
    "EnqueueError",
    "EnqueueRejected",
    "EnqueueUnknown",
    "Message",
    "MessageTooLarge",
    "PartialEnqueueError",
    "Receipt",
    "Reject",
    "Retry",
    "Task",
    "Unsupported",
]
