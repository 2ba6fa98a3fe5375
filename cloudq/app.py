"""The application: its tasks, its settings, and the way from `enqueue` to a provider's confirmation."""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import msgspec

from cloudq import config, naming
from cloudq.clock import Clock, SystemClock
from cloudq.context import Context
from cloudq.deadletters import ROOM
from cloudq.delay import route
from cloudq.driver import Driver, Outgoing, Part, Queue, Schedules
from cloudq.durations import Duration, seconds
from cloudq.envelope import VERSION, Envelope, encode, valid_task_name
from cloudq.errors import (
    ArgumentsError,
    ConfigError,
    DriverError,
    EnqueueError,
    EnqueueRejected,
    EnqueueUnknown,
    MessageTooLarge,
    OutcomeUnknown,
    PartialEnqueueError,
    Unsupported,
    names_options,
)
from cloudq.events import Event, Events, Name, Sink
from cloudq.middleware import Middleware
from cloudq.middleware import check as check_middleware
from cloudq.opening import facts_at, open_driver, refuse_impossible
from cloudq.portal import Portal
from cloudq.retry import Backoff
from cloudq.sending import DEADLINE, Sender
from cloudq.task import Canceller, Declared, Hook, Message, OnExpiry, Receipt, Task, policy_of

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
M = TypeVar("M", bound=Middleware)

#: Messages of `enqueue_many` that are under way at once: several full batches of any provider, a few MiB of memory.
_MANY = 500


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


@dataclass(frozen=True, slots=True)
class _Connection:
    driver: Driver
    sender: Sender


@dataclass(frozen=True, slots=True)
class _Composed:
    """A message as it will travel, by which sender and to where."""

    driver: Driver
    sender: Sender
    queue: Queue
    outgoing: Outgoing
    due: float | None


class Observer(Protocol):
    """Sees what an application enqueues: for test kits."""

    def enqueued(self, message: Message, receipt: Receipt) -> None:
        """A message is confirmed. Called on any thread."""
        ...

    def returning(self) -> None:
        """A blocking enqueue is about to return to its caller, on whose thread this is called."""
        ...

    async def areturning(self) -> None:
        """An awaited enqueue is about to return to its caller, on whose loop this is called."""
        ...


