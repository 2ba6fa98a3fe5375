"""The engine: one asyncio loop that receives, hands out and settles, and on which no task ever runs.

    a free slot -> receive -> lease kept -> `Execution.open` (decode, admit) -> runner -> `Execution.close` (decide)
    -> settle -> slot free

Everything happens at an event: a poll that answers, a task that ends, a settlement that is confirmed. There is no tick.

How much is received. A slot first: a message is asked for only when it can start, but for at most one provider batch ahead,
and that only while measured run times say that it starts soon. A poll reserves the slots it asks for until it has been
unanswered for a moment: then its queue is empty, and it stands waiting without keeping the slots from other queues.

Which queue is asked. In turn by weight (high 14, normal 5, low 1), so that a backlog of high priority slows the others
down and never stops them.

Who is run beside whom. A task with a `max_concurrency` waits in hand for its own kind, up to the free slots, which other queues
may use meanwhile. A message that ends its process takes down what runs beside it, and all of them count a crash. One more
crash would bury a message that has all but one: so of those at most one is in hand, the others given back first. It is then
the guilty one that is buried, and not its company. What has crashed before is confirmed to the provider right before it starts:
until then a lease that runs out is no further crash (decision 12).

How it ends. In this order: no new polls, and the open ones called back; what has not started goes back; running tasks have
the grace; what still runs is given back; settlements are flushed.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudq.clock import Clock
from cloudq.driver import Delivery
from cloudq.envelope import Envelope
from cloudq.errors import DriverError, StuckWorker
from cloudq.events import Event, Events, Name
from cloudq.execution import Execution, Job
from cloudq.outcome import CRASHES, Ack, Bury, Failed, GiveBack, NotRun, Outcome, Rejected, Resend, Settlement, Succeeded
from cloudq.worker.held import Held, Station
from cloudq.worker.isolation import ISOLATED_START
from cloudq.worker.leases import Leases
from cloudq.worker.pump import Pump
from cloudq.worker.runners import Runner
from cloudq.worker.settling import Settler

WEIGHTS = {"high": 14, "normal": 5, "low": 1}

#: A poll without an answer for this long, in seconds, has found an empty queue. Shorter than a slow round trip would free
#: slots that are about to be filled; longer keeps them from queues that have work.
_UNANSWERED = 0.2
#: A message received ahead of a slot must start within this many seconds, and within a quarter of its lease.
_AHEAD = 1.0
#: Bytes that may wait in this process for a slot.
_AHEAD_BYTES = 16 * 1024 * 1024
#: A receive that has not ended this many seconds after its wait never will: it is broken off, and the next one begun.
_OVERDUE = 30.0
#: How long the last settlements of a shutdown may take, in seconds: what is not confirmed then comes back by its lease.
_FLUSH = 10.0
#: Polls under way at once for one queue, under load: about the rate times the round trip, by ten.
_MOST_POLLS = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: A message on its last chance, given back for another of its kind, comes again after this many seconds.
_ANOTHER_TURN = 2.0
#: A run is stuck when it is found so twice, this many seconds apart.
_SURELY_STUCK = 1.0
#: Weight of the newest run in the average run time.
_NEWEST = 0.1
#: By how much the best round trip grows with each that is longer, so that one that is over is forgotten.
_FORGET = 1.01
#: How long cancelled coroutines have to end after the grace, in seconds.
_LAST_WORDS = 0.5


@dataclass(slots=True, eq=False)
class _Poll:
    ask: int
    reserved: bool = True


class _Buffer:
    """What waits for a slot, in order, and how many bytes it is: counted as it comes and goes, because it is asked often."""

    __slots__ = ("_held", "bytes")

    def __init__(self) -> None:
        self._held: deque[Held] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def next(self, but: Held | None) -> Held | None:
        """Return what comes first, `but` for this one."""
        return next((held for held in self._held if held is not but), None)

    def put(self, held: Held, *, first: bool = False) -> None:
        self.bytes += len(held.delivery.body)
        if first:
            self._held.appendleft(held)
        else:
            self._held.append(held)

    def take(self, held: Held) -> None:
        self._held.remove(held)
        self.bytes -= len(held.delivery.body)

    def take_last(self, but: Held | None = None) -> Held:
        held = next(held for held in reversed(self._held) if held is not but)
        self.take(held)
        return held

    def __contains__(self, held: Held | None) -> bool:
        return held in self._held


@dataclass(slots=True, eq=False)
class _Source:
    """One physical queue, as the engine sees it."""

    station: Station
    settler: Settler
    weight: int
    #: Running total of the weighted turns.
    turn: int = 0
    polls: list[_Poll] = field(default_factory=list[_Poll])
    buffer: _Buffer = field(default_factory=_Buffer)
    #: The last poll brought all that was asked for: there is more.
    hungry: bool = False
    #: How long a poll takes that finds all it asked for, in seconds.
    round_trip: float = 0.0
    paused: bool = False
    pause: float = _FIRST_PAUSE
    #: In a burst: a poll found nothing.
    exhausted: bool = False

    def reserved(self) -> int:
        return sum(poll.ask for poll in self.polls if poll.reserved)

    def standing(self) -> bool:
        return any(not poll.reserved for poll in self.polls)


class Engine:
    """Works on some queues until it is told to drain, or, in a burst, until they are empty."""

    def __init__(
        self,
        stations: Sequence[Station],
        execution: Execution,
        runner: Runner,
        *,
        clock: Clock,
        events: Events,
        draw: random.Random,
        concurrency: int = 10,
        grace: float = 25.0,
        burst: bool = False,
        pump: bool = True,
    ) -> None:
        """Times in seconds. The drivers in `stations` stay open: they belong to the caller."""
        self._execution = execution
        self._runner = runner
        self._clock = clock
        self._events = events
        self._concurrency = concurrency
        self._grace = grace
        self._burst = burst
        self._work: set[asyncio.Task[None]] = set()
        self.leases: Leases = Leases(clock, events, self._spawn, self._lease_lost)
        self._poll_tasks: set[asyncio.Task[None]] = set()
        self._sources = [
            _Source(
                station,
                Settler(station, self.leases, clock, events, self._spawn, draw),
                WEIGHTS.get(station.queue.priority, 5),
            )
            for station in stations
        ]
        delayed = {station.delay: station for station in stations if station.limits.send_delay < float("inf")}
        # A receive cannot always be broken off: its wait must fit into the grace, with time left to give back what it brings.
        self._wait = max(1.0, min(20.0, grace - 5.0))
        wait = 1.0 if burst else self._wait
        self._pumps = [Pump(list(stations), each, clock, events, wait=wait) for each in delayed.values()] if pump else []
        self._source_of = {source.station: source for source in self._sources}
        self._running: dict[Held, None] = {}
        self._slots_used = 0
        #: By queue and ordering key: what waits for the one before it. A key is here while anything of it is in hand.
        self._lanes: dict[tuple[str, str], deque[Held]] = {}
        #: By task that has a `max_concurrency`: how many run, and what waits in hand for one of them to end.
        self._running_of: Counter[str] = Counter()
        self._capped: dict[str, deque[Held]] = defaultdict(deque)
        #: Have crashed before, and are being confirmed to the provider before they start.
        self._confirming: set[asyncio.Task[None]] = set()
        self._run_time: float | None = None
        self._draining = asyncio.Event()
        #: What the runner had not begun when the drain came.
        self._unbegun: list[Held] = []
        self._progress = False
        #: A look at what may be started is on its way.
        self._looking = False
        #: The one message in hand that must not crash again, and how many others of its kind are on their way back.
        self._suspect: Held | None = None
        self._suspects_leaving = 0
        #: No task runs.
        self._idle = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Work until drained. Raises when anything inside breaks: a worker is never alive and deaf."""
        self._failure = asyncio.get_running_loop().create_future()
        self._runner.start(self._ended, self._fail)
        self._emit(Name.WORKER_STARTED, queues=", ".join(source.station.queue.physical for source in self._sources))
        background = [self._spawn(self.leases.run()), *(self._spawn(pump.run()) for pump in self._pumps)]
        drain = self._spawn(self._wait_for_drain())
        self._poll_more()
        try:
            await asyncio.wait([drain, self._failure], return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            await self._or_failure(self._wind_down())
        finally:
            self._draining.set()  # nothing is polled or started from here on, whatever timer still fires
            self._runner.stop()
            owned = [*background, drain, *self._poll_tasks, *self._work]
            for task in owned:
                task.cancel()
            await asyncio.gather(*owned, return_exceptions=True)
            self._emit(Name.WORKER_STOPPED)

    async def pump_once(self) -> int:
        """Forward what is due in the delay parts, without running. Returns how many messages were looked at."""
        return sum([await pump.once() for pump in self._pumps])

    def unready(self) -> str:
        """Tell why this worker does not work on its queues, or nothing when it does. From any thread."""
        if self._draining.is_set():
            return "it drains"
        cannot = [source.station.queue.physical for source in self._sources if source.paused]
        return f"nothing can be received from {', '.join(cannot)}" if cannot else ""

    def drain(self) -> None:
        """Begin to end. Call from the loop; a second call changes nothing."""
        self._draining.set()
        self._unbegun += self._runner.begin_no_more()

    # Receiving --------------------------------------------------------------------------------------------------------

    def _poll_more(self) -> None:
        """Start what polls there is room for."""
        while not self._draining.is_set():
            source = self._next_to_poll()
            if source is None:
                return
            poll = _Poll(min(self._room(source), _batch(source.station)))
            source.polls.append(poll)
            task = asyncio.get_running_loop().create_task(self._poll(source, poll))
            self._poll_tasks.add(task)
            task.add_done_callback(self._poll_done)

    def _next_to_poll(self) -> _Source | None:
        able = [source for source in self._sources if self._may_poll(source)]
        return _by_turn(able)

    def _may_poll(self, source: _Source) -> bool:
        if source.paused or source.exhausted or source.standing() or len(source.polls) >= _MOST_POLLS:
            return False
        if source.polls and not source.hungry:
            return False
        ahead = self._ahead(source)
        # While messages may be taken ahead, whole batches are asked for: a request costs the same for one as for ten.
        least = _batch(source.station)
        return self._room(source) >= (least if ahead >= least else 1)

    def _room(self, source: _Source) -> int:
        free = self._concurrency - self._slots_used
        asked = sum(other.reserved() for other in self._sources)
        # What waits for its task's own cap leaves the slots to other queues, and keeps its own from piling up more of it.
        capped = sum(held.station is source.station for line in self._capped.values() for held in line)
        return free + self._ahead(source) - self._waiting() - asked - capped

    def _waiting(self) -> int:
        return sum(len(source.buffer) for source in self._sources) + sum(len(lane) for lane in self._lanes.values())

    def _ahead(self, source: _Source) -> int:
        """How many messages may wait for a slot: a batch, and what is used up until the next one has made its way here."""
        if self._run_time is None or not source.station.renews:
            return 0  # also of what was handed over: it is here already, and starts as soon as a slot is free
        on_the_way = int(self._concurrency * source.round_trip / max(self._run_time, 1e-6)) if source.hungry else 0
        batch = _batch(source.station)
        return min(batch + min(on_the_way, (_MOST_POLLS - 1) * batch), self._startable(source))

    def _startable(self, source: _Source) -> int:
        """How many messages surely start soon, if they wait here for a slot."""
        if self._run_time is None or self._burst_is_over():
            return 0
        if sum(other.buffer.bytes for other in self._sources) > _AHEAD_BYTES:
            return 0
        soon = min(_AHEAD, source.station.queue.lease / 4)
        return int(soon / max(self._run_time, 1e-6)) * self._concurrency

    def _burst_is_over(self) -> bool:
        return self._burst and all(source.exhausted for source in self._sources)

    async def _poll(self, source: _Source, poll: _Poll) -> None:
        station = source.station
        wait = 0.0 if self._burst else min(station.limits.receive_wait, self._wait)
        began = self._clock.monotonic()
        lapse = asyncio.get_running_loop().call_later(_UNANSWERED, self._lapse, poll)
        deliveries: Sequence[Delivery] = ()
        try:
            async with asyncio.timeout(wait + _OVERDUE):
                deliveries = await station.driver.receive(station.queue, poll.ask, wait)
        except (DriverError, TimeoutError) as error:
            self._pause(source, str(error) or f"no answer {_OVERDUE:g} s after its time")
        else:
            source.pause = _FIRST_PAUSE
            source.exhausted = self._burst and not deliveries
        finally:
            lapse.cancel()
            source.polls.remove(poll)
        source.hungry = len(deliveries) == poll.ask
        if source.hungry:
            took = self._clock.monotonic() - began
            # The best of late: an average would count what polls wait for each other, and ask for more of them.
            source.round_trip = min(took, source.round_trip * _FORGET) if source.round_trip else took
        self._progress = self._progress or bool(deliveries)
        refused: set[tuple[str, str] | None] = set()
        busy = frozenset(self._lanes)
        for delivery in deliveries:
            self._take(source, delivery, refused, busy)
        self._start_more()
        self._give_back_excess(source)
        self._poll_more()
        self._end_burst()

    def _lapse(self, poll: _Poll) -> None:
        poll.reserved = False
        self._poll_more()

    def _pause(self, source: _Source, reason: str) -> None:
        self._emit(Name.RECEIVE_FAILED, source.station, reason=reason, retry_in=source.pause)
        source.paused = True
        asyncio.get_running_loop().call_later(source.pause, self._resume, source)
        source.pause = min(source.pause * 2, _LONGEST_PAUSE)

    def _resume(self, source: _Source) -> None:
        source.paused = False
        self._look_soon()

    def _take(
        self, source: _Source, delivery: Delivery, refused: set[tuple[str, str] | None], lanes: frozenset[tuple[str, str]]
    ) -> None:
        now = self._clock.monotonic()
        held = Held(
            delivery=delivery,
            station=source.station,
            clock=self._clock,
            lease_end=now + delivery.leased_for,
            renew_at=now + delivery.leased_for - source.station.queue.lease / 2 if source.station.renews else math.inf,
        )
        self._emit(Name.RECEIVED, source.station, message_id=delivery.message_id, deliveries=delivery.deliveries)
        self.leases.hold(held)
        lane = held.lane
        # On its last chance it starts at once or goes back: waiting here, it could be taken down without having run.
        suspect = delivery.crashes == CRASHES - 1
        no_slot = self._suspect is not None or self._slots_used >= self._concurrency
        if (suspect and no_slot) or (lane is not None and lane in refused):
            refused.add(lane)  # what follows it in its key must not overtake it
            self._give_turn(held)
            return
        if suspect:
            self._suspect = held
        if lane is not None and lane in self._lanes:
            held.out_of_turn = lane in lanes
            self._lanes[lane].append(held)
            return
        if lane is not None:
            self._lanes[lane] = deque()
            held.heads_lane = True
        source.buffer.put(held, first=suspect)

    def _give_turn(self, held: Held) -> None:
        self._suspects_leaving += 1
        delay = min(_ANOTHER_TURN, held.station.limits.release_delay)
        held.finished = True

        def gone(_confirmed: bool) -> None:  # noqa: FBT001  a callback with one answer
            self._suspects_leaving -= 1
            self._look_soon()

        held.then = gone
        self._source_of[held.station].settler.settle(held, GiveBack(delay, counted=False), None)

    def _give_back_excess(self, source: _Source) -> None:
        """Return what other queues' messages left no room for: it should run now, elsewhere."""
        # A suspect that waits for others of its kind to leave has its slot: given back, it would only come again.
        blocked = self._blocked()
        allowed = self._startable(source) + any(blocked in other.buffer for other in self._sources)
        while self._waiting() > allowed:
            # From the end: of an ordering key, the later ones go first.
            lanes = [lane for lane in self._lanes.values() if lane]
            able = [other for other in self._sources if other.buffer.next(blocked) is not None]
            fullest = max(able, key=lambda other: len(other.buffer), default=None)
            if lanes:
                # What came out of turn would be received again, and at once.
                held = lanes[-1].pop()
                self._finish(held, NotRun(delay=_ANOTHER_TURN if held.out_of_turn else 0.0))
            elif fullest is not None:
                self._give_back_unrun(fullest.buffer.take_last(blocked))
            else:
                return

    # Running ----------------------------------------------------------------------------------------------------------

    def _start_more(self) -> None:
        self._start_capped()
        while self._slots_used < self._concurrency and not self._draining.is_set():
            blocked = self._blocked()
            ready = {source: held for source in self._sources if (held := source.buffer.next(blocked)) is not None}
            source = _by_turn(list(ready))
            if source is None:
                return
            source.buffer.take(ready[source])
            self._start(ready[source])

    def _start_capped(self) -> None:
        """Start what waited for its task's cap, where that has room again."""
        for name, line in self._capped.items():
            while line and self._slots_used < self._concurrency and not self._draining.is_set():
                most = self._execution.cap_of(name)
                if most is not None and self._running_of[name] >= most:
                    break
                self._start(line.popleft())

    def _blocked(self) -> Held | None:
        """A suspect waits until others of its kind are surely gone from here: it may be the one that ends the process."""
        return self._suspect if self._suspects_leaving else None

    def _start(self, held: Held) -> None:
        if held.lost():
            self._drop_lost(held)
            return
        opened = self._execution.open(held.delivery, held.station.limits)
        if not isinstance(opened, Job):
            self._slots_used += 1  # a message that cannot be run takes a slot too while its copy is not confirmed
            self._report_unrun(held, *opened)
            self._settle(held, *opened, holds_slot=True)
            return
        most = opened.task.max_concurrency
        if most is not None:
            if self._running_of[opened.task.name] >= most:
                self._wait_for_cap(held, opened.task.name)
                return
            self._running_of[opened.task.name] += 1
        self._slots_used += 1
        if held.delivery.crashes and not held.extended:
            confirming = self._spawn(self._confirm(held, opened))
            self._confirming.add(confirming)
            confirming.add_done_callback(self._confirming.discard)
        else:
            self._run(held, opened)

    def _run(self, held: Held, opened: Job) -> None:
        held.job = opened
        held.started_at = self._clock.monotonic()
        if opened.task.timeout is not None:
            # The process of an isolated task may have to start first, and ends it at its timeout by itself.
            spare = ISOLATED_START if opened.task.isolate else 0.0
            held.renew_until = held.started_at + opened.task.timeout + spare
            self.leases.hold(held)  # the keeper may have to look at it sooner than it knew
        self._running[held] = None
        self._runner.submit(held)

    def _drop_lost(self, held: Held) -> None:
        self.leases.lose(held)
        held.finished = True
        if held is self._suspect:
            self._suspect = None
        self._close_lane(held)

    async def _confirm(self, held: Held, opened: Job) -> None:
        """Start what has crashed before, once the provider has confirmed that it is here."""
        try:
            await self.leases.confirm(held)
        except asyncio.CancelledError:  # by a drain: an answer that does not come must not use up the grace
            if not self._draining.is_set():
                raise
        if held.extended and not held.lost() and not self._draining.is_set():
            self._run(held, opened)
            return
        self._slots_used -= 1
        if opened.task.max_concurrency is not None:
            self._running_of[opened.task.name] -= 1
        if held.lost():
            self._drop_lost(held)
        else:
            self._close_lane(held)
            # While it works, not at once: the confirmation would only fail again.
            self._finish(held, NotRun(delay=0.0 if self._draining.is_set() else _ANOTHER_TURN))
        self._look_soon()

    def _wait_for_cap(self, held: Held, task: str) -> None:
        if held is self._suspect:
            # On its last chance it does not wait here: it could be taken down without having run.
            self._suspect = None
            self._close_lane(held)
            self._give_turn(held)
            return
        self._capped[task].append(held)

    def _ended(self, held: Held, outcome: Outcome) -> None:
        """A task ended. Called by the runner, on this loop, which only logs what is raised here."""
        try:
            self._task_ended(held, outcome)
        except Exception as error:
            self._fail(error)

    def _task_ended(self, held: Held, outcome: Outcome) -> None:
        if held not in self._running:
            return  # given back at the end of the grace; this is the late result of a thread that could not be stopped
        self._note_run_time(self._clock.monotonic() - held.started_at)
        self._finish(held, outcome)
        self._look_soon()

    def _look_soon(self) -> None:
        """Start, poll and end what may be, once for all that happens in this turn of the loop."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        try:
            self._start_more()
            self._poll_more()
            self._end_burst()
        except Exception as error:
            self._fail(error)

    def _lease_lost(self, held: Held) -> None:
        # A process that was stopped and goes on finishes its late runs soon; what has not ended a lease later is stuck.
        asyncio.get_running_loop().call_later(held.station.queue.lease, self._check_stuck)

    def _check_stuck(self, before: frozenset[Held] = frozenset()) -> None:
        now = self._clock.monotonic()
        stuck = frozenset(held for held in self._running if now >= held.lease_end + held.station.queue.lease)
        if len(stuck) < self._concurrency:
            return
        if not stuck <= before:
            # This loop may itself have been kept from running: what has ended meanwhile is told in a moment.
            asyncio.get_running_loop().call_later(_SURELY_STUCK, self._check_stuck, stuck)
        else:
            # Threads cannot be stopped. A worker whose every slot is held by a run that no longer counts would be deaf.
            self._fail(
                StuckWorker(
                    f"all {self._concurrency} slots are held by tasks that lost their leases and have not ended. The process "
                    f"ends, so that another can work; give such tasks a `timeout` that they keep to."
                )
            )

    def _note_run_time(self, took: float) -> None:
        self._run_time = took if self._run_time is None else self._run_time + _NEWEST * (took - self._run_time)

    def _finish(self, held: Held, outcome: Outcome) -> None:
        job = held.job
        if job is None:
            delay = outcome.delay if isinstance(outcome, NotRun) else 0.0
            limits = held.station.limits
            longest = limits.release_delay if held.lane is None else limits.ordered_release_delay
            self._settle(held, GiveBack(min(delay, longest), counted=False), None, holds_slot=False)
            return
        del self._running[held]
        if not self._running:
            self._idle.set()
        if job.task.max_concurrency is not None:
            self._running_of[job.task.name] -= 1
        settlement = self._execution.close(job, outcome, held.station.limits)
        if not held.lost():
            self._report_outcome(job, outcome, settlement, self._clock.monotonic() - held.started_at)
        self._settle(held, settlement, job.envelope, holds_slot=True)

    def _report_outcome(self, job: Job, outcome: Outcome, settlement: Settlement, took: float) -> None:
        match outcome:
            case Succeeded():
                self._execution.report(Name.SUCCEEDED, job, seconds=round(took, 6))
            case Failed():
                self._execution.report(Name.FAILED, job, error=outcome.error, trace=outcome.trace)
                if isinstance(settlement, GiveBack):
                    self._execution.report(Name.RETRIED, job, error=outcome.error, delay=settlement.delay)
            case Rejected():
                self._execution.report(Name.REJECTED, job, reason=outcome.reason)
            case NotRun():
                if outcome.started:
                    self._execution.report(Name.INTERRUPTED, job)

    def _report_unrun(self, held: Held, settlement: Settlement, envelope: Envelope | None) -> None:
        reason = settlement.reason if isinstance(settlement, (GiveBack, Resend)) else ""
        dropped = isinstance(settlement, Ack)
        if reason or dropped:
            self._emit(
                Name.DROPPED if dropped else Name.NOT_KNOWN,
                held.station,
                task=envelope.type if envelope is not None else "",
                task_id=envelope.id if envelope is not None else held.delivery.message_id,
                reason=reason or "expired",
            )

    def _settle(self, held: Held, settlement: Settlement, envelope: Envelope | None, *, holds_slot: bool) -> None:
        assert not held.finished, "settled once"
        held.finished = True
        held.removes = not isinstance(settlement, GiveBack)
        copies = _needs_copy(held, settlement)
        if holds_slot and not copies:
            # The work is done; its ack may linger. A slot kept until then would make a linger cost throughput.
            self._slots_used -= 1
        frees_slot = holds_slot and copies
        # A plain ack changes nothing for anybody else: its slot is free already.
        if frees_slot or held is self._suspect or held.heads_lane or self._burst:
            held.then = self._then(held, frees_slot=frees_slot)
        self._source_of[held.station].settler.settle(held, settlement, envelope)

    def _then(self, held: Held, *, frees_slot: bool) -> Callable[[bool], None]:
        def then(confirmed: bool) -> None:  # noqa: FBT001  a callback with one answer
            if frees_slot:
                self._slots_used -= 1
            if held is self._suspect:
                self._suspect = None
            if held.heads_lane:
                self._next_in_lane(held, confirmed=confirmed)
            self._look_soon()

        return then

    # Ordering keys ----------------------------------------------------------------------------------------------------

    def _next_in_lane(self, held: Held, *, confirmed: bool) -> None:
        lane = held.lane
        assert lane is not None
        waiting = self._lanes[lane]
        if not (confirmed and held.removes and waiting) or self._draining.is_set():
            self._close_lane(held)
            return
        held.heads_lane = False
        following = waiting.popleft()
        following.heads_lane = True
        self._buffer_first(following)

    def _buffer_first(self, held: Held) -> None:
        self._source_of[held.station].buffer.put(held, first=True)

    def _close_lane(self, held: Held) -> None:
        """The key's turn is over: what waits behind goes back unrun, to come again in order."""
        if not held.heads_lane or held.lane is None:
            return
        held.heads_lane = False
        waiting = self._lanes.pop(held.lane)
        while waiting:
            self._finish(waiting.pop(), NotRun())

    # Ending -----------------------------------------------------------------------------------------------------------

    def _end_burst(self) -> None:
        if not self._burst or self._draining.is_set():
            return
        in_hand = self._slots_used or self._waiting() or self._running
        # Until an ack is confirmed, the next of its ordering key cannot be received.
        polling = any(source.polls or source.paused or source.settler.settling() for source in self._sources)
        if in_hand or polling or not all(source.exhausted for source in self._sources):
            return
        if self._progress:
            # What ran may have enqueued more: one more round, and the end is a round that finds nothing.
            self._progress = False
            for source in self._sources:
                source.exhausted = False
            self._poll_more()
        else:
            self.drain()

    async def _wait_for_drain(self) -> None:
        await self._draining.wait()

    async def _wind_down(self) -> None:
        self._emit(Name.WORKER_DRAINING, running=len(self._running), waiting=self._waiting())
        # Receivers first: a message that is released while a poll is open would be caught again by that poll.
        for task in list(self._poll_tasks):
            task.cancel()
        await asyncio.gather(*self._poll_tasks, *(pump.stop() for pump in self._pumps), return_exceptions=True)
        self._give_all_back()
        for confirming in list(self._confirming):
            confirming.cancel()
        await asyncio.gather(*self._confirming, return_exceptions=True)
        await self._until_none_runs(self._grace)
        if self._running:
            self._runner.cancel_all()
            await self._until_none_runs(_LAST_WORDS)
        for held in list(self._running):
            self._finish(held, NotRun(started=True))
        try:
            async with asyncio.timeout(_FLUSH):
                await asyncio.gather(*(source.settler.join() for source in self._sources))
        except TimeoutError:
            self._emit(Name.SETTLE_UNKNOWN, reason=f"not everything was confirmed {_FLUSH:g} s after the last task ended")

    def _give_all_back(self) -> None:
        """Return everything that has not started."""
        for held in self._unbegun:
            self._finish(held, NotRun())
        for lane in self._lanes.values():
            while lane:
                self._finish(lane.pop(), NotRun())
        for source in self._sources:
            source.settler.hurry()
        for source in self._sources:
            while source.buffer:
                self._give_back_unrun(source.buffer.take_last())
        for line in self._capped.values():
            while line:
                self._give_back_unrun(line.pop())

    def _give_back_unrun(self, held: Held) -> None:
        self._close_lane(held)
        self._finish(held, NotRun())

    async def _until_none_runs(self, patience: float) -> None:
        deadline = self._clock.monotonic() + patience
        while self._running and self._clock.monotonic() < deadline:
            self._idle.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                    await self._idle.wait()
            except TimeoutError:
                return

    async def _or_failure(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._failure is not None
        task = asyncio.ensure_future(work)
        await asyncio.wait([task, self._failure], return_when=asyncio.FIRST_COMPLETED)
        if self._failure.done():
            task.cancel()
            self._failure.result()
        task.result()

    # Owning -----------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work_done)
        return task

    def _work_done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _poll_done(self, task: asyncio.Task[None]) -> None:
        self._poll_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _emit(self, name: Name, station: Station | None = None, **detail: str | float) -> None:
        queue = station.queue.logical if station is not None else ""
        self._events.emit(Event(name, self._clock.time(), queue, detail=detail))


def _batch(station: Station) -> int:
    """Return how many messages are asked for at once.

    Ordered work goes back unrun when the one before it fails. Where the provider counts that as a delivery, a head that fails
    often would use up the attempts of all that were received with it: there it is received one by one.
    """
    limits = station.limits
    return 1 if station.queue.ordered and not limits.release_uncounted else limits.receive_count


def _needs_copy(held: Held, settlement: Settlement) -> bool:
    if isinstance(settlement, Bury):
        return not held.station.limits.native_dead_letter
    return not isinstance(settlement, (Ack, GiveBack))


def _by_turn(sources: Sequence[_Source]) -> _Source | None:
    """Smooth weighted turns: each gains its weight, the one with the most is chosen and pays for all."""
    if len(sources) < 2:
        return sources[0] if sources else None
    for source in sources:
        source.turn += source.weight
    chosen = max(sources, key=lambda source: source.turn)
    chosen.turn -= sum(source.weight for source in sources)
    return chosen
