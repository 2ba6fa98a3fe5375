"""A declared task: a function that can be called here and now, or enqueued to run elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar, get_args

from cloudq.config import PRIORITIES, PriorityName
from cloudq.context import Context
from cloudq.durations import Duration, seconds
from cloudq.envelope import valid_task_id
from cloudq.errors import ConfigError, names_options, nearest
from cloudq.outcome import Policy
from cloudq.retry import Backoff
from cloudq.signature import Signature

#: `on_success` gets the context and what the task returned, `on_failure` the context and what it raised.
Hook = Callable[[Context, Any], Any]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one enqueue asks for. Times of day as an aware datetime, durations in seconds."""

    delay: float = 0.0
    at: datetime | None = None
    priority: PriorityName = "normal"
    expires: float | datetime | None = None
    ordering_key: str | None = None
    tenant: str | None = None
    task_id: str | None = None
    cancellable: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A task with its arguments, checked and ready to be enqueued with others. Its id is made here, before any try."""

    task: Task[Any, Any]
    task_id: str
    data: bytes
    options: Options


@dataclass(frozen=True, slots=True)
class Canceller:
    """How a receipt takes its task back."""

    cancel: Callable[[], bool]
    acancel: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The provider has the task. `due` is when it may run, in seconds since the epoch, or None for now."""

    task_id: str
    queue: str
    due: float | None = None
    canceller: Canceller | None = field(default=None, repr=False, compare=False)

    def cancel(self) -> bool:
        """Take the task back. False when it is too late: it is due, was taken back before, or was a repetition.

        Where the provider drops duplicates, its id may be spent until the window is over: enqueue another with another id.
        ConfigError when it was not enqueued with `options(cancellable=True)`; a DriverError when there was no answer.
        """
        return self._canceller().cancel()

    async def acancel(self) -> bool:
        """As `cancel`, without blocking the event loop."""
        return await self._canceller().acancel()

    def _canceller(self) -> Canceller:
        if self.canceller is None:
            raise ConfigError(
                "this task cannot be cancelled: it was not enqueued with options(cancellable=True), which needs a delay."
            )
        return self.canceller


class Enqueuer(Protocol):
    """What a task needs of its application: `CloudQ` is one."""

    def enqueue(self, message: Message) -> Receipt:
        """Send and confirm."""
        ...

    async def aenqueue(self, message: Message) -> Receipt:
        """Send and confirm."""
        ...

    def new_id(self) -> str:
        """Return an id for a task."""
        ...


class Enqueueable(Generic[P]):
    """A task together with options, ready to be enqueued."""

    def __init__(self, app: Enqueuer, task: Task[Any, Any] | None, options: Options) -> None:
        """`task` None stands for the object itself."""
        self._app = app
        self._target = task
        self._options = options

    @property
    def _task(self) -> Task[Any, Any]:
        assert self._target is not None
        return self._target

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Send the task and return when the provider has confirmed it.

        ArgumentsError when the arguments do not fit; EnqueueRejected when it is surely not queued; EnqueueUnknown when no
        answer came within 5 s.
        """
        return self._app.enqueue(self.message(*args, **kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """As `enqueue`, without blocking the event loop."""
        return await self._app.aenqueue(self.message(*args, **kwargs))

    def message(self, *args: P.args, **kwargs: P.kwargs) -> Message:
        """Check the arguments and return a message for `enqueue_many`."""
        task_id = self._options.task_id or self._app.new_id()
        return Message(self._task, task_id, self._task.signature.encode(args, kwargs), self._options)

    @names_options("task.options(...)")
    def options(
        self,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: PriorityName | None = None,
        expires: Duration | datetime | None = None,
        ordering_key: str | None = None,
        tenant: str | None = None,
        task_id: str | None = None,
        cancellable: bool | None = None,
    ) -> Enqueueable[P]:
        """Return the same task with options for the enqueue.

        `delay` or `at` (an aware datetime): not before then. `expires`: not run after then; a duration counts from the
        enqueue. `ordering_key`: tasks of one key run one after the other, in the order they were enqueued; the queue must be
        `ordered`. `tenant`: on whose behalf; where the provider shares a queue fairly, one with a large backlog does not hold
        up the others, and elsewhere it is refused. `task_id`: repeat an enqueue whose outcome was unknown with the id it had.
        `cancellable`: its receipt can take it back until it is due; for one task with a delay, where the provider can.
        """
        changes: dict[str, Any] = {} if cancellable is None else {"cancellable": cancellable}
        if delay is not None and at is not None:
            raise ConfigError("delay and at say the same thing twice; give one of them.")
        if delay is not None:
            changes |= {"delay": seconds(delay, "delay"), "at": None}
        if at is not None:
            changes |= {"at": _aware(at, "at"), "delay": 0.0}
        if priority is not None:
            changes["priority"] = _known(priority)
        if expires is not None:
            changes["expires"] = _aware(expires, "expires") if isinstance(expires, datetime) else seconds(expires, "expires")
        if ordering_key is not None:
            changes["ordering_key"] = _valid_key(ordering_key, "an ordering_key")
        if tenant is not None:
            changes["tenant"] = _valid_key(tenant, "a tenant")
        if task_id is not None:
            if not valid_task_id(task_id):
                raise ConfigError(f"the task_id {task_id[:120]!r} is not 1 to 100 printable ASCII characters without spaces.")
            changes["task_id"] = task_id
        return Enqueueable(self._app, self._task, replace(self._options, **changes))


class Task(Enqueueable[P], Generic[P, R]):
    """What `@app.task` makes of a function. Calling it runs it inline, as if it had never been decorated."""

    def __init__(
        self,
        app: Enqueuer,
        function: Callable[..., R],
        *,
        name: str,
        queue: str,
        policy: Policy,
        timeout: float | None,
        says_retry: bool = True,
        isolate: bool = False,
        max_concurrency: int | None = None,
        on_success: Hook | None = None,
        on_failure: Hook | None = None,
    ) -> None:
        """`timeout` in seconds; None for a task that may run for ever. Without `says_retry`, it has the default
        attempts, or as many as the queue allows where those are fewer. The others as in `CloudQ.task`.
        """
        super().__init__(app, None, Options())
        self.function = function
        self.name = name
        self.queue = queue
        self.policy = policy
        self.says_retry = says_retry
        self.timeout = timeout
        self.isolate = isolate
        self.max_concurrency = max_concurrency
        self.on_success = on_success
        self.on_failure = on_failure
        self.signature: Signature = Signature(function, name)
        # Through ordinary decorators: what they wrap is what runs.
        self.is_async: bool = inspect.iscoroutinefunction(inspect.unwrap(function))
        for hook in (on_success, on_failure):
            if hook is not None and not _takes_two(hook):
                raise ConfigError(
                    f"the task {name} has a hook that does not take two arguments. on_success gets (ctx, result), on_failure "
                    f"(ctx, error)."
                )
            if hook is not None and inspect.iscoroutinefunction(hook) and not self.is_async:
                raise ConfigError(
                    f"the task {name} is a `def` and its hook {hook.__name__} an `async def`: nothing would run it."
                )
        if isolate and "<locals>" in function.__qualname__:
            raise ConfigError(
                f"the task {name} has isolate=True and is declared inside a function: its own process could not import it. "
                f"Declare it at the level of a module."
            )
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigError(f"the task {name} has max_concurrency={max_concurrency}: at least one must be able to run.")
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @property
    def _task(self) -> Task[Any, Any]:
        return self

    @property
    def app(self) -> Enqueuer:
        """The application that declared it."""
        return self._app

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, now, in this thread. A task that takes a Context gets one of a first attempt."""
        if not self.signature.takes_context:
            return self.function(*args, **kwargs)
        context = Context(task=self.name, task_id=self._app.new_id(), queue=self.queue)
        return self.function(context, *args, **kwargs)

    def __repr__(self) -> str:
        """Name the task and its queue."""
        return f"<Task {self.name} on {self.queue}>"


