"""Every part there is, by name, the quick ones first."""

from __future__ import annotations

from proofs.part import Part
from proofs.simulation import SIMULATION

PARTS: dict[str, Part] = {part.name: part for part in (SIMULATION,)}
