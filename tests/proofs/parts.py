"""Every part there is, by name, the quick ones first."""

from __future__ import annotations

from proofs.part import Part
from proofs.points import POINTS
from proofs.simulation import SIMULATION
from proofs.storm import STORM

PARTS: dict[str, Part] = {part.name: part for part in (STORM, POINTS, SIMULATION)}
