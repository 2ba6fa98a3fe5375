"""The attributes of a message, as far as they can be read without the SDK."""

from __future__ import annotations

from collections.abc import Mapping

#: docs, quotas, resource limits.
MOST_ATTRIBUTES = 100
#: Stands on a message that has neither a body nor attributes.
EMPTY = "cloudq-empty"


def from_attributes(found: Mapping[str, str]) -> dict[str, str]:
    """Return attributes as the core has them."""
    attributes = dict(found)
    attributes.pop(EMPTY, None)
    return attributes
