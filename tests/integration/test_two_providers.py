"""One application on two providers: each queue names its own."""

from __future__ import annotations

from cloudq import CloudQ
from cloudq.conformance.working import Watch
from cloudq.events import Name
from cloudq.worker.process import Plan, working


async def test_one_worker_serves_queues_of_two_providers(tmp_path):
    app = CloudQ(f"sqlite:///{tmp_path}/one.db", queues={"audit": {"url": f"sqlite:///{tmp_path}/two.db"}})
    watch, ran = Watch(app), []

    @app.task(queue="mail")
    def mail(number: int) -> None:
        ran.append(("mail", number))
        audit.enqueue(number)  # from inside a task, to the other provider

    @app.task(queue="audit")
    async def audit(number: int) -> None:
        ran.append(("audit", number))

    await mail.aenqueue(1)
    async with working(app, Plan(queues=["audit", "mail"])):
        await watch.until(Name.ACKED, 2)
    assert ran == [("mail", 1), ("audit", 1)]
    for name in ("one", "two"):
        assert (tmp_path / f"{name}.db").exists()
        assert (tmp_path / f"{name}.db").stat().st_mode & 0o777 == 0o600
    app.close()
