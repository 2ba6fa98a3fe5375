"""Twenty people sign up at once."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

NAMES = [f"person{number}" for number in range(20)]


def sign_up(name: str) -> str:
    body = json.dumps({"email": f"{name}@example.com", "name": name.title()}).encode()
    request = urllib.request.Request("http://127.0.0.1:8766/signups", body, {"Content-Type": "application/json"})
    for _ in range(100):
        try:
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 202
                return str(json.load(answer)["task"])
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{error.code}: {error.read().decode()}") from error
        except urllib.error.URLError:
            time.sleep(0.1)  # the server starts
    raise SystemExit("no server at 127.0.0.1:8766")


if __name__ == "__main__":
    with ThreadPoolExecutor(20) as pool:
        print(len(set(pool.map(sign_up, NAMES))), "people signed up")
