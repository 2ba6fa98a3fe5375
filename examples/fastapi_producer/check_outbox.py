"""Everybody was welcomed."""

from sign_up_all import NAMES
from signup import OUTBOX

mails = {path.stem: path.read_text() for path in OUTBOX.glob("*.txt")}
assert sorted(mails) == sorted(f"{name}@example.com" for name in NAMES), sorted(mails)
assert all(f"Welcome, {name.title()}!" in mails[f"{name}@example.com"] for name in NAMES)
print(len(mails), "mails")