class Declared:
    """The tasks of an application, by name. What is not declared here is never run, whatever a message says."""

    def __init__(self) -> None:
        """Empty."""
        self._tasks: dict[str, Task[Any, Any]] = {}

    def add(self, task: Task[Any, Any]) -> None:
        """Declare a task. ConfigError for a name that is taken."""
        other = self._tasks.get(task.name)
        if other is not None:
            raise ConfigError(
                f"two tasks are named {task.name!r}: {_where(other.function)} and {_where(task.function)}. "
                f"Give one of them a name: @app.task(name=...)."
            )
        self._tasks[task.name] = task

    def get(self, name: str) -> Task[Any, Any] | None:
        """Return the task, or None for one that is not declared."""
        return self._tasks.get(name)

    def named(self, name: str) -> Task[Any, Any]:
        """Return the task; ConfigError names the nearest one that there is."""
        task = self._tasks.get(name)
        if task is None:
            raise ConfigError(f"there is no task {name!r}.{nearest(name, self._tasks)}")
        return task

    def queues(self) -> Sequence[str]:
        """Return the queues that tasks are declared on, sorted."""
        return sorted({task.queue for task in self._tasks.values()})

    def as_mapping(self) -> Mapping[str, Task[Any, Any]]:
        """Return them all, by name."""
        return dict(self._tasks)


def _valid_key(key: str, what: str) -> str:
    if not 1 <= len(key) <= 128:
        raise ConfigError(f"{what} has 1 to 128 characters; this one has {len(key)}.")
    return key


def _known(priority: PriorityName) -> PriorityName:
    if priority not in PRIORITIES:
        raise ConfigError(f"there is no priority {priority!r}.{nearest(str(priority), PRIORITIES)}")
    return priority


def _takes_two(hook: Hook) -> bool:
    try:
        inspect.signature(hook).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # built in, and does not tell
        return True
    return True


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _aware(when: datetime, what: str) -> datetime:
    if not isinstance(when, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]  not everybody runs a type checker
        raise ConfigError(f"{what} = {when!r} is not a datetime. Write datetime(..., tzinfo=UTC).")
    if when.tzinfo is None:
        raise ConfigError(f"{what} = {when.isoformat()} has no time zone. Write datetime(..., tzinfo=UTC) or .astimezone().")
    return when


OnExpiry = Literal["dead-letter", "drop"]


def policy_of(retry: Backoff, on_expiry: OnExpiry, name: str, queue: str, bound: int | None) -> Policy:
    """Return the policy. ConfigError for what is none, and for more attempts than the queue allows."""
    if not isinstance(retry, Backoff):  # pyright: ignore[reportUnnecessaryIsInstance]  not everybody runs a type checker
        raise ConfigError(f"the task {name} has retry={retry!r}: write retry=Backoff(max_attempts=...).")
    if on_expiry not in get_args(OnExpiry):
        raise ConfigError(f"the task {name} has on_expiry={on_expiry!r}.{nearest(str(on_expiry), get_args(OnExpiry))}")
    if bound is not None and retry.max_attempts > bound:
        raise ConfigError(
            f"the task {name} declares max_attempts={retry.max_attempts}, and its queue {queue!r} allows {bound} "
            f"(queues.{queue}.max_attempts). Raise the one or lower the other."
        )
    return Policy(retry=retry, on_expiry=on_expiry)
