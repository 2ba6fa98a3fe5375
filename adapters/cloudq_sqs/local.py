"""`sqs://local`: where the emulator is, and whether it is one."""

from __future__ import annotations

import http.client
import json

from cloudq.emulation import LocalEmulator


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/_emulator/")
        told = json.loads(connection.getresponse().read())
    except OSError:
        return False
    except (http.client.HTTPException, ValueError) as error:
        raise LOCAL.taken(port) from error
    finally:
        connection.close()
    if not isinstance(told, dict) or "emulator" not in str(told.get("what")):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  JSON
        raise LOCAL.taken(port)
    return True


LOCAL = LocalEmulator("sqs", "cloudq_sqs.emulator", _answers)
