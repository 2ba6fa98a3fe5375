from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import itertools
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from cloudq import (
    ArgumentsError,
    Backoff,
    CloudQ,
    ConfigError,
    Context,
    EnqueueRejected,
    EnqueueUnknown,
    MessageTooLarge,
    PartialEnqueueError,
    Unsupported,
)
from cloudq.driver import Part
from cloudq.envelope import decode
from cloudq.errors import MissingAdapter, OutcomeUnknown, QueueNotFound, Refused
from cloudq_local.memory import MemoryBroker, _brokers

_numbers = itertools.count()


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Row(TypedDict):
    name: str


class Model(pydantic.BaseModel):
    when: datetime
    tags: list[str]


class Item(msgspec.Struct):
    price: Decimal


@pytest.fixture
def app():
    name = f"tasks-{next(_numbers)}"
    app = CloudQ(f"memory://{name}", queues={"pri": {"priorities": ["high", "normal"]}, "ord": {"ordered": True}})
    yield app
    app.close()


def queued(app, queue="default", part=Part.MAIN, priority="normal"):
    broker: MemoryBroker | None = _brokers.get(app.url_of(queue).removeprefix("memory://"))
    if broker is None:  # nothing was ever sent
        return []
    return [decode(delivery.body) for delivery in broker.peek(app.address(queue, part, priority), 1000)]


def test_a_call_runs_inline(app):
    @app.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    @app.task
    def attempt(ctx: Context, text: str) -> str:
        return f"{text} {ctx.attempt} {ctx.lease_lost}"

    @app.task(queue="pri")
    async def double(a: int) -> int:
        return 2 * a

    assert add(1) == 3
    assert attempt("x") == "x 1 False"
    assert asyncio.run(double(4)) == 8
    assert not queued(app)


def test_enqueue_returns_a_receipt_of_what_is_queued(app):
    @app.task(name="shop.render")
    def render(report: int, fmt: str = "pdf") -> None: ...

    receipt = render.enqueue(42)
    (envelope,) = queued(app)
    assert (envelope.id, envelope.type, bytes(envelope.data)) == (receipt.task_id, "shop.render", b'{"report":42}')
    assert receipt.queue == "default"
    assert receipt.due is None


async def test_async_callers_use_the_same_way(app):
    @app.task
    def one(number: int) -> None: ...

    await one.aenqueue(1)
    assert await app.aenqueue_many(one.message(number) for number in range(1200)) == 1200
    assert len(queued(app)) == 1000  # as many as the peek asked for


def test_options(app):
    @app.task(queue="pri")
    def one(number: int) -> None: ...

    @app.task(queue="ord")
    def step(number: int) -> None: ...

    later = datetime.now(UTC) + timedelta(hours=2)
    assert one.options(delay="1h").options(priority="high").enqueue(1).due is not None
    assert one.options(at=later).enqueue(2).due == pytest.approx(later.timestamp())
    one.options(expires="1m", task_id="mine").enqueue(3)
    step.options(ordering_key="k").enqueue(4)
    (high,) = queued(app, "pri", priority="high")
    assert high.priority == "high"
    assert high.due - high.time == pytest.approx(3600, abs=1)
    mine = next(envelope for envelope in queued(app, "pri") if envelope.id == "mine")
    assert mine.expires - mine.time == pytest.approx(60, abs=1)
    assert queued(app, "ord")[0].ordering_key == "k"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 3), (datetime, datetime(2026, 1, 2, tzinfo=UTC)), (Colour, Colour.RED), (Point, Point(1, 2.5)),
        (Row, {"name": "n"}), (UUID, UUID(int=7)), (Decimal, Decimal("1.10")), (Item, Item(Decimal("9.99"))),
        (Model, Model(when=datetime(2026, 1, 2, tzinfo=UTC), tags=["a"])), (int, 2**70),
        (list[Model], [Model(when=datetime(2026, 1, 2, tzinfo=UTC), tags=[])]),
        (int | None, None), (dict[str, list[int]], {"a": [1]}), (bytes, b"\x00\xff"), (timedelta, timedelta(seconds=5)),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_come_out_as_they_went_in(app, kind, value):
    def take(value) -> None: ...

    take.__annotations__ = {"value": kind, "return": None}
    task = app.task(name="take")(take)
    args, kwargs = task.signature.decode(task.signature.encode((value,), {}))
    assert (args, kwargs) == ((), {"value": value})


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (("one",), {}, "one(number: int, text: str = ''): number = 'one' does not fit: Expected `int`, got `str`"),
        ((), {}, "missing a required argument: 'number'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"nmber": 2}, "there is no argument 'nmber'. Did you mean 'number'?"),
        ((object(),), {}, "cannot be written as JSON"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_where_they_are_written(app, args, kwargs, says):
    @app.task
    def one(number: int, text: str = "") -> None: ...

    with pytest.raises(ArgumentsError) as raised:
        one.enqueue(*args, **kwargs)
    assert says in str(raised.value)
    assert not queued(app)


def test_positional_only_and_defaults(app):
    @app.task
    def one(a: int, /, b: int = 5, *, c: int) -> None: ...

    assert one.signature.decode(one.signature.encode((1,), {"c": 3})) == ((1,), {"c": 3})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": "high"}, "queues.default.priorities"),
        ({"ordering_key": "k"}, "queues.default.ordered = true"),
    ],
)
def test_options_that_the_queue_does_not_have_are_refused(app, options, says):
    @app.task
    def one() -> None: ...

    with pytest.raises(Unsupported) as raised:
        one.options(**options).enqueue()
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"delay": "1h", "at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"at": datetime(2026, 1, 1)},  # noqa: DTZ001  that is the mistake
        {"delay": "soon"},
        {"task_id": "two words"},
        {"ordering_key": ""},
    ],
)
def test_options_that_make_no_sense_are_refused(app, options):
    @app.task
    def one() -> None: ...

    with pytest.raises(ConfigError):
        one.options(**options)


