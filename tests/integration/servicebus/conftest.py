from __future__ import annotations

import pytest

from support.servicebus import emulated, need_proton


@pytest.fixture
def bus():
    need_proton()
    with emulated() as made:
        yield made
