"""`pubsub://local`: where the emulator is, and whether it is one."""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
import socket
from collections.abc import Callable

import grpc

from cloudq.emulation import LocalEmulator


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return False
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            ask: Callable[..., bytes] = channel.unary_unary("/cloudq.emulator.Tools/state")
            ask(b"", timeout=2.0)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() in (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNAVAILABLE,
            ):
                return False  # not yet
            raise LOCAL.taken(port) from error
    return True


LOCAL = LocalEmulator("pubsub", "cloudq_pubsub.emulator", _answers)
