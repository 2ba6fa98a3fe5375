"""A CSV of fifty thousand people, three of whom are not well written."""

from pathlib import Path

ROWS, BAD = 50_000, {17: "17,no amount", 4711: "x,no number,1", 31415: "31415,too,many,things"}

if __name__ == "__main__":
    rows = [BAD.get(number, f'{number},"Person, {number}",{number % 100}') for number in range(ROWS)]
    Path("people.csv").write_text("\n".join(["id,name,amount", *rows, ""]))
