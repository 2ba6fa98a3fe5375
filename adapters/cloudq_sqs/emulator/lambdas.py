"""AWS Lambda in front of a queue of the emulator: an event source mapping and the Runtime API, for a real runtime client.

`EventSource` receives, `Runtime` hands each batch to a process of the function, and what it answers is carried out. So a
handler can be tried with the vendor's own client (`pip install awslambdaric`) and without Docker:

    with Runtime("function.handler", cwd="src") as runtime, EventSource(sqs, queue_url, runtime, batch=10):
        ...

Sources: Lambda guide, "Runtime API", "Using Lambda with Amazon SQS" and "Handling errors for an SQS event source". A call that
is over its timeout ends the process, and another is started; nothing of its batch is deleted then, as when the function raises.

Not imitated: scaling (each source calls one at a time), the pollers' slowing down after errors, filters, memory limits, and
that a process stands still between two calls.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

_API = "/2018-06-01/runtime"
#: How long a receive waits, in seconds: an end has to wait as long.
_POLL = 1
#: What a batch is made of at most: a call carries 6 MB (Lambda guide, quotas).
_PAYLOAD = 6_000_000


@dataclass(eq=False)
class Call:
    """One call of the function, and what came of it."""

    event: Mapping[str, Any]
    deadline: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    answered: threading.Event = field(default_factory=threading.Event)
    answer: Any = None
    #: What the function raised, or how its process ended.
    error: Any = None


class Runtime:
    """One process of a function, behind the Runtime API. A call at a time."""

    def __init__(
        self,
        handler: str,
        *,
        cwd: str | Path,
        timeout: float = 10.0,
        environ: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "awslambdaric"),
    ) -> None:
        """`handler` is `module.function`, importable from `cwd`; `timeout`, of a call, in seconds."""
        self.timeout: float = timeout
        self._command = [*command, handler]
        self._cwd = Path(cwd)
        self._environ = {**(os.environ if environ is None else environ), "_HANDLER": handler, "LAMBDA_TASK_ROOT": str(cwd)}
        self._next: SimpleQueue[Call | None] = SimpleQueue()
        self._calls: dict[str, Call] = {}
        self._alone = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        #: How often a process was started.
        self.starts: int = 0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process of the function, None where there is none."""
        return None if self._process is None else self._process.pid

    def invoke(self, event: Mapping[str, Any]) -> Call:
        """Call the function and return how that ended."""
        with self._alone:
            self._running()
            call = Call(event, time.time() + self.timeout)  # noqa: TID251  what the runtime client is told, of the real clock
            self._calls[call.id] = call
            self._next.put(call)
            if not self._answered(call):
                call.error = call.error or {"errorType": "Sandbox.Timedout", "errorMessage": f"over {self.timeout:g} s"}
                self._kill()
            del self._calls[call.id]
            return call

    def close(self) -> None:
        """End the process and the server."""
        self._kill()
        self._server.shutdown()
        self._server.server_close()

    def _answered(self, call: Call) -> bool:
        while not call.answered.wait(0.05):
            if time.time() >= call.deadline:  # noqa: TID251  as above
                return False
            if self._process is None or self._process.poll() is not None:
                call.error = {"errorType": "Runtime.ExitError", "errorMessage": "the process of the function ended"}
                return False
        return True

    def _running(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._kill()
        host, port = self._server.server_address[:2]
        self._process = subprocess.Popen(  # noqa: S603  what the caller says
            self._command, cwd=self._cwd, env={**self._environ, "AWS_LAMBDA_RUNTIME_API": f"{host!s}:{port}"}
        )
        self.starts += 1

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            # What waits for a call in its name is told that there is none; the next process has a line of its own.
            self._next.put(None)
            self._next = SimpleQueue()
            self._process = None

    def next_call(self) -> Call | None:
        """Return the next call, for the process. None: the one that asked is gone."""
        return self._next.get()

    def take(self, call_id: str, *, answer: Any = None, error: Any = None) -> None:
        """Take what the process says of a call."""
        call = self._calls.get(call_id)
        if call is not None:
            call.answer, call.error = answer, error
            call.answered.set()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a process that was killed in the middle of an answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(runtime: Runtime) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: else the kernel holds the second back until the first is acknowledged, for 40 ms.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            call = runtime.next_call()
            with contextlib.suppress(OSError):
                if call is None:
                    self._send(410, b"{}")
                    return
                told = {
                    "Lambda-Runtime-Aws-Request-Id": call.id,
                    "Lambda-Runtime-Deadline-Ms": str(int(call.deadline * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:000000000000:function:local",
                }
                self._send(200, json.dumps(call.event).encode(), told)

        def do_POST(self) -> None:
            said: Any = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"null")
            parts = self.path.removeprefix(_API).strip("/").split("/")
            if parts[0] == "invocation" and parts[2] == "response":
                runtime.take(parts[1], answer=said)
            elif parts[0] == "invocation":
                runtime.take(parts[1], error=said)
            else:
                sys.stderr.write(f"the function could not be loaded: {said}\n")
            self._send(202, b'{"status": "OK"}')

        def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {
                **(headers or {}),
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it
            """Say nothing."""

    return Api


class EventSource:
    """An event source mapping of one queue. `ReportBatchItemFailures` is what makes a list of failures count."""

    def __init__(
        self,
        sqs: Any,
        queue_url: str,
        runtime: Runtime,
        *,
        batch: int = 10,
        window: float = 0.0,
        reports_failures: bool = True,
    ) -> None:
        """`sqs` is a boto3 client; `window`, in seconds, is how long a batch above 10 may gather."""
        self._sqs = sqs
        self._url = queue_url
        self._runtime = runtime
        self._batch = batch
        self._window = window
        self._reports = reports_failures
        answer = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        self.arn: str = str(answer["Attributes"]["QueueArn"])
        #: How each call ended, with the ids that it was given.
        self.calls: list[tuple[list[str], Call]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def once(self) -> int:
        """Receive one batch and have it run. Returns how many messages it was."""
        messages = self._gather()
        if messages:
            call = self._runtime.invoke({"Records": [self._record(message) for message in messages]})
            self.calls.append(([message["MessageId"] for message in messages], call))
            self._delete([message for message in messages if message["MessageId"] not in self._failed(messages, call)])
        return len(messages)

    def _run(self) -> None:
        while not self._over.is_set():
            self.once()

    def _gather(self) -> list[dict[str, Any]]:
        gathered: list[dict[str, Any]] = []
        until = time.monotonic() + self._window  # noqa: TID251  the real clock
        while True:
            found = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(10, self._batch - len(gathered)),
                WaitTimeSeconds=0 if gathered else _POLL,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            ).get("Messages", [])
            gathered += found
            full = len(gathered) >= self._batch or sum(len(each["Body"]) for each in gathered) > _PAYLOAD
            if full or not gathered or (not found and time.monotonic() >= until):  # noqa: TID251  as above
                return gathered

    def _record(self, message: Mapping[str, Any]) -> dict[str, Any]:
        attributes: dict[str, dict[str, Any]] = {
            name: {
                "dataType": value["DataType"],
                "stringListValues": [],
                "binaryListValues": [],
                **({"stringValue": value["StringValue"]} if "StringValue" in value else {}),
                **({"binaryValue": base64.b64encode(value["BinaryValue"]).decode()} if "BinaryValue" in value else {}),
            }
            for name, value in message.get("MessageAttributes", {}).items()
        }
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message.get("Attributes", {}),
            "messageAttributes": attributes,
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
            "awsRegion": "us-east-1",
        }

    def _failed(self, messages: Sequence[Mapping[str, Any]], call: Call) -> set[str]:
        """Return the ids that are not deleted: all of them for an error, or for an answer that names an unknown one."""
        everything = {str(message["MessageId"]) for message in messages}
        if call.error is not None:
            return everything
        if not self._reports or not call.answer:
            return set()
        try:
            named = {str(each["itemIdentifier"]) for each in call.answer.get("batchItemFailures") or ()}
        except (AttributeError, KeyError, TypeError):
            return everything
        return everything if named - everything else named

    def _delete(self, messages: Sequence[Mapping[str, Any]]) -> None:
        for start in range(0, len(messages), 10):
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages[start : start + 10])
            ]
            self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
