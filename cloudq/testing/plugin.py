"""The pytest plugin: one fixture, found through its entry point. It imports nothing of cloudq before the fixture is used."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cloudq.testing.sandbox import Sandbox


@pytest.fixture
def cloudq_sandbox() -> Generator[Callable[..., Sandbox]]:
    """Put an application in a box until the test ends, with the options of `cloudq.testing.sandbox`."""
    from cloudq.testing.sandbox import sandbox

    with ExitStack() as stack:

        def enter(*args: Any, **kwargs: Any) -> Sandbox:
            return stack.enter_context(sandbox(*args, **kwargs))

        yield enter
