"""Tasks that misbehave beside short ones: no lease is lost, because none of them runs on the loop that renews."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from cloudq import CloudQ
from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working

LEASE = 2.0
LENGTH = 2.5 * LEASE


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(200))


@pytest.mark.timeout(120)
async def test_no_task_can_keep_a_lease_from_its_renewal(tmp_path, report):
    app = CloudQ(f"sqlite:///{tmp_path}/queue.db", queues={"main": {"lease": LEASE}})
    watch = Watch(app)
    threads = set()

    @app.task(queue="main")
    async def blocking() -> None:
        threads.add(threading.current_thread().name)
        time.sleep(LENGTH)  # noqa: ASYNC251  that is the point

    @app.task(queue="main")
    def spinning() -> None:
        threads.add(threading.current_thread().name)
        spin(LENGTH)

    @app.task(queue="main")
    async def spinning_coroutine() -> None:
        spin(LENGTH)

    @app.task(queue="main")
    def short(number: int) -> None:
        time.sleep(0.005)

    for task in (blocking, spinning, spinning_coroutine):
        await task.aenqueue()
    await app.aenqueue_many(short.message(number) for number in range(300))
    async with working(app, Plan(queues=["main"], concurrency=6, grace=20.0)) as engine:
        await watch.until(Name.ACKED, 303, never=Name.LEASE_LOST)
    # Every run of two and a half leases was renewed at each half.
    assert len(watch.named(Name.RENEWED)) >= 9
    assert threading.current_thread().name not in threads
    report(
        f"blocking async def, CPU-bound def and CPU-bound async def of {LENGTH:g} s beside 300 short tasks, lease {LEASE:g} s: "
        f"leases lost 0, worst renewal gap {engine.leases.worst_gap * 1000:.0f} ms"
    )
    app.close()


@pytest.mark.timeout(60)
async def test_what_waits_behind_a_task_that_blocks_its_loop_is_given_back_at_once_by_a_drain(tmp_path):
    app = CloudQ(f"sqlite:///{tmp_path}/queue.db")
    watch, go_on, ran = Watch(app), threading.Event(), list[str]()

    @app.task(name="blocking")
    async def blocking() -> None:
        go_on.wait(30)

    @app.task(name="behind")
    async def behind() -> None:
        ran.append("behind")

    async def let_go_once_it_is_given_back():
        await watch.until(Name.RELEASED)
        go_on.set()

    async with asyncio.TaskGroup() as group, working(app, Plan(queues=["default"], concurrency=2, grace=20.0)):
        group.create_task(let_go_once_it_is_given_back())
        await blocking.aenqueue()
        await watch.until(Name.STARTED)
        await behind.aenqueue()
        await watch.until(Name.RECEIVED, 2)
    app.close()
    (draining,) = watch.named(Name.WORKER_DRAINING)
    assert draining.detail["running"] == 2, "it was not handed over yet, which is not what this is about"
    assert [event.task for event in watch.named(Name.ACKED)] == ["blocking"]
    assert [event.task for event in watch.named(Name.RELEASED)] == ["behind"]
    assert not ran
