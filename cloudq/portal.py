"""One loop in one thread, for sync and async callers alike: the logic exists once, as coroutines.

Connections live on this loop. They do not survive a fork (gRPC hangs, sockets are shared), so a child process that finds the
portal of its parent leaves it alone and starts its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


class Portal:
    """Runs coroutines on its own loop thread, started at the first use and stopped by `close`."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._lock = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        _portals.add(self)

    def forked(self) -> bool:
        """Tell whether the portal was started by a parent process, so that what lives on its loop is dead here."""
        return self._pid not in (0, os.getpid())

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run to the end, from a thread without a running loop of its own to hold up."""
        if threading.current_thread() is self._thread and not self.forked():
            raise RuntimeError("a blocking cloudq call on cloudq's own loop thread would wait for itself; use the a... form")
        return self._submit(work).result()

    async def arun(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run to the end without holding up the caller's loop."""
        return await asyncio.wrap_future(self._submit(work))

    def _submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        # Scheduled under the lock: between here and there `close` could stop the loop, and nobody would run it.
        with self._lock:
            if self._loop is None or self.forked():
                self._start()
            assert self._loop is not None
            return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        self._loop, self._pid = loop, os.getpid()
        # A daemon, so that a program that never closes its app still ends; every confirmed enqueue is safe by then.
        self._thread = threading.Thread(target=_serve, args=(loop,), name="cloudq-portal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel what still runs, stop the loop and wait for its thread. The next use starts a new one."""
        with self._lock:
            if self._loop is None or self.forked() or self._thread is None:
                self._loop = None
                return
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = self._thread = None

    def reset_after_fork(self) -> None:
        """In a child: the lock may have been held by a thread that does not exist here, and the loop has no thread."""
        self._lock = threading.Lock()
        self._loop = self._thread = None


def _reset_all() -> None:
    for portal in list(_portals):
        portal.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
