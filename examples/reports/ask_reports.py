"""Six users ask for their reports, over HTTP."""

import json
import time
import urllib.error
import urllib.request

USERS = ["ann", "bob", "cid", "dot", "eve", "fay"]


def ask(user: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:8765/reports?user={user}&month=2026-10", method="POST")
    for _ in range(100):
        try:
            with urllib.request.urlopen(request) as answer:
                return str(json.load(answer)["task"])
        except urllib.error.URLError:
            time.sleep(0.1)  # the server starts
    raise SystemExit("no web server at 127.0.0.1:8765")


if __name__ == "__main__":
    for user in USERS:
        print(user, "asked:", ask(user))
