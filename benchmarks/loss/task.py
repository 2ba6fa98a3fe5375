"""What every contestant's task does: write down that it runs, fail as often as it is told to, write down that it succeeded."""

import os
import time
from pathlib import Path


def run(number: int, fails: int) -> None:
    folder = Path(os.environ["BENCH_FOLDER"])
    mine = os.open(folder / str(number), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(mine, f"s {os.getpid()} {time.time()}\n".encode())
    attempt = (folder / str(number)).read_text().count("s ")
    time.sleep(0.01)
    failed = attempt <= fails
    os.write(mine, f"{'f' if failed else 'e'} {os.getpid()} {time.time()}\n".encode())
    os.close(mine)
    if failed:
        raise RuntimeError(f"told to fail, {attempt} of {fails}")
