"""An application that does nothing, and says nothing of it."""

from __future__ import annotations

from cloudq import CloudQ

app = CloudQ()


@app.task(name="nothing")
def nothing() -> None: ...


@app.task(name="nothing_async")
async def nothing_async() -> None: ...
