"""Every snippet of every page is run, in the order in which it stands, in a directory of its own.

A block of python with `file=` becomes that file. A block of sh is run line by line; a line that ends in `# exit 3` must end so.
`cloudq worker` gets a `--burst`, or it would never end. A block of text after it is what it printed, in order: `...` stands for
anything, alone for any lines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import environment

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.processes


def shell(command, folder):
    expected = int(found[1]) if (found := re.search(r"# exit (\d)\s*$", command)) else 0
    if re.search(r"\bcloudq worker\b", command) and "--burst" not in command:
        command = command.partition("#")[0] + " --burst"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(  # noqa: S602  the page shows shell commands
        command, shell=True, cwd=folder, env=environment(PATH=path, CODESPACES=1, COLUMNS=200),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == expected, f"$ {command}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def shows(output, text):
    pattern = ""
    for line in text.splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"\s*".join(".*".join(re.escape(part) for part in line.split("...")).split(r"\ ")) + r".*\n(?:.*\n)*?"
    return re.search(pattern, output)


@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_of_the_page_run(page, tmp_path):
    output, ran = "", 0
    for language, name, body in FENCE.findall((ROOT / page).read_text()):
        if name:
            (tmp_path / name).write_text(body)
        elif language == "python":
            (tmp_path / "snippet.py").write_text(body)
            shell(f"{sys.executable} snippet.py", tmp_path)
            ran += 1
        elif language == "sh":
            output = ""
            for command in body.splitlines():
                output += shell(command, tmp_path)
                ran += 1
        elif language == "text" and output:
            assert shows(output, body), f"{page} shows\n{body}\nand it printed\n{output}"
            output = ""
    for written in tmp_path.glob("*.py"):
        compile(written.read_text(), written, "exec")
    if page.startswith(("docs/howto", "docs/quickstart", "README")):
        assert ran, f"{page} runs nothing"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (folder / target).exists(), f"{page}: {target}"


def test_every_python_block_of_a_page_is_a_file_or_runs():
    for page in PAGES:
        for language, _, body in FENCE.findall((ROOT / page).read_text()):
            assert language, f"{page} has a block without a language:\n{body}"
