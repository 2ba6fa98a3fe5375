"""Every person is there once, the bad lines with their reasons, and the import knows that it is over."""

import sqlite3

from csv_import import DATABASE
from make_people import BAD, ROWS

with sqlite3.connect(DATABASE) as connection:
    count, total = connection.execute("SELECT count(*), sum(amount) FROM people").fetchone()
    refused = [line for (line,) in connection.execute("SELECT line FROM refused ORDER BY line")]
    imports = connection.execute("SELECT done, parts FROM imports").fetchall()
    name = connection.execute("SELECT name FROM people WHERE id = 49999").fetchone()
assert count == ROWS - len(BAD), count
assert total == sum(number % 100 for number in range(ROWS) if number not in BAD), total
assert refused == sorted(BAD.values()), refused
assert name == ("Person, 49999",), name
((done, parts),) = imports
assert done == 1
assert parts > 10
print(f"{count} people in {parts} parts; {len(refused)} lines refused")
