"""Every report is there, whole; its user was told; and no more than two were rendered at a time."""

from ask_reports import USERS
from reports import DONE

reports = {path.stem: path.read_text() for path in DONE.glob("*.txt")}
assert sorted(reports) == [f"{user}-2026-10" for user in USERS], sorted(reports)
for user in USERS:
    total = sum(len(user) * day % 97 for day in range(1, 29))
    assert f"total {total}\n" in reports[f"{user}-2026-10"]

told = sorted(path.read_text() for path in DONE.glob("*.told"))
assert told == [f"{user}-2026-10.txt is ready\n" for user in USERS], told

spans = [text.split("rendered ")[1].split() for text in reports.values()]
for began, _ in spans:
    at_once = sum(float(other) <= float(began) < float(ended) for other, ended in spans)
    assert at_once <= 2, at_once
print(f"{len(reports)} reports, {len(told)} users told, two at a time")
