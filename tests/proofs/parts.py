"""Every part there is, by name, the quick ones first."""

from __future__ import annotations

from proofs.delays import DELAYED
from proofs.hostile import HOSTILE
from proofs.leases import LEASES
from proofs.mutation import MUTATION
from proofs.network import NETWORK
from proofs.order import ORDER
from proofs.outage import OUTAGE
from proofs.part import Part
from proofs.points import POINTS
from proofs.power import POWER
from proofs.simulation import SIMULATION
from proofs.soak import SOAK
from proofs.stopping import PAUSED, ROLLING, TERMINATE
from proofs.storm import STORM

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        STORM,
        POINTS,
        TERMINATE,
        ROLLING,
        PAUSED,
        LEASES,
        HOSTILE,
        POWER,
        ORDER,
        OUTAGE,
        NETWORK,
        DELAYED,
        SOAK,
        SIMULATION,
        MUTATION,
    )
}
