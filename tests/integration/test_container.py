"""The container of examples/container, without Docker: its recipe linted, its last stage imitated, its entry point run.

The root directory is made of the Debian packages that hold the image's Python, and of this project as a wheel would install
it. The entry point, which is process 1 of its namespace, the user and the variables are read from the recipe.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

import pytest

from cloudq.worker.health import LIVE, READY, ask
from conftest import missing
from support.processes import environment, until
from support.sqs import emulated

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/container"
#: Python 3.11 of Debian 12, with what its standard library and its interpreter are linked with.
PACKAGES = [
    *("python3.11-minimal", "libpython3.11-minimal", "python3.11", "libpython3.11-stdlib", "libc6", "libssl3", "zlib1g"),
    *(
        "libexpat1",
        "libffi8",
        "libsqlite3-0",
        "libbz2-1.0",
        "liblzma5",
        "libuuid1",
        "libtinfo6",
        "libncursesw6",
        "libreadline8",
    ),
]
#: What the wheel's dependencies are, with one SDK.
INSTALLED = ("msgspec", "click", "rich", "pygments", "markdown-it-py", "mdurl", "boto3", "botocore", "s3transfer", "jmespath",
             "urllib3", "python-dateutil", "six")  # fmt: skip


def recipe():
    """Return what the Dockerfile says, by instruction; only its last stage."""
    text = (EXAMPLE / "Dockerfile").read_text().replace("\\\n", "")
    last = text[text.rindex("\nFROM ") :]
    return {
        "entrypoint": json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", last, re.MULTILINE)[1]),
        "health": json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", last, re.MULTILINE)[1]),
        "user": re.search(r"^USER (\S+)$", last, re.MULTILINE)[1],
        "env": dict(re.findall(r"^ENV (\w+)=(\S+)$", last, re.MULTILINE)),
        "workdir": re.search(r"^WORKDIR (\S+)$", last, re.MULTILINE)[1],
    }


def test_the_recipe_is_linted():
    linter = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run([linter, str(EXAMPLE / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    # It finds what matters here: the shell form, in which the worker would never hear of a signal.
    shell_form = (EXAMPLE / "Dockerfile").read_text().partition("ENTRYPOINT")[0]
    found = subprocess.run([linter, "-"], input=shell_form + "ENTRYPOINT cloudq worker tasks:app\n",
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert "DL3025" in found.stdout


def test_the_recipe_runs_nobody_s_shell_as_nobody_s_root():
    said = recipe()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said["user"])
    assert "sh" not in said["entrypoint"]
    assert (EXAMPLE / "cloudq.toml").read_text().count('grace = "8s"') == 1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root directory as the last stage has it."""
    if os.geteuid() != 0 or sys.platform != "linux":
        missing("root", "a namespace of its own needs Linux and root", installable=False)
    probe = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        missing("namespaces", f"this machine makes none: {probe.stderr.strip()}", installable=False)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        missing("debian", "the root is made of Debian packages")
    where = tmp_path_factory.mktemp("container")
    debs, made = where / "debs", where / "root"
    debs.mkdir()
    got = subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=debs, capture_output=True, text=True, check=False)
    if got.returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        got = subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=debs, capture_output=True, text=True, check=False)
    if got.returncode:
        missing("debian", f"its packages cannot be had: {got.stderr[-300:]}")
    for deb in debs.iterdir():
        subprocess.run(["dpkg-deb", "-x", str(deb), str(made)], check=True)
    site = made / "venv/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    for name in ("cloudq", "adapters/cloudq_local", "adapters/cloudq_sqs"):
        shutil.copytree(ROOT / name, site / Path(name).name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*INSTALLED, "cloudq-tasks"):
        _install(distribution(name), site)
    (made / "venv/bin").mkdir()
    (made / "venv/bin/python").symlink_to("/usr/bin/python3.11")
    script = made / "venv/bin/cloudq"
    script.write_text("#!/venv/bin/python\nfrom cloudq.cli import main\n\nmain()\n")  # as an installer writes it
    script.chmod(0o755)
    (made / "venv/pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11\n")
    (made / "app").mkdir()
    for name in ("tasks.py", "cloudq.toml"):
        shutil.copy(EXAMPLE / name, made / "app")
    for name in ("data", "dev", "proc"):
        (made / name).mkdir(exist_ok=True)
    owner = re.search(r"^COPY .*--chown=(\d+):(\d+) /data /data$", (EXAMPLE / "Dockerfile").read_text(), re.MULTILINE)
    os.chown(made / "data", int(owner[1]), int(owner[2]))
    (made / "dev/null").touch()
    # No shell and no package manager, as in the image.
    assert not list(made.glob("bin/*sh"))
    assert not list(made.glob("usr/bin/*sh"))
    return made


