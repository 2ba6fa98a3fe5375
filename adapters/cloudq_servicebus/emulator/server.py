"""The emulator on its sockets: AMQP for messages, HTTP for the administration of queues."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

from cloudq.clock import Clock
from cloudq.emulation import EmulatorServer, Plan
from cloudq_servicebus.emulator import messages
from cloudq_servicebus.emulator.admin import Admin
from cloudq_servicebus.emulator.amqp import Connection, Receiver
from cloudq_servicebus.emulator.broker import DEAD, Queue, Settings, Stored
from cloudq_servicebus.emulator.faults import Fault, Requests


class Server(EmulatorServer):
    """An emulator that listens: `start()` from anywhere, `serve()` on a loop of your own."""

    def __init__(self, port: int = 0, *, admin_port: int = 0, clock: Clock | None = None, latency: float = 0.0) -> None:
        """Port 0 takes a free one. `latency` delays every answer by so many seconds, without costing throughput."""
        super().__init__(port, clock)
        self.requests: Requests = Requests()
        self.plan: Plan[Fault] = Plan()
        self.latency: float = latency
        #: By lower-case name: names do not depend on case.
        self.queues: dict[str, Queue] = {}
        self.connections: set[Connection] = set()
        self.admins: set[Admin] = set()
        self.receivers: dict[Queue, list[Receiver]] = defaultdict(list)
        self.admin_port: int = admin_port
        self._sockets: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connection_string(self) -> str:
        """What the SDK takes: plain AMQP on this port; nobody looks at the key."""
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName=local;SharedAccessKey=local;UseDevelopmentEmulator=true;"
        )

    # Life -------------------------------------------------------------------------------------------------------------

    async def listen(self) -> int:
        """Take connections."""
        loop = asyncio.get_running_loop()
        admin = await loop.create_server(lambda: Admin(self), "127.0.0.1", self.admin_port)
        amqp = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=1024)
        self._sockets = [admin, amqp]
        self.admin_port = int(admin.sockets[0].getsockname()[1])
        return int(amqp.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Drop every connection."""
        for listening in self._sockets:
            listening.close()
        if self._timer is not None:
            self._timer.cancel()
        everybody: list[Connection | Admin] = [*self.connections, *self.admins]
        for each in everybody:
            each.cut()
        await asyncio.sleep(0)  # the aborts are carried out in the next turn

    def look_at_all(self) -> None:
        """Let what is due happen."""
        now = self.clock.time()
        for queue in self._all():
            queue.pass_time(now)
            self.pump(queue)

    # Queues -----------------------------------------------------------------------------------------------------------

    def create(self, settings: Settings) -> Queue:
        """Make a queue, with its dead-letter queue. Callable before `start` and on the server's loop."""
        queue = self.queues[settings.name.lower()] = Queue(settings)
        return queue

    def find(self, name: str) -> Queue | None:
        """Return a queue, or the dead-letter queue of one, by its address."""
        lowered = name.lower()
        if lowered.endswith(DEAD):
            queue = self.queues.get(lowered.removesuffix(DEAD))
            return queue.dead if queue is not None else None
        return self.queues.get(lowered)

    def take_in(self, queue: Queue, message: Any, size: int, now: float) -> int:
        """Keep a message that was sent, now or for later."""
        number = queue.put(Stored(message, size), now, messages.scheduled(message))
        self._set_timer()
        return number

    def _all(self) -> list[Queue]:
        return [each for queue in self.queues.values() for each in (queue, queue.dead) if each is not None]

    # Work -------------------------------------------------------------------------------------------------------------

    def ask_for(self, action: str) -> Fault | None:
        """Count a request, and say what goes wrong with it."""
        self.asked()
        self.requests.by_action[action] += 1
        return self.plan.next(action)

    def pump(self, queue: Queue) -> None:
        """Deliver what is there to those who have credit for it, in turn."""
        now = self.clock.time()
        queue.pass_time(now)
        standing = self.receivers[queue]
        touched: set[Connection] = set()
        busy = True
        while busy:
            busy = False
            for receiver in list(standing):
                if receiver.link.credit <= 0:
                    continue
                stored = queue.take(now, receiver, receiver.session, lock=receiver.peek_lock)
                if stored is None:
                    continue
                if self.requests.first_delivery is None:
                    self.requests.first_delivery = time.monotonic()  # noqa: TID251  how long a client took is real, whatever the clock says
                receiver.connection.deliver(receiver, stored)
                touched.add(receiver.connection)
                busy = True
            if standing:
                standing.append(standing.pop(0))
        for connection in touched:
            asyncio.get_running_loop().call_soon(connection.work)
        if queue.dead is not None and self.receivers[queue.dead]:
            self.pump(queue.dead)
        self._set_timer()

    def _set_timer(self) -> None:
        dues = [due for queue in self._all() if (due := queue.next_due()) is not None]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if dues:
            wait = max(0.0, min(dues) - self.clock.time())
            self._timer = asyncio.get_running_loop().call_later(min(wait, 3600.0), self.look_at_all)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return, by queue, how many messages there are of each kind. Callable from any thread."""
        return self.ask(lambda: {queue.settings.name: queue.counts() for queue in self.queues.values()})
