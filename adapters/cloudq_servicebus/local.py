"""`servicebus://local`: where the emulator is, and whether it is one."""

from __future__ import annotations

import http.client
import json
from importlib.util import find_spec
from typing import Any, cast

from cloudq.emulation import LocalEmulator
from cloudq.errors import MissingAdapter
from cloudq_servicebus.options import admin_port


def _answers(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", admin_port(port), timeout=2.0)
    try:
        connection.request("GET", "/$emulator")
        told: object = json.loads(connection.getresponse().read())
    except OSError:
        if find_spec("proton") is None:
            raise MissingAdapter(
                "servicebus://local needs python-qpid-proton, which is built with a C compiler: "
                "pip install 'cloudq-tasks[emulators]'"
            ) from None
        return 0
    except (http.client.HTTPException, ValueError) as error:
        raise LOCAL.taken(port) from error
    finally:
        connection.close()
    if not isinstance(told, dict) or "pid" not in told:
        raise LOCAL.taken(port)
    return int(cast("dict[str, Any]", told)["pid"])


LOCAL = LocalEmulator("servicebus", "cloudq_servicebus.emulator", _answers)