def _install(dist, site):
    for file in dist.files or ():
        source = Path(dist.locate_file(file))
        if ".." in file.parts or "__pycache__" in file.parts or file.suffix == ".pth" or not source.is_file():
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


@contextmanager
def container(root, said, log, **variables):
    """Run the entry point as process 1; the namespace goes with it."""
    command = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc",
               shutil.which("chroot"), f"--userspec={said['user']}", str(root),
               "/venv/bin/python", "-c", f"import os, sys; os.chdir({said['workdir']!r}); os.execvp(sys.argv[1], sys.argv[1:])",
               *said["entrypoint"]]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**said["env"], **variables}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def first_process(outside):
    """The process that is number 1 inside, as it is seen from here."""
    found = subprocess.run(["pgrep", "-P", str(outside.pid)], capture_output=True, text=True, check=False).stdout.split()
    return int(found[0]) if found else None


def test_sigterm_in_the_middle_of_a_task_loses_nothing_and_exits_with_0(root, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    said, log, port = recipe(), tmp_path / "log", free_port()
    with emulated() as sqs:
        url = f"sqs://us-east-1?endpoint={sqs.endpoint}&account=000000000000"
        variables = {
            "CLOUDQ_WORKER__HEALTH_PORT": str(port),
            "CLOUDQ_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        for name in ("tasks.py", "cloudq.toml"):
            shutil.copy(EXAMPLE / name, tmp_path)

        def run(*arguments):
            done = subprocess.run(
                [sys.executable, "-m", "cloudq", *arguments], cwd=tmp_path, env=environment(**variables),
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            return done.stdout

        run("queues", "create", "tasks:app")
        many = "import tasks; tasks.app.enqueue_many(tasks.count.message(f'n{n}', 'to be', pause=1.5) for n in range(20))"
        subprocess.run([sys.executable, "-c", many], cwd=tmp_path, env=environment(**variables), check=True)

        def written():
            return sorted(path.stem for path in (root / "data").glob("*.txt"))

        with container(root, said, log, **variables) as outside:
            until(lambda: not ask(port, READY), "the worker is not ready")
            health = subprocess.run(
                [sys.executable, "-m", *said["health"], "--port", str(port)],
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert health.returncode == 0
            until(lambda: len(written()) >= 4, "nothing is done")
            before = written()  # in the middle: four run at a time, and others have begun
            os.kill(first_process(outside), signal.SIGTERM)
            until(lambda: ask(port, READY) == "it drains" or outside.poll() is not None, "it does not drain")
            assert outside.wait(10) == 0, log.read_text()  # `docker stop` waits no longer
        during = written()
        assert len(before) < len(during) <= len(before) + 4, "what ran when the signal came was finished, and no more begun"
        assert all("pid 1\n" in (root / f"data/{name}.txt").read_text() for name in during)
        # The rest is there, at once, and none of it was counted as done.
        sqs.advance(61)
        with container(root, said, log, **variables) as outside:
            until(lambda: len(written()) == 20, "something is lost", patience=60)
            os.kill(first_process(outside), signal.SIGTERM)
            assert outside.wait(10) == 0, log.read_text()  # `docker stop` waits no longer
        told = json.loads(run("queues", "tasks:app", "--json"))
        assert all((queue["ready"], queue["in_flight"]) == (0, 0) for queue in told), told
        assert ask(port, LIVE).startswith("no answer")
