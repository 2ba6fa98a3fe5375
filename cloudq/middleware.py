"""What an application wants done around every run of its tasks: an onion of context managers.

    @app.middleware
    @contextmanager
    def timed(ctx: Context) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds.labels(ctx.task).observe(time.perf_counter() - began)

The first that is added is the outermost. It sees what the task raises and may raise something else instead (`Reject`, say, for
an error that no retry will mend); what it raises before its `yield` keeps the task from being run, and counts as a failed run;
what it swallows, it swallows: then the run has succeeded. A wrapper of functions was rejected: it would have to be written
twice, for `def` and for `async def`, and a forgotten `await` in it would ack work that was never done.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

from cloudq.context import Context
from cloudq.errors import ConfigError

Middleware = Callable[[Context], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]


@contextmanager
def around(middleware: Sequence[Middleware], context: Context) -> Generator[None]:
    """Enter every middleware for a `def` task, the first outermost. TypeError for one that is only asynchronous."""
    with ExitStack() as stack:
        for each in middleware:
            manager = each(context)
            if not isinstance(manager, AbstractContextManager):
                raise TypeError(_unfit(each, manager, context))
            stack.enter_context(manager)
        yield


@asynccontextmanager
async def around_async(middleware: Sequence[Middleware], context: Context) -> AsyncGenerator[None]:
    """Enter every middleware for an `async def` task, the first outermost."""
    async with AsyncExitStack() as stack:
        for each in middleware:
            manager = each(context)
            if isinstance(manager, AbstractAsyncContextManager):
                await stack.enter_async_context(manager)
            elif isinstance(manager, AbstractContextManager):  # pyright: ignore[reportUnnecessaryIsInstance]  not everybody checks
                stack.enter_context(manager)
            else:
                raise TypeError(_unfit(each, manager, context))
        yield


def check(middleware: Middleware) -> None:
    """Raise ConfigError for a function that was meant to become a context manager."""
    if inspect.isgeneratorfunction(middleware) or inspect.isasyncgenfunction(middleware):
        kind = "contextmanager" if inspect.isgeneratorfunction(middleware) else "asynccontextmanager"
        raise ConfigError(
            f"the middleware {middleware.__name__} is a bare generator: write @{kind} (from contextlib) between "
            f"@app.middleware and its `def`."
        )


def _unfit(middleware: Middleware, manager: object, context: Context) -> str:
    name = getattr(middleware, "__name__", type(middleware).__name__)
    if isinstance(manager, AbstractAsyncContextManager):
        return f"the middleware {name} is asynchronous, and {context.task} is a `def` task: give it a synchronous one"
    return f"the middleware {name} returned {type(manager).__name__}, which is no context manager"
