from __future__ import annotations

import pytest

from support.sqs import emulated


@pytest.fixture
def sqs(monkeypatch):
    """An emulator, and credentials for whoever takes them from the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with emulated() as made:
        yield made
