"""What a type checker must refuse: every line that ends in `# wrong`, in mypy --strict and in pyright, and no other."""

from __future__ import annotations

from cloudq import Backoff, CloudQ, Context
from cloudq.testing import sandbox

app = CloudQ()


@app.task
def plain(report_id: int, fmt: str = "pdf") -> str:
    return fmt * report_id


@app.task(queue="reports")
async def with_context(ctx: Context, report_id: int) -> None: ...


plain.enqueue()  # wrong
plain.enqueue("1")  # wrong
plain.enqueue(1, 2)  # wrong
plain.enqueue(1, fmat="html")  # wrong
plain.enqueue(1, "html", 3)  # wrong
plain.enqueue(1, delay="5m")  # wrong
plain.message("1")  # wrong
plain.options(dealy="5m")  # wrong
plain.options(priority="urgent")  # wrong
plain.options(at="tomorrow")  # wrong
plain.options(delay="5m").enqueue("1")  # wrong
plain.options(delay="5m").message()  # wrong
with_context.enqueue("1")  # wrong
with_context.enqueue(Context(task="", task_id="", queue=""), 1)  # wrong
app.enqueue_many([1])  # wrong
app.enqueue(plain)  # wrong
Backoff(max_attempt=1)  # wrong
Backoff(max_attempts="1")  # wrong
app.task(que="x")  # wrong
app.task("reports")  # wrong
CloudQ(5)  # wrong


@app.task(retry=3)  # wrong
def other() -> None: ...


@app.task(on_expiry="ignore")  # wrong
def another() -> None: ...


async def asynchronous() -> None:
    await plain.aenqueue("1")  # wrong
    await with_context.aenqueue()  # wrong
    plain(1).enqueue()  # wrong


def test() -> None:
    with sandbox(app) as box:
        box.assert_enqueued(plain, "1")  # wrong
        box.assert_enqueued(plain)  # wrong
