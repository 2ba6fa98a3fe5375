"""A small shop on cloudq: mails, charges, invoices."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudq import Backoff, CloudQ, Context, Reject, Retry

app = CloudQ()  # where: cloudq.toml


@dataclass
class Order:
    number: int
    customer: str
    cents: int


@app.middleware
@contextmanager
def timed(ctx: Context) -> Generator[None]:
    began = time.perf_counter()
    try:
        yield
    except LookupError as error:  # a missing row does not come back by itself
        raise Reject(f"not found: {error}") from error
    finally:
        print(f"[{ctx.task} attempt {ctx.attempt}: {time.perf_counter() - began:.2f} s]", flush=True)


def alarm(ctx: Context, error: BaseException) -> None:
    print(f"ALARM {ctx.task} {ctx.task_id} was given up: {error}", flush=True)


@app.task(queue="mail", on_expiry="drop")
def mail(address: str, text: str = "welcome") -> None:
    print(f"mail to {address}: {text}", flush=True)


@app.task(queue="pay", retry=Backoff(max_attempts=3, first="1s", factor=2), on_failure=alarm, timeout="30s")
async def charge(ctx: Context, order: Order) -> None:
    if ctx.attempt == 1:
        raise ConnectionError("the bank does not answer")
    print(f"charged {order.cents} to {order.customer} at attempt {ctx.attempt}", flush=True)
    await mail.options(priority="high").aenqueue(order.customer, f"paid order {order.number}")


@app.task(queue="stock", on_failure=alarm, retry=Backoff(max_attempts=2, first="1s"))
def reserve(sku: str, count: int = 1) -> None:
    stock = dict(line.split("=") for line in Path("stock.txt").read_text().split())
    left = int(stock[sku])
    if left < count:
        raise Retry(after="1s", reason=f"{left} of {sku} left")
    print(f"reserved {count} {sku}", flush=True)


@app.task(queue="pdf", isolate=True, timeout="5s", max_concurrency=1, retry=Backoff(max_attempts=2, first="1s"))
def invoice(number: int) -> None:
    Path(f"invoice-{number}.pdf").write_text(f"invoice {number}\n")
    print(f"invoice {number}", flush=True)


def buy(order: Order, sku: str) -> None:
    print(charge.enqueue(order))
    print(reserve.enqueue(sku))
    print(invoice.enqueue(order.number))
    print(mail.options(delay="3s").enqueue(order.customer, "how was it?"))


if __name__ == "__main__":
    buy(Order(17, "ann@example.com", 4200), "tea")
