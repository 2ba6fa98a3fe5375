"""The fault proxy, before a server that counts what reaches it."""

from __future__ import annotations

import http.client
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.processes import until
from support.proxy import FaultProxy


@pytest.fixture
def server():
    """Counts the requests that arrive."""

    class Counting(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        arrived = 0

        def do_GET(self):
            type(self).arrived += 1
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    serving.daemon_threads = True
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield Counting, serving.server_address[1]
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def proxy(server):
    with FaultProxy(server[1], random.Random(1)) as proxy:
        yield proxy


def ask(proxy, timeout=5.0):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=timeout)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_without_faults_it_is_not_there(server, proxy):
    assert [ask(proxy) for _ in range(5)] == [b"ok"] * 5
    assert server[0].arrived == 5
    assert not proxy.faults.hits


def test_a_reset_request_never_arrives(server, proxy):
    proxy.faults.reset = 1.0
    with pytest.raises(ConnectionError):
        ask(proxy)
    assert server[0].arrived == 0
    assert proxy.faults.hits["reset"] == 1


def test_a_lost_response_did_arrive(server, proxy):
    proxy.faults.lost_response = 1.0
    with pytest.raises(ConnectionError):
        ask(proxy)
    assert server[0].arrived == 1
    assert proxy.faults.hits["lost response"] == 1


def test_a_blackout_answers_nothing_and_then_goes_on(server, proxy):
    proxy.faults.blackout = True
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(proxy, timeout=30)))
    asking.start()
    until(lambda: proxy.faults.hits["blackout"] > 3, "nothing was held back")
    assert (server[0].arrived, answers) == (0, [])
    proxy.faults.blackout = False
    asking.join(10)
    assert answers == [b"ok"]


def test_who_is_refused_is_told_at_once(server, proxy):
    proxy.faults.refuse = True
    with pytest.raises(ConnectionError):
        ask(proxy)
    proxy.faults.refuse = False
    assert ask(proxy) == b"ok"
    assert server[0].arrived == 1


def test_a_slow_line_is_slow_and_loses_nothing(server, proxy):
    proxy.faults.slow = (0.01, 0.02)
    assert ask(proxy) == b"ok"
    assert proxy.faults.hits["slow"] >= 2
