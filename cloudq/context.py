"""What a task may know about its own run."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import Any

logger: logging.Logger = logging.getLogger("cloudq.task")


class TaskLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry the task, its id and the attempt."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the task's facts to whatever `extra` the call has."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class Context:
    """The optional first parameter of a task.

    `attempt` counts from 1 and is an upper bound: a run that was cut short may be counted without having happened.
    `deadline` is when the run should be over, in seconds since the epoch, or None where the task has no timeout.
    """

    __slots__ = ("_lost", "attempt", "deadline", "priority", "queue", "task", "task_id")

    def __init__(
        self,
        *,
        task: str,
        task_id: str,
        queue: str,
        attempt: int = 1,
        priority: str = "normal",
        deadline: float | None = None,
        lost: Callable[[], bool] = lambda: False,
    ) -> None:
        """`lost` answers for `lease_lost`."""
        self.task: str = task
        self.task_id: str = task_id
        self.queue: str = queue
        self.attempt: int = attempt
        self.priority: str = priority
        self.deadline: float | None = deadline
        self._lost = lost

    @property
    def logger(self) -> TaskLogger:
        """A logger whose records carry the task, its id and the attempt."""
        return TaskLogger(logger, {"task": self.task, "task_id": self.task_id, "attempt": self.attempt})

    @property
    def lease_lost(self) -> bool:
        """True once somebody else may be running this task: stop, and leave no second effect. The result will not count."""
        return self._lost()
