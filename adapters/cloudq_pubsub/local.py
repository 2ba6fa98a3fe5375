"""`pubsub://local`: where the emulator is, and whether it is one."""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
import json
import socket
from collections.abc import Callable
from typing import Any

import grpc

from cloudq.emulation import LocalEmulator


def _answers(port: int) -> int:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return 0
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            ask: Callable[..., bytes] = channel.unary_unary("/cloudq.emulator.Tools/state")
            told: dict[str, Any] = json.loads(ask(b"", timeout=2.0))
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() in (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNAVAILABLE,
            ):
                return 0  # not yet
            raise LOCAL.taken(port) from error
    return int(told["pid"])


LOCAL = LocalEmulator("pubsub", "cloudq_pubsub.emulator", _answers)
