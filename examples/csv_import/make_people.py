"""A CSV of fifty thousand people, some of whom are not well written: too little, no number, too much, an open quote, twice."""

from pathlib import Path

ROWS = 50_000
BAD = {
    17: "17,no amount",
    4711: "x,no number,1",
    31415: "31415,too,many,things",
    40_000: '40000,"open quote,1',
    45_000: "44999,that number is taken,1",
    49_000: f"{10**30},too large,1",
}

if __name__ == "__main__":
    rows = [BAD.get(number, f'{number},"Person, {number}",{number % 100}') for number in range(ROWS)]
    Path("people.csv").write_text("\n".join(["id,name,amount", *rows, ""]))
