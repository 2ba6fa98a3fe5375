"""What README and examples show is what runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec

from cloudq.config import AlarmSettings, QueueSettings, ScaleSettings, ServerlessSettings, Settings, WorkerSettings, load
from cloudq.envelope import Envelope
from support.processes import environment

ROOT = Path(__file__).parents[2]


def snippets(language):
    return re.findall(rf"```{language}(?: file=\S+)?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_program_in_the_readme_is_the_example(tmp_path):
    program, _ = snippets("python")
    example = (ROOT / "examples/hello/hello.py").read_text()
    assert program.strip() == example[example.index("from cloudq") :].strip()
    (tmp_path / "hello.py").write_text(program)

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True, timeout=60
        ).stdout

    assert run("hello.py").count("Receipt(") == 3
    assert run("-m", "cloudq", "worker", "hello:app", "--burst") == "Good day, world! (attempt 1)\n"
    assert "nobody to greet" in run("-m", "cloudq", "dlq", "ls", "hello:app")
    assert '"delayed": 1' in run("-m", "cloudq", "queues", "hello:app", "--json")


def test_the_settings_in_the_readme_are_settings(tmp_path):
    (text,) = snippets("toml")
    (tmp_path / "cloudq.toml").write_text(text)
    settings = load(environ={}, directory=tmp_path)
    assert settings.queue("audit").ordered
    assert settings.queue("mail").priorities == ("high", "normal")


def test_every_setting_is_explained():
    text = (ROOT / "docs/settings.md").read_text()
    tables = ("queues", "worker", "alarm", "scale", "serverless")
    for struct in (Settings, QueueSettings, AlarmSettings, ScaleSettings, ServerlessSettings, WorkerSettings):
        for field in msgspec.structs.fields(struct):
            assert field.name in tables or f"| `{field.name}` |" in text, field.name


def test_every_field_of_the_envelope_is_explained():
    text = (ROOT / "docs/envelope.md").read_text()
    for name in Envelope.__struct_fields__:
        assert f"| `{name}` |" in text, name


def test_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
