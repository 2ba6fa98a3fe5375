"""What a type checker must accept. Checked, never run, by mypy --strict and pyright."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TypedDict, assert_type
from uuid import UUID

from cloudq import Backoff, CloudQ, Context, Receipt, Task
from cloudq.testing import Enqueued, sandbox


class Format(Enum):
    PDF = "pdf"
    HTML = "html"


@dataclass
class Page:
    number: int
    due: datetime


class Options(TypedDict):
    wide: bool


app = CloudQ(queues={"reports": {"priorities": ["high", "normal"]}})


@app.task
def plain(report_id: int, fmt: str = "pdf") -> str:
    return fmt * report_id


@app.task(queue="reports", retry=Backoff(max_attempts=5), timeout=timedelta(minutes=5))
def with_context(ctx: Context, page: Page, *, fmt: Format = Format.PDF) -> None:
    ctx.logger.info("page %s as %s", page.number, fmt)


@app.task()
async def coroutine(price: Decimal, key: UUID, options: Options) -> int:
    return int(price)


@app.task(on_success=lambda ctx, result: ctx.logger.info("%s", result), isolate=True, max_concurrency=2)
def with_hooks() -> None: ...


@app.middleware
@contextmanager
def around(ctx: Context) -> Generator[None]:
    yield


assert_type(plain.enqueue(1), Receipt)
plain.enqueue(1, "html")
plain.enqueue(report_id=1, fmt="html")
plain.options(delay="5m", priority="high").enqueue(1)
with_context.enqueue(Page(1, datetime.now(UTC)), fmt=Format.HTML)
with_context.options(at=datetime.now(UTC), expires=timedelta(hours=1)).message(Page(1, datetime.now(UTC)))
coroutine.enqueue(Decimal(1), UUID(int=1), {"wide": True})
app.enqueue_many(plain.message(number) for number in range(3))
assert_type(plain(1), str)


async def asynchronous() -> None:
    assert_type(await plain.aenqueue(1), Receipt)
    assert_type(await coroutine(Decimal(1), UUID(int=1), {"wide": True}), int)
    await app.aenqueue_many([plain.message(1)])


def takes_a_task(task: Task[[int], str]) -> None:
    task.enqueue(1)


def test() -> None:
    with sandbox(app, inline=True) as box:
        assert_type(box.assert_enqueued(plain, 1, fmt="html"), Enqueued)
