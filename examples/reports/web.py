"""A web server that answers at once: POST /reports?user=ann&month=2026-10 enqueues, and returns the id of the task."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from reports import render

from cloudq import EnqueueError


class Reports(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        try:
            receipt = render.enqueue(asked["user"][0], asked["month"][0])
        except KeyError as error:
            self._answer(400, {"error": f"{error} is missing"})
        except EnqueueError as error:
            # Not queued, or not known to be: the user is told to try again, and nothing is lost in silence.
            self._answer(503, {"error": str(error)})
        else:
            self._answer(202, {"task": receipt.task_id})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8765), Reports).serve_forever()
