"""Why a mutant may live: by its name in docs/proof/mutation.json."""

from __future__ import annotations

REASONS: dict[str, str] = {}