def test_a_message_that_is_too_large_is_told_with_both_numbers(app):
    @app.task
    def one(text: str) -> None: ...

    with pytest.raises(MessageTooLarge) as raised:
        one.enqueue("x" * 1_040_000)
    assert (raised.value.actual > 1_040_000, raised.value.limit) == (True, 1024 * 1024 - 16 * 1024)


def test_declarations_that_cannot_work_are_refused(app):
    @app.task(name="one")
    def one() -> None: ...

    with pytest.raises(ConfigError, match="two tasks are named 'one'"):
        app.task(name="one")(lambda: None)
    with pytest.raises(ConfigError, match="names each argument"):

        @app.task
        def many(*args: int) -> None: ...

    with pytest.raises(ConfigError, match="must be the first parameter"):

        @app.task
        def late(number: int, ctx: Context) -> None: ...

    with pytest.raises(ConfigError, match="cannot travel"):
        app.task(name="a b")(lambda: None)
    with pytest.raises(ConfigError, match="cannot be used on every provider"):
        app.task(name="two", queue="my queue")(lambda: None)


def test_a_queue_bounds_the_attempts_of_its_tasks():
    app = CloudQ("memory://bound", queues={"main": {"max_attempts": 3}})

    @app.task(queue="main", retry=Backoff(max_attempts=5))
    def one() -> None: ...

    with pytest.raises(ConfigError, match="allows 3"):
        one.enqueue()


class Sends:
    """A driver whose sends end as they are told."""

    def __init__(self, driver, answer):
        self._driver, self._answer = driver, answer
        self.limits = driver.limits
        self.calls = 0

    async def send(self, queue, batch):
        self.calls += 1
        answer = self._answer(batch)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self): ...


def failing(app, answer):
    from cloudq.app import _Connection
    from cloudq.opening import open_driver
    from cloudq.sending import Sender

    driver = Sends(open_driver(app.url_of("default"), app.clock), answer)
    app._connections[app.url_of("default")] = _Connection(driver, Sender(driver, app.clock, app._spawn, app.draw))
    return driver


@pytest.mark.parametrize(
    ("error", "raised_as"),
    [(QueueNotFound("gone"), EnqueueRejected), (Refused("no"), EnqueueRejected), (OutcomeUnknown("?"), EnqueueUnknown),
     (RuntimeError("a mistake"), EnqueueUnknown)],
)  # fmt: skip
def test_an_enqueue_ends_as_refused_or_unknown(app, error, raised_as):
    @app.task
    def one() -> None: ...

    failing(app, lambda _: error)
    with pytest.raises(raised_as) as raised:
        one.options(task_id="t1").enqueue()
    assert raised.value.__cause__ is not None
    if raised_as is EnqueueUnknown:
        assert raised.value.task_id == "t1"
        assert "task_id='t1'" in str(raised.value)


