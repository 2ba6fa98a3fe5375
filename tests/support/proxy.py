"""A proxy that does to connections what networks do: cuts them, loses answers, goes dark, and is slow.

It knows no protocol, so it serves HTTP, gRPC and AMQP alike. Throttling and partial batches are not its business: those are
answers, and a test server gives them. It serves from a thread of its own, so that clients may block.

    with FaultProxy(target_port, random.Random(1)) as proxy:
        client = connect(proxy.port)
        proxy.faults.lost_response = 0.05
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

_CHUNK = 65536


@dataclass
class Faults:
    """What goes wrong from now on. Probabilities are of each piece of data that arrives, times in seconds."""

    #: The connection is reset before the request is passed on.
    reset: float = 0.0
    #: The request is passed on, and the connection reset before its answer is.
    lost_response: float = 0.0
    #: Every piece is held back for between these two.
    slow: tuple[float, float] = (0.0, 0.0)
    #: Nothing passes and nothing is answered, as behind a cable that was pulled: no end, no reset.
    blackout: bool = False
    #: New connections are refused, and old ones reset.
    refuse: bool = False
    hits: Counter[str] = field(default_factory=Counter)


class FaultProxy:
    """Listens on a port of 127.0.0.1 and passes on to another."""

    def __init__(self, target: int, draw: random.Random, host: str = "127.0.0.1") -> None:
        """`target` is the port of the server behind."""
        self.faults = Faults()
        self.port = 0
        self._target = (host, target)
        self._draw = draw
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="fault-proxy", daemon=True)
        self._open: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the proxy did not start"
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> int:
        """Reset every connection, now. Returns how many there were."""

        async def reset() -> int:
            ends = list(self._ends)
            for end in ends:
                _reset(end)
            return len(ends) // 2

        return asyncio.run_coroutine_threadsafe(reset(), self._loop).result(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in self._open:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._open, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        if self.faults.refuse:
            self.faults.hits["refused"] += 1
            _reset(writer)
            return
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        self._ends |= {writer, back}
        ways = [
            asyncio.ensure_future(self._pass(reader, back, writer, request=True)),
            asyncio.ensure_future(self._pass(there, writer, back, request=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._ends -= {writer, back}
            for end in (writer, back):
                end.close()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, other: asyncio.StreamWriter, *, request: bool
    ) -> None:
        """Pass one direction on until it ends, or until a fault ends both."""
        faults, draw = self.faults, self._draw
        with contextlib.suppress(ConnectionError):
            while data := await source.read(_CHUNK):
                while faults.blackout:
                    faults.hits["blackout"] += 1
                    await asyncio.sleep(0.05)
                if faults.slow[1]:
                    faults.hits["slow"] += 1
                    await asyncio.sleep(draw.uniform(*faults.slow))
                if faults.refuse or draw.random() < (faults.reset if request else faults.lost_response):
                    faults.hits["reset" if request else "lost response"] += 1
                    _reset(sink)
                    _reset(other)
                    return
                sink.write(data)
                await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End with a reset, not with a goodbye: the other end learns that what was under way is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
