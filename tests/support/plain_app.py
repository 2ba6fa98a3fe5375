"""An application that does nothing, and says nothing of it."""

from __future__ import annotations

from cloudq import CloudQ

app = CloudQ()


@app.task(name="nothing")
def nothing() -> None: ...