def test_many_messages_fail_one_by_one(app):
    @app.task
    def one(number: int) -> None: ...

    def some(batch):
        return {i: Refused("odd") for i, message in enumerate(batch) if b'"number":3' in message.body}

    failing(app, some)
    with pytest.raises(PartialEnqueueError) as raised:
        app.enqueue_many(one.message(number) for number in range(10))
    assert list(raised.value.failures) == [3]
    assert raised.value.accepted == 9


def test_many_messages_stop_when_nothing_is_taken(app):
    @app.task
    def one(number: int) -> None: ...

    read = []

    def messages():
        for number in range(5000):
            read.append(number)
            yield one.message(number)

    failing(app, lambda batch: dict.fromkeys(range(len(batch)), Refused("no")))
    with pytest.raises(PartialEnqueueError) as raised:
        app.enqueue_many(messages())
    assert len(read) == 500
    assert raised.value.attempted == 500
    assert "from position 500 on" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite", "is not a provider URL"),
        ("sqllite:///x.db", "Did you mean 'sqlite'?"),
        ("sqlite://", "names no file"),
        ("sqlite:///missing/dir/x.db", "there is no directory"),
        ("sqlite:///x.db?jurnal=1", "takes no options: remove 'jurnal'"),
        ("memory://x?y=1", "takes no option 'y'"),
        ("servicebus://shop", "is not the name of a namespace"),
        ("pubsub://Shop!", "is not the id of a Google Cloud project"),
        ("pubsub://my-shop?regoin=europe-west1", "Did you mean 'region'?"),
        ("pubsub://my-shop?region=paris", "e.g. europe-west1"),
        ("pubsub://my-shop?region=europe-west1&endpoint=x", "Choose one"),
        ("pubsub://my-shop?endpoint=a/b", "is not host:port"),
        ("pubsub://my-shop?port=8085", "only for pubsub://local"),
        ("pubsub://my-shop?exactly_once=1", "true or false"),
        ("pubsub://my-shop?prefix=a-very-long-prefix-it-is", "20 characters at most"),
        ("sqs://paris", "is not the name of an AWS region"),
        ("sqs://eu-west-1?acount=1", "Did you mean 'account'?"),
        ("sqs://eu-west-1?account=12", "is 12 digits"),
        ("sqs://eu-west-1?endpoint=localhost:9324", "is not an http(s) URL"),
        ("sqs://eu-west-1?endpoint=http://me:secret@localhost", "endpoint= holds a user or a password"),
        ("sqs://eu-west-1?port=9324", "only for sqs://local"),
        ("sqs://eu-west-1?fifo_throughput=fast", "or 'high'"),
        ("sqs://eu-west-1?prefix=a-very-long-prefix-it-is", "20 characters at most"),
        ("sqlite://user:secret@x", "never a secret"),
    ],
)
def test_a_wrong_url_is_told(url, says):
    app = CloudQ(url)

    @app.task
    def one() -> None: ...

    with pytest.raises(ConfigError) as raised:
        one.enqueue()
    assert says in str(raised.value)
    assert "secret@" not in str(raised.value)


def test_a_missing_package_names_the_pip_line(monkeypatch):
    from importlib.metadata import EntryPoint

    from cloudq import opening

    entry = EntryPoint("sqs", "no_such_sdk_package:open_driver", "cloudq.adapters")
    monkeypatch.setattr(opening, "entry_points", lambda **_: [entry])
    with pytest.raises(MissingAdapter, match=r"pip install 'cloudq-tasks\[sqs\]'"):
        opening.open_driver("sqs://eu-west-1", CloudQ().clock)


def test_importing_cloudq_is_light():
    heavy = "rich click pydantic boto3 google.cloud azure sqlite3 cloudq_local"
    # What is there before was put there by a package's own start-up file.
    new = f"[name for name in {heavy.split()!r} if name in sys.modules and name not in before]"
    script = f"import sys; before = set(sys.modules); import cloudq; print({new})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_forked_child_enqueues_on_a_connection_of_its_own(tmp_path):
    script = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from cloudq import CloudQ
app = CloudQ("sqlite:///{tmp_path}/queue.db")
@app.task
def one(number: int) -> None: ...
one.enqueue(1)
pid = os.fork()
if pid == 0:
    one.enqueue(2)
    os._exit(0)
