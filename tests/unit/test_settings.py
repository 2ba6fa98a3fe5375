from __future__ import annotations

from datetime import timedelta

import pytest

from cloudq import CloudQ, ConfigError
from cloudq.config import LOCAL_DEFAULT, Settings, default_url, load
from cloudq.durations import seconds, spoken
from cloudq.errors import NoProvider
from cloudq.naming import addresses, check_distinct
from cloudq.retry import Backoff


@pytest.mark.parametrize(
    ("written", "is_seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("500ms", 0.5), ("7d", 604800), (5, 5), ("2.5", 2.5),
     (timedelta(minutes=2), 120), (0, 0)],
)  # fmt: skip
def test_durations(written, is_seconds):
    assert seconds(written) == is_seconds


@pytest.mark.parametrize("written", ["", "soon", "5 parsecs", "-5s", -1, True, "s", "nan"])
def test_what_is_no_duration(written):
    with pytest.raises(ConfigError, match="lease"):
        seconds(written, "lease")


@pytest.mark.parametrize(("duration", "text"), [(90.0, "90s"), (7200.0, "2h"), (60.0, "60s"), (172800.0, "2d")])
def test_durations_are_said_in_the_largest_unit(duration, text):
    assert spoken(duration) == text


def test_constructor_over_environment_over_file_over_defaults(tmp_path):
    (tmp_path / "cloudq.toml").write_text('url = "sqlite:///file.db"\nnamespace = "file"\n[queues.mail]\nlease = "30s"\n')
    environ = {"CLOUDQ_NAMESPACE": "env", "CLOUDQ_QUEUES__MAIL__PRIORITIES": "high, normal", "CLOUDQ_WORKER__CONCURRENCY": "3"}
    settings = load({"namespace": "code"}, environ=environ, directory=tmp_path)
    assert settings.url == "sqlite:///file.db"
    assert settings.namespace == "code"
    assert settings.queue("mail").lease == "30s"
    assert settings.queue("mail").priorities == ("high", "normal")
    assert settings.worker.concurrency == 3
    assert load({}, environ={}, directory=tmp_path / "nowhere") == Settings()


def test_a_table_in_pyproject_is_read(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.cloudq]\nnamespace = "shop"\n')
    assert load(environ={}, directory=tmp_path).namespace == "shop"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('nmespace = "x"', "there is no setting nmespace. Did you mean 'namespace'?"),
        ('[queues.mail]\nlaese = "30s"', "there is no setting queues.mail.laese. Did you mean 'lease'?"),
        ("[worker]\nconcurency = 3", "there is no setting worker.concurency. Did you mean 'concurrency'?"),
        ('[queues.mail]\nlease = "soon"', "lease = 'soon' is not a duration"),
        ('[queues.mail]\nlease = "10ms"', "under one second"),
        ('[queues.mail]\npriorities = ["high"]', "must contain 'normal'"),
        ('[queues.mail]\npriorities = ["urgent"]', "priorities"),
        ("[worker]\nconcurrency = 0", "1 or more"),
        ("url = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_told_with_its_name(tmp_path, text, says):
    (tmp_path / "cloudq.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(environ={}, directory=tmp_path)
    assert says in str(raised.value)
    assert "cloudq.toml" in str(raised.value)


def test_a_wrong_variable_is_told():
    with pytest.raises(ConfigError, match=r"environment: there is no setting CLOUDQ_ULR. Did you mean 'CLOUDQ_URL'\?"):
        load(environ={"CLOUDQ_ULR": "x"})


@pytest.mark.parametrize(
    "variable", ["KUBERNETES_SERVICE_HOST", "AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "FUNCTIONS_WORKER_RUNTIME"]
)
def test_the_local_default_is_refused_where_it_would_vanish(variable):
    with pytest.raises(NoProvider, match="Set CLOUDQ_URL"):
        default_url({variable: "x"}, marks=())


def test_the_local_default_is_refused_in_a_container_but_a_developers(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    with pytest.raises(NoProvider, match="container"):
        default_url({}, marks=(str(mark),))
    assert default_url({"CODESPACES": "true"}, marks=(str(mark),)) == LOCAL_DEFAULT
    assert default_url({}, marks=()) == LOCAL_DEFAULT


def test_an_explicit_file_is_taken_everywhere(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "x")
    monkeypatch.setenv("CLOUDQ_URL", "sqlite:///kept.db")
    assert CloudQ().url_of("any") == "sqlite:///kept.db"


def test_a_queue_may_name_its_own_provider():
    app = CloudQ("memory://one", queues={"audit": {"url": "memory://two"}})
    assert (app.url_of("mail"), app.url_of("audit")) == ("memory://one", "memory://two")


def test_physical_names():
    settings = load({"queues": {"mail": {"priorities": ["high", "normal", "low"]}}}, environ={})
    names = [queue.physical for queue in addresses("shop", "mail", settings.queue("mail"))]
    assert names == ["shop-mail-high", "shop-mail", "shop-mail-low", "shop-mail-delay", "shop-mail-dlq"]


def test_two_queues_may_not_share_a_physical_one():
    settings = load(environ={})
    with pytest.raises(ConfigError, match="both use the physical queue 'shop-mail-dlq'"):
        check_distinct(queue for name in ("mail", "mail-dlq") for queue in addresses("shop", name, settings.queue(name)))


def test_a_backoff_grows_to_its_cap_and_half_of_it_is_drawn():
    backoff = Backoff(first=15, factor=3, cap=3600)
    assert [backoff.delay(attempt, 1.0) for attempt in (1, 2, 3, 9, 10_000)] == [15, 45, 135, 3600, 3600]
    assert backoff.delay(2, 0.0) == 22.5


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"factor": 0.5}, {"first": "1h", "cap": "1m"}, {"max_age": "x"}])
def test_what_makes_no_backoff(wrong):
    with pytest.raises(ConfigError):
        Backoff(**wrong)
