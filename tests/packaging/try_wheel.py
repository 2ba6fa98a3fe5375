"""Build the sdist, the wheel from the sdist, and use the wheel in a fresh environment, far from the source.

python tests/packaging/try_wheel.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("cloudq", "cloudq_local", "cloudq_sqs", "cloudq_pubsub", "cloudq_servicebus")

PROGRAM = """
from cloudq import CloudQ
app = CloudQ("sqlite:///queue.db")

@app.task
def greet(name: str) -> None:
    print(f"hello, {name}")

if __name__ == "__main__":
    greet.enqueue("wheel")
"""


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _complete(env, package, cwd):
    """Fail where a public symbol's type is not known: pyright finds an installed package only through the environment."""
    variables = {**os.environ, "VIRTUAL_ENV": str(env), "PATH": f"{env}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", package, "--ignoreexternal"],
        cwd=cwd, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Type completeness score: 100%" not in done.stdout:
        sys.exit(f"pyright --verifytypes {package}\n{done.stdout}{done.stderr}")


def _newcomer(work):
    """Run a newcomer's program, with nothing but the wheel and the pytest of his own tests."""
    run(work / "env/bin/python", "-m", "pip", "install", "--quiet", f"pytest=={version('pytest')}", cwd=work)
    place = work / "newcomer"
    shutil.copytree(ROOT / "tests/newcomer", place)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOUDQ_", "PYTHON"))}
    done = subprocess.run(
        ["sh", "run.sh"], cwd=place, env={**kept, "PATH": f"{work}/env/bin:{kept['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"tests/newcomer/run.sh\n{done.stdout}{done.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", work / "sdist", cwd=ROOT)
        (sdist,) = (work / "sdist").glob("*.tar.gz")
        run("tar", "xzf", sdist, "-C", work, cwd=work)
        source = work / sdist.name.removesuffix(".tar.gz")
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", work / "wheel", cwd=source)
        (wheel,) = (work / "wheel").glob("*.whl")
        venv.create(work / "env", with_pip=True)
        python = work / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", ROOT / "requirements/core.txt", cwd=work)
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=work)
        there = work / "there"
        there.mkdir()
        (there / "hello.py").write_text(PROGRAM)
        where = run(python, "-c", "import cloudq, cloudq_local; print(cloudq.__file__, cloudq_local.__file__)", cwd=there)
        assert str(ROOT) not in where, where
        run(python, "hello.py", cwd=there)
        out = run(work / "env/bin/cloudq", "worker", "hello:app", "--burst", cwd=there)
        assert out == "hello, wheel\n", out
        _newcomer(work)
        # From here on with an SDK: without it, the types of the adapter that names its types are not known.
        named = [f"{name}=={version(name)}" for name in ("azure-servicebus", "azure-functions")]
        run(python, "-m", "pip", "install", "--quiet", *named, cwd=work)
        for package in PACKAGES:
            _complete(work / "env", package, there)
        print(f"{wheel.name}: built from the sdist and used alone; a newcomer's first hour; types complete")


if __name__ == "__main__":
    main()
