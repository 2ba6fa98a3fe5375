"""Enqueue one task after the other into a SQLite file, and write down what each enqueue said: `python -m support.inserts`.

python -m support.inserts DIRECTORY COUNT [LARGEST_FILE_IN_BYTES]
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from cloudq import CloudQ
from cloudq.errors import EnqueueError, EnqueueUnknown


def main(directory: Path, count: int, largest: int | None) -> None:
    app = CloudQ(f"sqlite:///{directory}/queue.db")

    @app.task
    def work(number: int, filling: str) -> None: ...

    said = os.open(directory / "said", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in range(count):
        if largest is not None and number == 50:  # not before there is something to lose
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        message = work.message(number, "x" * (number % 700))
        what = "acked"
        try:
            app.enqueue(message)
        except EnqueueUnknown:
            what = "unknown"
        except EnqueueError:
            what = "rejected"
        os.write(said, f"{what} {message.task_id}\n".encode())
    os._exit(0)  # as cut off: no closing, no checkpoint


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