_, status = os.waitpid(pid, 0)
one.enqueue(3)
import sqlite3
print(status, sqlite3.connect("{tmp_path}/queue.db").execute("select count(*) from messages").fetchone()[0])
"""  # noqa: S608  a constant
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["0", "3"]


def test_a_fork_loses_nothing_whoever_closes_first(tmp_path):
    """The parent closes while the child goes on: what the child was told is confirmed must be in the file."""
    script = f"""
import os, warnings, sqlite3, threading
warnings.simplefilter("ignore")
from cloudq import CloudQ
app = CloudQ("sqlite:///{tmp_path}/queue.db")
@app.task
def one(number: int) -> None: ...
stop = threading.Event()
def keep_enqueuing():
    while not stop.is_set():
        one.enqueue(0)
threads = [threading.Thread(target=keep_enqueuing) for _ in range(2)]
for thread in threads: thread.start()
readers = []
for _ in range(4):
    read, write = os.pipe()
    go_read, go_write = os.pipe()
    if os.fork() == 0:
        one.enqueue(1)
        os.write(write, b"x")
        os.read(go_read, 1)
        for _ in range(10): one.enqueue(2)
        os._exit(0)
    readers.append((read, go_write))
for read, _ in readers: os.read(read, 1)
stop.set()
for thread in threads: thread.join()
app.close()
for _, go in readers: os.write(go, b"x")
codes = [os.waitpid(-1, 0)[1] for _ in readers]
rows = [row[0] for row in sqlite3.connect("{tmp_path}/queue.db").execute("select body from messages")]
print(codes, sum(b'"number":1' in row for row in rows), sum(b'"number":2' in row for row in rows))
"""  # noqa: S608  a constant
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[0, 0, 0, 0] 4 40", done.stderr


def test_closing_while_others_enqueue_ends_their_calls(app):
    @app.task
    def one() -> None: ...

    held = threading.Event()

    class Slow:
        limits = failing(app, lambda _: {}).limits

        async def send(self, queue, batch):
            held.set()
            await asyncio.sleep(30)

        async def aclose(self): ...

    from cloudq.app import _Connection
    from cloudq.sending import Sender

    slow = Slow()
    app._connections[app.url_of("default")] = _Connection(slow, Sender(slow, app.clock, app._spawn, app.draw))
    outcome = []

    def call():
        try:
            one.enqueue()
        except EnqueueUnknown as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert held.wait(5)
    app.close()
    thread.join(5)
    assert len(outcome) == 1


def test_a_hung_send_fails_nobody_else(app):
    @app.task
    def one(number: int) -> None: ...

    sent, begun = [], threading.Event()

    class HangsOnce:
        limits = failing(app, lambda _: {}).limits

        async def send(self, queue, batch):
            sent.append(len(batch))
            if len(sent) == 1:
                begun.set()
                await asyncio.sleep(60)
            return {}

        async def aclose(self): ...

    from cloudq.app import _Connection
    from cloudq.sending import Sender

    driver = HangsOnce()
    sender = Sender(driver, app.clock, app._spawn, app.draw)
    app._connections[app.url_of("default")] = _Connection(driver, sender)

    async def scenario():
        first = asyncio.create_task(app.aenqueue(one.message(0)))
        assert await asyncio.to_thread(begun.wait, 5)
        others = await asyncio.gather(*(app.aenqueue(one.message(n)) for n in (1, 2)))
        first.cancel()
        return others

    assert len(asyncio.run(scenario())) == 2


def test_a_decorated_coroutine_function_is_still_one(app):
    def traced(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @app.task
    @traced
    async def one() -> None: ...

    assert one.is_async


@pytest.mark.parametrize("wrong", ["inf", float("inf"), timedelta.max, "1000000d"])
def test_a_delay_that_never_ends_is_refused(app, wrong):
    @app.task
    def one() -> None: ...

    with pytest.raises(ConfigError):
        one.options(delay=wrong)


def test_wrong_declarations_are_told_with_the_right_one(app):
    for options, says in (
        ({"retry": 3}, r"retry=Backoff\(max_attempts"),
        ({"on_expiry": "drp"}, "Did you mean 'drop'"),
    ):
        with pytest.raises(ConfigError, match=says):
            app.task(name=f"t{next(_numbers)}", **options)(lambda: None)
    with pytest.raises(ConfigError, match="options are named"):
        app.task("mail")
    with pytest.raises(ConfigError, match="is a generator"):

        @app.task
        def generates():
            yield 1

    with pytest.raises(ConfigError, match="ctx: Context"):

        @app.task
        def untyped(ctx, number: int) -> None: ...
