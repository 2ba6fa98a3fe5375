"""What the worker runs: a welcome for whoever signed up."""

from pathlib import Path

from cloudq import CloudQ

app = CloudQ()
OUTBOX = Path("outbox")


@app.task(timeout="1m")
def welcome(email: str, name: str) -> None:
    """Mail would be sent here. A second run writes the same file."""
    OUTBOX.mkdir(exist_ok=True)
    (OUTBOX / f"{email}.txt").write_text(f"To: {email}\n\nWelcome, {name}!\n")
