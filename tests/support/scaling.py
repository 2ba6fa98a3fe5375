"""The rule by which the manifests scale, as KEDA has it: of what each trigger asks for by its backlog, the most."""

from __future__ import annotations

import math


def wanted(work, waiting):
    """How many workers are asked for where so many messages are in each physical queue, by name."""
    asked = max((math.ceil(waiting.get(source.queue.physical, 0) / source.backlog) for source in work.sources), default=0)
    return min(work.maximum, max(work.minimum, asked))
