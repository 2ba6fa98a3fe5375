"""A backend for Django's Tasks (`django.tasks` from Django 6.0, `django_tasks` before it), and the worker's side of it.

A task of Django becomes one of cloudq's, `django.run`, which names the function; what is enqueued in a transaction is sent when
it commits, so that no worker looks for a row that is not there yet. `run_after` is a delay.

    cloudq worker cloudq_backend:app
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# django_tasks leaves some of its types open.
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import django
from django.apps import apps
from django.db import close_old_connections, transaction
from django.utils import timezone
from django.utils.module_loading import import_string
from django_tasks.backends.base import BaseTaskBackend
from django_tasks.base import Task, TaskResult, TaskResultStatus
from django_tasks.exceptions import InvalidTaskError
from django_tasks.signals import task_enqueued

from cloudq import CloudQ, Context

app = CloudQ()


@app.middleware
@contextmanager
def connections(ctx: Context) -> Generator[None]:
    """A connection to the database that has gone stale is closed, before a run and after it, as around a request."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


@app.task(name="django.run")
def run(path: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Run the function of a Django task."""
    if not apps.ready:
        django.setup()
    task: Any = import_string(path)
    task.func(*args, **kwargs)


class CloudQBackend(BaseTaskBackend):
    """TASKS = {"default": {"BACKEND": "cloudq_backend.CloudQBackend"}}. Where the queues are is said by CLOUDQ_URL."""

    supports_defer = True

    def enqueue(self, task: Task[..., Any], args: Any, kwargs: Any) -> TaskResult[Any]:
        self.validate_task(task)
        if task.takes_context:
            raise InvalidTaskError("takes_context: Django's context is not there in a worker of cloudq.")
        task_id = uuid.uuid4().hex
        options: dict[str, Any] = {"task_id": task_id}
        if task.run_after is not None:
            options["at"] = task.run_after
        message = run.options(**options).message(task.module_path, list(args), dict(kwargs))
        result: TaskResult[Any] = TaskResult(
            task=task,
            id=task_id,
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

        def send() -> None:
            app.enqueue(message)
            task_enqueued.send(type(self), task_result=result)

        if transaction.get_connection().in_atomic_block:
            # After the commit, and after a rollback never. One that fails keeps the others of the transaction from nothing;
            # Django logs it.
            transaction.on_commit(send, robust=True)
        else:
            send()  # an error of the provider is the caller's
        return result
