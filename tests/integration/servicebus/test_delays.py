"""Delays are native here: a scheduled message is the service's, for as long as it takes, and can be cancelled."""

from __future__ import annotations

import asyncio

from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working

DELAYS = {"10 s": 10.0, "2 days": 172_800.0, "60 days": 5_184_000.0}


async def test_delays_of_seconds_and_of_months(bus, report):
    app = bus.app(mail={})
    await bus.create()
    ran = []

    @app.task(queue="mail")
    async def note(name: str, due: float) -> None:
        ran.append((name, app.clock.time() - due))

    began = app.clock.time()
    for name, delay in DELAYS.items():
        await note.options(delay=delay).aenqueue(name, began + delay)
    watch = Watch(app)
    async with working(app, Plan(queues=["mail"], grace=5.0, concurrency=2)):
        for done, (name, delay) in enumerate(DELAYS.items()):
            bus.advance(began + delay - 1 - app.clock.time())
            counts = bus.server.counts()[app.addresses("mail")[0].physical]
            assert (counts["active"], counts["scheduled"]) == (0, len(DELAYS) - done)
            bus.advance(1.5)
            await watch.until(Name.ACKED, done + 1)
            assert ran[-1][0] == name
    app.close()
    report(
        f"Service Bus: delays of {', '.join(DELAYS)} ran {', '.join(f'{late:.1f} s' for _, late in ran)} after they were due"
    )
    assert all(0 <= late < 5 for _, late in ran)


async def test_a_cancelled_one_does_not_run(bus):
    app = bus.app(mail={})
    await bus.create()
    ran = []

    @app.task(queue="mail")
    async def note(name: str) -> None:
        ran.append(name)

    kept = await note.options(delay="1h", cancellable=True).aenqueue("kept")
    gone = await note.options(delay="1h", cancellable=True).aenqueue("gone")
    assert await gone.acancel() is True
    assert await gone.acancel() is False  # there is nothing more to cancel
    bus.advance(3601)
    watch = Watch(app)
    async with working(app, Plan(queues=["mail"], grace=5.0, concurrency=2)):
        await watch.until(Name.ACKED, 1)
    assert ran == ["kept"]
    assert await asyncio.to_thread(kept.cancel) is False  # it ran
    app.close()
