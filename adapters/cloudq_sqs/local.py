"""`sqs://local`: the emulator as a process of its own, shared by all that say so on this machine, started by the first."""

from __future__ import annotations

import http.client
import json
import logging
import subprocess
import sys
import time

from cloudq.errors import ConfigError

_HOST = "127.0.0.1"
#: A server that nobody asked for by hand ends by itself: so many seconds after its last request.
LINGER = 600
_START = 15.0

_log = logging.getLogger("cloudq.sqs")


def endpoint(port: int) -> str:
    """Return where the emulator listens, and start it where it does not. ConfigError when the port is somebody else's."""
    if not _answers(port):
        # In a session of its own: Ctrl-C in a terminal ends the worker there, not the queue that others use.
        command = [sys.executable, "-m", "cloudq_sqs.emulator", "--port", str(port), "--linger", str(LINGER)]
        process = subprocess.Popen(  # noqa: S603  our own module
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        _wait_for(port, process)
    return f"http://{_HOST}:{port}"


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START  # noqa: TID251  a real process starts in real time
    while time.monotonic() < deadline:  # noqa: TID251  as above
        if _answers(port):
            if process.poll() is None:  # else another process was quicker, and that one says so
                _log.warning(
                    "started the SQS emulator on %s:%d, pid %d: in memory, and gone %d min after its last request",
                    _HOST, port, process.pid, LINGER // 60,
                )  # fmt: skip
            return
        time.sleep(0.02)
    raise ConfigError(
        f"sqs://local: the emulator did not answer on {_HOST}:{port} within {_START:g} s. `cloudq emulate sqs --port {port}` "
        f"shows why."
    )


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/_emulator/")
        told = json.loads(connection.getresponse().read())
    except OSError:
        return False
    except (http.client.HTTPException, ValueError) as error:
        raise ConfigError(
            f"sqs://local: port {port} belongs to something else. Choose another: sqs://local?port=9325"
        ) from error
    finally:
        connection.close()
    if not isinstance(told, dict) or "emulator" not in str(told.get("what")):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  JSON
        raise ConfigError(f"sqs://local: port {port} belongs to something else. Choose another: sqs://local?port=9325")
    return True
