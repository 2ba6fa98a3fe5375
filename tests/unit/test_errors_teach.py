"""Wrong uses, each with its whole message in tests/golden/errors.txt: what happened, the numbers, what to do next.

After a change on purpose: CLOUDQ_GOLDEN=write make test ARGS=tests/unit/test_errors_teach.py, and read the diff.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloudq import Backoff, CloudQ, CloudQError, Context, Retry
from cloudq.cli import main
from cloudq.driver import Part
from cloudq.testing import ManualClock, sandbox
from cloudq.worker.process import plan, working

GOLDEN = Path(__file__).parents[1] / "golden" / "errors.txt"
#: Read before the suite's own fixture takes every CLOUDQ_ variable away.
WRITE = os.environ.get("CLOUDQ_GOLDEN") == "write"
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def shop(url="memory://errors", **queues):
    app = CloudQ(url, queues=queues, clock=ManualClock())

    @app.task(name="shop.render")
    def render(ctx: Context, report_id: int, fmt: str = "pdf") -> None: ...

    return app, render


def cli(*arguments, module="shop"):
    task = f"@app.task(name='{module}.render')\ndef render(report_id: int) -> None: ...\n"
    Path(f"{module}.py").write_text(f"from cloudq import CloudQ\napp = CloudQ()\n{task}")
    sys.modules.pop(module, None)
    try:
        done = CliRunner().invoke(main, arguments)
    finally:
        sys.path[:] = [entry for entry in sys.path if entry != str(Path.cwd())]
        sys.modules.pop(module, None)
    assert done.exit_code in (1, 2, 3), f"exit {done.exit_code}: {done.output}"
    assert "Traceback" not in done.output
    return f"[exit {done.exit_code}] {done.output.strip()}"


# Options and declarations ---------------------------------------------------------------------------------------------------


@case
def a_misspelt_option_of_a_task():
    CloudQ().task(que="mail")


@case
def a_misspelt_option_of_an_enqueue():
    shop()[1].options(dealy="5m")


@case
def a_misspelt_option_of_a_backoff():
    Backoff(max_attempt=3)


@case
def an_option_given_as_an_argument():
    shop()[1].enqueue(42, delay="5m")


@case
def the_queue_given_by_position():
    CloudQ().task("mail")


@case
def an_unknown_priority():
    shop()[1].options(priority="urgent")


@case
def a_priority_that_the_queue_has_not():
    shop()[1].options(priority="high").enqueue(42)


@case
def an_ordering_key_on_a_queue_without_order():
    shop()[1].options(ordering_key="k").enqueue(42)


@case
def delay_and_at_together():
    shop()[1].options(delay=5, at=datetime(2030, 1, 1))  # noqa: DTZ001  it is the mistake


@case
def a_time_without_a_zone():
    shop()[1].options(at=datetime(2030, 1, 1))  # noqa: DTZ001  it is the mistake


@case
def a_delay_that_is_none():
    shop()[1].options(delay="soon")


@case
def an_expiry_before_the_delay():
    shop()[1].options(delay="2h", expires="1h").enqueue(42)


@case
def a_backoff_that_shrinks():
    Backoff(first="1h", cap="5m")


@case
def two_tasks_of_one_name():
    app, _ = shop()
    app.task(name="shop.render")(lambda: None)


@case
def a_context_without_an_annotation():
    @CloudQ().task
    def render(ctx, report_id: int) -> None: ...


@case
def a_generator_as_a_task():
    @CloudQ().task
    def render(report_id: int):
        yield report_id


@case
def any_number_of_arguments():
    @CloudQ().task
    def render(*report_ids: int) -> None: ...


@case
def isolate_inside_a_function():
    @CloudQ().task(isolate=True)
    def render(report_id: int) -> None: ...


@case
def a_queue_name_that_no_provider_takes():
    CloudQ().task(name="t", queue="e-mail&co")(lambda: None)


# Arguments ------------------------------------------------------------------------------------------------------------------


@case
def an_argument_of_the_wrong_type():
    shop()[1].enqueue("forty-two")


@case
def a_misspelt_argument():
    shop()[1].enqueue(42, fmat="html")


@case
def an_argument_that_cannot_be_written():
    @dataclass
    class Report:
        file: object

    app, _ = shop()

    @app.task(name="take")
    def take(report: Report) -> None: ...

    take.enqueue(Report(object()))


@case
def an_unannotated_set():
    app, _ = shop()

    @app.task(name="take")
    def take(ids) -> None: ...

    take.enqueue({1, 2})


@case
def a_message_that_is_too_large():
    shop("memory://errors?as=servicebus")[1].enqueue(42, "x" * 300_000)


@case
def many_of_what_are_no_messages():
    app, _ = shop()
    app.enqueue_many([42])


@case
def a_retry_after_nonsense():
    raise Retry(after="later")


# Settings -------------------------------------------------------------------------------------------------------------------


@case
def a_misspelt_setting_in_a_file():
    Path("cloudq.toml").write_text("[queues.mail]\nlaese = '5m'\n")
    _ = shop()[0].settings


@case
def a_misspelt_variable(monkeypatch):
    monkeypatch.setenv("CLOUDQ_QUEUES__MAIL__LAESE", "5m")
    _ = shop()[0].settings


@case
def a_setting_of_the_wrong_type(monkeypatch):
    monkeypatch.setenv("CLOUDQ_WORKER__CONCURRENCY", "many")
    _ = shop()[0].settings


@case
def a_file_that_is_no_toml():
    Path("cloudq.toml").write_text("url = \n")
    _ = shop()[0].settings


@case
def a_file_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CLOUDQ_CONFIG", "prod.toml")
    _ = shop()[0].settings


@case
def variables_that_contradict(monkeypatch):
    monkeypatch.setenv("CLOUDQ_WORKER", "x")
    monkeypatch.setenv("CLOUDQ_WORKER__GRACE", "5s")
    _ = shop()[0].settings


@case
def more_attempts_than_the_queue_allows():
    app = CloudQ("memory://errors", queues={"default": {"max_attempts": 5}})
    app.task(name="t", retry=Backoff(max_attempts=15))(lambda: None)
    _ = app.settings


@case
def two_queues_with_one_physical_name():
    app = CloudQ("memory://errors", queues={"mail": {}, "mail-dlq": {}})
    _ = app.settings


@case
def no_provider_in_a_function(monkeypatch):
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    shop(None)[1].enqueue(42)


@case
def a_url_that_is_none():
    shop("queue.db")[1].enqueue(42)


@case
def a_provider_that_is_misspelt():
    shop("sqlit:///queue.db")[1].enqueue(42)


@case
def a_task_that_cannot_be_taken_back():
    shop("memory://errors?as=sqs")[1].options(delay="1m", cancellable=True).enqueue(42)


@case
def a_task_without_a_delay_that_should_be_taken_back():
    shop("memory://errors")[1].options(cancellable=True).enqueue(42)


@case
def a_receipt_that_cancels_nothing():
    shop("memory://errors")[1].options(delay="1m").enqueue(42).cancel()


@case
def a_namespace_that_is_none():
    shop("servicebus://shop")[1].enqueue(42)


@case
def no_namespace():
    shop("servicebus://")[1].enqueue(42)


@case
def a_service_bus_option_that_is_misspelt():
    shop("servicebus://my-namespace?reciever=2")[1].enqueue(42)


@case
def a_password_in_a_url():
    shop("sqlite://user:secret@host")[1].enqueue(42)


@case
def an_option_that_the_url_has_not():
    shop("sqlite:///queue.db?timeot=5")[1].enqueue(42)


@case
def an_adapter_without_its_package(monkeypatch):
    from importlib.metadata import EntryPoint

    entry = EntryPoint("cloudish", "no_such_package:open_driver", "cloudq.adapters")
    monkeypatch.setattr("cloudq.opening.entry_points", lambda group: [entry])
    shop("cloudish://place")[1].enqueue(42)


@case
def a_lease_that_the_provider_cannot_keep():
    plan(shop("memory://errors?as=pubsub", default={"lease": "20m"})[0])


@case
def order_and_delay_where_they_do_not_go_together():
    shop("memory://errors?as=sqs", default={"ordered": True})[1].options(ordering_key="k", delay="5m").enqueue(42)


@case
def dedup_where_there_is_none():
    shop("memory://errors?as=pubsub", default={"dedup": "5m"})[1].enqueue(42)


@case
def a_task_without_an_end_where_leases_end():
    app, _ = shop("memory://errors?as=sqs")
    app.task(name="forever", timeout=None)(lambda: None)
    plan(app)


# Files and brokers ----------------------------------------------------------------------------------------------------------


@case
def a_directory_that_is_not_there():
    shop("sqlite:////no/such/place/queue.db")[1].enqueue(42)


@case
def a_file_where_a_directory_should_be():
    Path("data").touch()
    shop(f"sqlite:///{Path('data').absolute()}/queue.db")[1].enqueue(42)


@case
def a_disk_that_cannot_be_written():
    shop("sqlite:////proc/queue.db")[1].enqueue(42)  # read-only even for root


@case
def a_file_that_is_no_database():
    Path("queue.db").write_bytes(b"this is no database, but it is long enough to be read as one" * 20)
    shop(f"sqlite:///{Path('queue.db').absolute()}")[1].enqueue(42)


@case
def nobody_confirms(monkeypatch):
    from cloudq_local.memory import MemoryDriver

    async def never(self, queue, batch):
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(MemoryDriver, "send", never)
    monkeypatch.setattr("cloudq.sending.DEADLINE", 0.2)
    monkeypatch.setattr("cloudq.sending.Sender.send.__defaults__", (0.2,))
    shop("memory://silent")[1].options(task_id="order-17").enqueue(42)


@case
def the_provider_is_down(monkeypatch):
    from cloudq.errors import Unavailable
    from cloudq_local.memory import MemoryDriver

    async def down(self, queue, batch):
        raise Unavailable("connection refused: 127.0.0.1:4566")

    monkeypatch.setattr(MemoryDriver, "send", down)
    monkeypatch.setattr("cloudq.sending.Sender.send.__defaults__", (0.2,))
    shop("memory://down")[1].enqueue(42)


@case
def a_blocking_enqueue_on_the_portal():
    app, render = shop("memory://portal")

    async def wrong():
        render.enqueue(42)

    app._portal.run(wrong)


@case
def an_assertion_of_the_test_kit():
    app, render = shop()
    with sandbox(app) as box:
        render.enqueue(42)
        box.assert_enqueued(render, 43)


# The command line ------------------------------------------------------------------------------------------------------------


@case
def a_command_that_is_misspelt():
    return cli("wroker", "shop:app")


@case
def a_file_instead_of_a_module():
    return cli("worker", "shop.py:app")


@case
def a_module_that_is_not_there():
    return cli("worker", "shpo:app")


@case
def an_attribute_that_is_not_there():
    return cli("worker", "shop:ap")


@case
def a_module_that_fails(tmp_path):
    Path("broken_shop.py").write_text("import no_such_thing_at_all\n")
    try:
        return cli("worker", "broken_shop:app")
    finally:
        sys.modules.pop("broken_shop", None)


@case
def a_worker_on_an_unknown_queue():
    return cli("worker", "shop:app", "--queue", "defualt")


@case
def an_enqueue_into_memory(monkeypatch):
    monkeypatch.setenv("CLOUDQ_URL", "memory://")
    return cli("enqueue", "shop:app", "shop.render", "42")


@case
def an_unknown_task_on_the_command_line():
    return cli("enqueue", "shop:app", "shop.rendr", "42")


@case
def a_wrong_argument_on_the_command_line():
    return cli("enqueue", "shop:app", "shop.render", "forty")


@case
def an_unknown_target():
    return cli("check", "shop:app", "--target", "azure")


@case
def a_dead_letter_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CLOUDQ_URL", "memory://nothing")
    return cli("dlq", "show", "shop:app", "1234")


def said(name, monkeypatch, tmp_path):
    function = CASES[name]
    wants = function.__code__.co_varnames[: function.__code__.co_argcount]
    arguments = {"monkeypatch": monkeypatch, "tmp_path": tmp_path}
    try:
        text = function(**{key: arguments[key] for key in wants})
    except (CloudQError, TypeError, RuntimeError, AssertionError) as error:
        text = f"{type(error).__name__}: {error}"
    assert text, f"{name}: nothing was refused"
    text = text.replace(str(tmp_path), "<here>").replace(os.path.realpath(tmp_path), "<here>")
    text = re.sub(r"tests\.unit\.test_errors_teach\.[a-z_.]*?(?=\w+\()", "", text)
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    return re.sub(r"/[\w/.\-]*/(site-packages|cloudq)/", ".../", text)


def read_golden():
    parts = re.split(r"^== (\w+)\n", GOLDEN.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.rstrip("\n") for part in parts[2::2]), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_message_is_the_written_one(name, monkeypatch, tmp_path):
    monkeypatch.setenv("CODESPACES", "1")  # a developer's container: the local default is allowed
    text = said(name, monkeypatch, tmp_path)
    if WRITE:
        golden = {**(read_golden() if GOLDEN.exists() else {}), name: text}
        GOLDEN.write_text("\n".join(f"== {key}\n{golden[key]}\n" for key in CASES if key in golden))
    assert text == read_golden()[name]


def test_every_written_message_has_its_case():
    assert set(read_golden()) == set(CASES)
    assert len(CASES) >= 30


async def test_a_worker_may_be_made_where_nothing_is_wrong():
    app, _ = shop("memory://fine")
    async with working(app, plan(app, burst=True)):
        pass
    assert app.address("default", Part.MAIN)
