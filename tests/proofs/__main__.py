"""`python -m proofs`: run parts of the proof and record them in docs/proof.

python -m proofs                        every part, in full, going on where it was cut off
python -m proofs storm power            these
python -m proofs --sample               as `make test` runs them, without a record
python -m proofs --url sqs://local storm
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import Any

from proofs.part import RECORDS, SQLITE, prove
from proofs.parts import PARTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="proofs", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--sample", action="store_true", help="small, and not recorded")
    parser.add_argument("--url", default=SQLITE, help="the provider; a fresh SQLite file for each piece by default")
    wanted = parser.parse_args()
    for name in wanted.parts:
        if name not in PARTS:
            parser.error(f"no part is called {name!r}; there are {', '.join(PARTS)}")
    good = True
    for name in wanted.parts or PARTS:
        keep = partial(_write, name, wanted.url) if not wanted.sample else lambda _record: None
        record = prove(PARTS[name], full=not wanted.sample, url=wanted.url, say=partial(print, flush=True), keep=keep)
        print(json.dumps({key: record[key] for key in ("part", "holds", "broken", "verdict", "figures")}, indent=1))
        good = good and record["holds"]
    return 0 if good else 1


def _write(name: str, url: str, record: dict[str, Any]) -> None:
    provider = "" if url == SQLITE else f"-{url.split(':', maxsplit=1)[0]}"
    (RECORDS / f"{name}{provider}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
