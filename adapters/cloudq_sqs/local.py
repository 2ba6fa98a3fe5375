"""`sqs://local`: where the emulator is, and whether it is one."""

from __future__ import annotations

import http.client
import json
from typing import Any, cast

from cloudq.emulation import LocalEmulator


def _answers(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/_emulator/")
        told = json.loads(connection.getresponse().read())
    except OSError:
        return 0
    except (http.client.HTTPException, ValueError) as error:
        raise LOCAL.taken(port) from error
    finally:
        connection.close()
    if not isinstance(told, dict) or "emulator" not in str(told.get("what")):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  JSON
        raise LOCAL.taken(port)
    return int(cast("dict[str, Any]", told)["pid"])


LOCAL = LocalEmulator("sqs", "cloudq_sqs.emulator", _answers)
