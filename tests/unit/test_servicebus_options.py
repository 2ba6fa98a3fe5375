"""What a servicebus:// URL and its connection string may say."""

from __future__ import annotations

import pytest

from cloudq.errors import ConfigError
from cloudq_servicebus.options import VARIABLE, read

WHOLE = "Endpoint=sb://bus.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=k"


def test_a_namespace_is_a_host_name():
    assert read("my-namespace", {}).namespace == "my-namespace.servicebus.windows.net"
    assert read("bus.servicebus.usgovcloudapi.net", {}).namespace == "bus.servicebus.usgovcloudapi.net"


@pytest.mark.parametrize(
    ("told", "admin"),
    [
        (WHOLE, ""),
        ("Endpoint=sb://127.0.0.1:5672;SharedAccessKey=k;UseDevelopmentEmulator=true;", "127.0.0.1:5300"),
        ("Endpoint=sb://127.0.0.1:5872;SharedAccessKey=k;UseDevelopmentEmulator=true;", "127.0.0.1:5500"),
        ("Endpoint=sb://localhost;SharedAccessKey=k;UseDevelopmentEmulator=true;", "localhost:5300"),
    ],
)
def test_a_connection_string_comes_from_the_environment(monkeypatch, told, admin):
    monkeypatch.setenv(VARIABLE, told)
    options = read("", {})
    assert (options.connection_string, options.admin) == (told, admin)


@pytest.mark.parametrize(
    ("told", "says"),
    [("nonsense", "no connection string"), (f"{WHOLE};EntityPath=q", "EntityPath"), ("Endpoint=sb://x", "SharedAccessKey")],
)
def test_a_connection_string_that_cannot_be_used_is_told(monkeypatch, told, says):
    monkeypatch.setenv(VARIABLE, told)
    with pytest.raises(ConfigError, match=says):
        read("", {})


@pytest.mark.parametrize(
    ("place", "query", "says"),
    [
        ("local", {"endpoint": "127.0.0.1:5672"}, "Here use port="),
        ("local", {"port": "100"}, "from 373"),
        ("my-namespace", {"port": "5672"}, "servicebus://local alone"),
        ("my-namespace", {"receivers": "0"}, "from 1 to 100"),
        ("", {"admin": "127.0.0.1:5300"}, "endpoint="),
        ("", {"endpoint": "127.0.0.1"}, "host:port"),
        ("my-namespace", {"prefix": "x" * 21}, "20 characters"),
        ("a", {}, "6 to 50 letters"),
    ],
)
def test_what_cannot_be_is_told(place, query, says):
    with pytest.raises(ConfigError, match=says):
        read(place, query)


def test_an_emulator_elsewhere_has_its_administration_below():
    assert read("", {"endpoint": "10.0.0.1:5872"}).admin == "10.0.0.1:5500"
