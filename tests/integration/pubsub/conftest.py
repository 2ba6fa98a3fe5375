from __future__ import annotations

import pytest

from support.pubsub import emulated


@pytest.fixture
def pubsub():
    with emulated() as made:
        yield made