class CloudQ:
    """Declares tasks and enqueues them. Making one reads nothing and connects to nothing: an import needs no credentials.

    The provider comes from `url`, else CLOUDQ_URL, else cloudq.toml; see `cloudq.config`.
    """

    @names_options("CloudQ(...)")
    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        queues: dict[str, dict[str, Any]] | None = None,
        clock: Clock | None = None,
        draw: random.Random | None = None,
        sinks: Iterable[Sink] = (),
        middleware: Iterable[Middleware] = (),
    ) -> None:
        """`queues` as in cloudq.toml. `sinks` are called for every event (`cloudq.events`), `middleware` around every run
        (`cloudq.middleware`), the first outermost. `clock` and `draw` (the random source) are for tests and simulation.
        """
        given = {"url": url, "namespace": namespace, "queues": queues}
        self._overrides = {key: value for key, value in given.items() if value is not None}
        self.clock: Clock = clock or SystemClock()
        self.draw: random.Random = draw or random.Random()
        self._ids_drawn = draw is not None
        self.events: Events = Events(list(sinks))
        self.middlewares: list[Middleware] = []
        for each in middleware:
            self.middleware(each)
        self.declared: Declared = Declared()
        self._portal = Portal()
        self._connections: dict[str, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._parents: list[dict[str, _Connection]] = []
        self._elsewhere: str | None = None
        self._observer: Observer | None = None

    # Declaring --------------------------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        retry: Backoff | None = None,
        timeout: Duration | None = "15m",
        on_expiry: OnExpiry = "dead-letter",
        isolate: bool = False,
        max_concurrency: int | None = None,
        on_success: Hook | None = None,
        on_failure: Hook | None = None,
    ) -> _Decorator: ...

    @names_options("@app.task")
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        retry: Backoff | None = None,
        timeout: Duration | None = "15m",
        on_expiry: OnExpiry = "dead-letter",
        isolate: bool = False,
        max_concurrency: int | None = None,
        on_success: Hook | None = None,
        on_failure: Hook | None = None,
    ) -> Any:
        """Declare a task, with or without arguments: `@app.task` or `@app.task(queue="reports")`.

        `name` is what messages carry, by default `module.function`; changing it strands what is queued under the old one.
        `timeout` bounds a run and so the renewal of its lease; None, for no bound, must be written. A coroutine is cancelled
        at its timeout and the process of an isolated task killed; a `def` in a thread cannot be stopped: its lease is left to
        run out, `ctx.lease_lost` tells it so, and it runs again elsewhere. `on_expiry` "drop" removes an expired task without
        keeping it.

        `isolate` runs the task in a process of its own, one for each slot, kept for the next: its timeout is hard, what crashes
        is that process and counts as a failed run, and leases go on while it holds the interpreter's lock.
        `max_concurrency` is how many of it run at once in one worker process.

        `on_success(ctx, result)` is called after a run that succeeded, `on_failure(ctx, error)` after the one with which the
        task was given up, both before the message is settled: at least once, where the task ran, and with no say in what
        becomes of it. What is given up without a run (expired, crashed, unreadable) is among the dead letters.
        """
        if function is not None and not callable(function):
            raise ConfigError(f"@app.task({function!r}): options are named, e.g. @app.task(queue={function!r}).")

        def declare(declared: Callable[..., Any]) -> Task[Any, Any]:
            full_name = name or f"{_module_name(declared)}.{declared.__qualname__}".replace(".<locals>", "")
            if not valid_task_name(full_name):
                raise ConfigError(
                    f"the task name {full_name!r} cannot travel: use letters, digits, '.', '_' and '-', at most 128. "
                    f"Give it one with @app.task(name=...)."
                )
            naming.check_name(queue, f"the queue of the task {full_name},")
            task: Task[Any, Any] = Task(
                self,
                declared,
                name=full_name,
                queue=queue,
                policy=policy_of(retry or Backoff(), on_expiry, full_name, queue, None),
                says_retry=retry is not None,
                timeout=None if timeout is None else seconds(timeout, f"the timeout of the task {full_name}"),
                isolate=isolate,
                max_concurrency=max_concurrency,
                on_success=on_success,
                on_failure=on_failure,
            )
            self.declared.add(task)
            self.__dict__.pop("settings", None)  # checked against the tasks when they are read: again, with this one
            return task

        return declare if function is None else declare(function)

    def middleware(self, middleware: M) -> M:
        """Add a middleware inside of those that there are: `@app.middleware` above `@contextmanager`."""
        check_middleware(middleware)
        self.middlewares.append(middleware)
        return middleware

    # Settings ---------------------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> config.Settings:
        """The settings, read at the first use and checked against the tasks."""
        settings = config.load(self._overrides)
        naming.check_name(settings.namespace, "namespace")
        for task in self.declared.as_mapping().values():
            bound = settings.queue(task.queue).max_attempts
            if not task.says_retry:
                task.policy = replace(task.policy, retry=_within(bound))
            policy_of(task.policy.retry, task.policy.on_expiry, task.name, task.queue, bound)
        names = {*settings.queues, *self.declared.queues()}
        naming.check_distinct(
            queue for name in sorted(names) for queue in naming.addresses(settings.namespace, name, settings.queue(name))
        )
        return settings

    def url_of(self, queue: str) -> str:
        """Return the provider URL of a queue."""
        return self._elsewhere or self.settings.queue(queue).url or self.settings.url or config.default_url()

    @contextmanager
    def moved(self, url: str, clock: Clock, observer: Observer) -> Generator[None]:
        """For the length of a block, have every queue at this URL, on this clock, and tell the observer what is enqueued."""
        before = self._elsewhere, self.clock, self._observer, self._connections
        self._elsewhere, self.clock, self._observer, self._connections = url, clock, observer, {}
        try:
            yield
        finally:
            self._run(self._close_connections)
            self._elsewhere, self.clock, self._observer, self._connections = before

    def queue_names(self) -> list[str]:
        """Return every queue that a task or the settings name, sorted."""
        return sorted({*self.settings.queues, *self.declared.queues()})

    def address(self, queue: str, part: Part, priority: str = "normal") -> Queue:
        """Return the physical address of one part of a queue."""
        return naming.address(self.settings.namespace, queue, self.settings.queue(queue), part, priority)

    def addresses(self, queue: str) -> list[Queue]:
        """Return every physical queue of a logical one."""
        naming.check_name(queue, "queue")
        return naming.addresses(self.settings.namespace, queue, self.settings.queue(queue))

    # Enqueuing --------------------------------------------------------------------------------------------------------

    def enqueue(self, message: Message) -> Receipt:
        """Send one message and return when the provider has confirmed it. Errors as in `Task.enqueue`."""
        receipt = self._run(lambda: self._enqueue(message))
        if self._observer is not None:
            self._observer.returning()
        return receipt

    async def aenqueue(self, message: Message) -> Receipt:
        """As `enqueue`, without blocking the event loop."""
        receipt = await self._arun(lambda: self._enqueue(message))
        if self._observer is not None:
            await self._observer.areturning()
        return receipt

    def enqueue_many(self, messages: Iterable[Message]) -> int:
        """Send many and return how many were confirmed, which is all of them.

        Streams: the iterable is read as the messages leave. PartialEnqueueError when any failed, with the failures by
        position; the rest was confirmed. When a whole stretch fails, as when the provider is down, it stops reading there.
        """
        iterator = iter(messages)
        failures: dict[int, EnqueueError] = {}
        position = 0
        while chunk := list(islice(iterator, _MANY)):
            failed = self._run(partial(self._enqueue_chunk, chunk))
            failures |= {position + index: error for index, error in failed.items()}
            position += len(chunk)
            if len(failed) == len(chunk):
                break
        if self._observer is not None:
            self._observer.returning()
        return _all_confirmed(position, failures)

    async def aenqueue_many(self, messages: Iterable[Message]) -> int:
        """As `enqueue_many`, without blocking the event loop."""
        iterator = iter(messages)
        failures: dict[int, EnqueueError] = {}
        position = 0
        while chunk := list(islice(iterator, _MANY)):
            failed = await self._arun(partial(self._enqueue_chunk, chunk))
            failures |= {position + index: error for index, error in failed.items()}
            position += len(chunk)
            if len(failed) == len(chunk):
                break
        if self._observer is not None:
            await self._observer.areturning()
        return _all_confirmed(position, failures)

    def new_id(self) -> str:
        """Return a new task id: random, 32 hexadecimal digits."""
        return f"{self.draw.getrandbits(128):032x}" if self._ids_drawn else uuid.uuid4().hex

    async def _enqueue_chunk(self, chunk: list[Message]) -> dict[int, EnqueueError]:
        failures: dict[int, EnqueueError] = {}
        composed: dict[int, _Composed] = {}
        for index, message in enumerate(chunk):
            try:
                composed[index] = self._compose(message)
                if message.options.cancellable:
                    raise Unsupported("cancellable=True: enqueue_many returns no receipts. Enqueue such a task by itself.")
            except EnqueueError as error:
                composed.pop(index, None)
                failures[index] = error
        by_sender: dict[Sender, list[int]] = {}
        for index, ready in composed.items():
            by_sender.setdefault(ready.sender, []).append(index)

        async def send(sender: Sender, indices: list[int]) -> None:
            try:
                failed = await sender.send_many([(composed[index].queue, composed[index].outgoing) for index in indices])
            except asyncio.CancelledError:
                closed = OutcomeUnknown("the application was closed meanwhile")
                failed = dict.fromkeys(range(len(indices)), closed)
            for position, index in enumerate(indices):
                error = failed.get(position)
                if error is None:
                    self._confirmed(chunk[index], composed[index])
                else:
                    failures[index] = _told(chunk[index], composed[index].queue, error)

        await asyncio.gather(*(send(sender, indices) for sender, indices in by_sender.items()))
        return failures

    async def _enqueue(self, message: Message) -> Receipt:
        composed = self._compose(message)
        canceller: Canceller | None = None
        try:
            if message.options.cancellable:
                canceller = await self._schedule(composed)
            else:
                await composed.sender.send(composed.queue, composed.outgoing)
        except asyncio.CancelledError as error:
            raise EnqueueUnknown(message.task_id, "the application was closed meanwhile") from error
        except DriverError as error:
            raise _told(message, composed.queue, error) from error
        return self._confirmed(message, composed, canceller)

    async def _schedule(self, composed: _Composed) -> Canceller:
        """Send what can be taken back: by itself, and tried once, for a second try might leave a first one that cannot."""
        assert isinstance(composed.driver, Schedules), "its limits say so"
        try:
            async with asyncio.timeout(DEADLINE):
                token = await composed.driver.schedule(composed.queue, composed.outgoing)
        except TimeoutError as error:
            raise OutcomeUnknown(f"{composed.queue.physical}: no confirmation within {DEADLINE:g} s") from error
        cancel = partial(self._cancel, self.url_of(composed.queue.logical), composed.queue, token)
        return Canceller(lambda: self._run(cancel), lambda: self._arun(cancel))

    async def _cancel(self, url: str, queue: Queue, token: str) -> bool:
        driver = self._connection(url).driver
        assert isinstance(driver, Schedules), "it has scheduled"
        return await driver.cancel(queue, token)

    def _confirmed(self, message: Message, composed: _Composed, canceller: Canceller | None = None) -> Receipt:
        logical = message.task.queue
        self.events.emit(Event(Name.ENQUEUED, self.clock.time(), logical, message.task.name, message.task_id))
        receipt = Receipt(message.task_id, logical, composed.due, canceller)
        if self._observer is not None:
            self._observer.enqueued(message, receipt)
        return receipt

    def _compose(self, message: Message) -> _Composed:
        if not isinstance(message, Message):  # pyright: ignore[reportUnnecessaryIsInstance]  not everybody runs a type checker
            raise ArgumentsError(f"{message!r} is no message. Make one with task.message(...), or call task.enqueue(...).")
        self._refuse_unserved(message)
        try:
            connection = self._connection(self.url_of(message.task.queue))
        except DriverError as error:
            raise EnqueueRejected(f"{message.task.name} was surely not queued: {str(error).rstrip('.')}.") from error
        limits = connection.driver.limits
        task, options, now = message.task, message.options, self.clock.time()
        settings = self.settings.queue(task.queue)
        if options.priority not in settings.priorities:
            raise Unsupported(
                f"priority={options.priority!r}: the queue {task.queue!r} has {', '.join(settings.priorities)}. Add it to "
                f"queues.{task.queue}.priorities in cloudq.toml (read: {config.origin()})."
            )
        if options.ordering_key is not None and not settings.ordered:
            raise Unsupported(
                f"ordering_key={options.ordering_key!r}: the queue {task.queue!r} is not ordered. Set "
                f"queues.{task.queue}.ordered = true in cloudq.toml (read: {config.origin()})."
            )
        if options.tenant is not None and (settings.ordered or not limits.fair):
            why = (
                "an ordered queue takes its turns by ordering_key"
                if settings.ordered
                else f"{limits.provider} shares no queue by tenant"
            )
            raise Unsupported(f"tenant={options.tenant!r}: {why}. Enqueue it without the tenant, or give the tenant a queue.")
        delay = options.delay if options.at is None else max(0.0, options.at.timestamp() - now)
        expires = options.expires.timestamp() if isinstance(options.expires, datetime) else options.expires
        if expires is not None and not isinstance(options.expires, datetime):
            expires += now
        due = now + delay if delay > 0 else None
        if expires is not None and due is not None and expires <= due:
            raise Unsupported(f"it would expire {due - expires:g} s before it is due. Expiry counts from the enqueue.")
        envelope = Envelope(
            cloudq=VERSION,
            id=message.task_id,
            type=task.name,
            time=round(now, 3),
            data=msgspec.Raw(message.data),
            due=None if due is None else round(due, 3),
            expires=None if expires is None else round(expires, 3),
            priority=options.priority,
            ordering_key=options.ordering_key,
            tenant=options.tenant,
        )
        body = encode(envelope)
        if len(body) > limits.message_bytes - ROOM:
            raise MessageTooLarge(len(body), limits.message_bytes - ROOM, ROOM)
        if options.cancellable and (due is None or not limits.cancels):
            why = "it has no delay, and may start at once" if due is None else f"{limits.provider} takes nothing back"
            raise Unsupported(f"cancellable=True: {why}. Enqueue it without; a task can look whether it is still wanted.")
        first = route(delay, limits, options.ordering_key, ordered=settings.ordered)
        queue = self.address(task.queue, first.part, options.priority)
        refuse_impossible(queue, limits)
        outgoing = Outgoing(body, envelope.message_id, first.delay, envelope.group)
        return _Composed(connection.driver, connection.sender, queue, outgoing, due)

    def _refuse_unserved(self, message: Message) -> None:
        """Raise Unsupported for a delay that nobody would end: the platform calls its function with nothing that waits."""
        queue, options = message.task.queue, message.options
        if self.settings.queue(queue).serverless is None or not (options.delay or options.at):
            return
        facts = facts_at(self.url_of(queue))
        if facts is not None and facts.infrastructure is not None and not facts.infrastructure.functions.delays:
            raise Unsupported(
                f"the queue {queue!r} is served by a function, and {facts.name} calls it with nothing that waits for its time. "
                f"Enqueue it without the delay, or on a queue of its own that workers serve."
            )

    # Connections ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def driver(self, url: str) -> AsyncGenerator[Driver]:
        """Open a driver of your own on the running loop, closed at the end: for tools and tests."""
        driver = open_driver(url, self.clock)
        try:
            yield driver
        finally:
            await driver.aclose()

    def close(self) -> None:
        """Close the connections that enqueuing has opened. The next enqueue opens them again."""
        if not self._portal.forked() and self._connections:
            self._portal.run(self._close_connections)
        self._connections.clear()
        self._portal.close()

    async def _close_connections(self) -> None:
        for connection in self._connections.values():
            await connection.driver.aclose()

    def _connection(self, url: str) -> _Connection:
        connection = self._connections.get(url)
        if connection is None:
            driver = open_driver(url, self.clock)
            connection = _Connection(driver, Sender(driver, self.clock, self._spawn, self.draw))
            self._connections[url] = connection
        return connection

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._after_fork()
        return self._portal.run(work)

    async def _arun(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._after_fork()
        return await self._portal.arun(work)

    def _after_fork(self) -> None:
        if self._portal.forked():
            # They belong to the parent, whose sockets they share: kept unused, because closing them here would close those.
            self._parents.append(self._connections)
            self._connections = {}
            self._tasks = set()


def _told(message: Message, queue: Queue, error: DriverError) -> EnqueueError:
    """Return what a caller of `enqueue` is told of a driver's error, which is its cause."""
    text = str(error).rstrip(".")
    told: EnqueueError = (
        EnqueueUnknown(message.task_id, text)
        if isinstance(error, OutcomeUnknown)
        else EnqueueRejected(
            f"{message.task.name} was surely not queued on {queue.physical}: {text}. When that is mended, enqueue it again."
        )
    )
    told.__cause__ = error
    return told


def _all_confirmed(attempted: int, failures: dict[int, EnqueueError]) -> int:
    if failures:
        raise PartialEnqueueError(failures, attempted)
    return attempted


def _module_name(function: Callable[..., Any]) -> str:
    """Return the name under which a worker will import the module, also while it is being run as a program."""
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m shop.tasks
        return main.__spec__.name
    path = getattr(main, "__file__", None)
    return Path(path).stem if path else "__main__"


def _within(bound: int | None) -> Backoff:
    """Return the policy of a task that says nothing: the default one, with no more attempts than its queue allows."""
    default = Backoff()
    return default if bound is None else Backoff(max_attempts=min(default.max_attempts, bound))
