"""The embedded providers: a SQLite file for real work on one machine, and memory for tests and simulation.

URLs
    `sqlite:///queue.db` is relative to the working directory, `sqlite:////var/lib/app/queue.db` absolute. `memory://` and
    `memory://name` live as long as the process; the same name is the same broker.

Delivery
    At least once. A send is confirmed when it is on disk (SQLite: WAL with synchronous=FULL, so also after a power cut).
    Messages come in the order in which they became due; in an ordered queue, in order within each group.

What is native and what composed
    Native: delay of any length, retry delay of any length, the move to the dead part (one transaction), order within a
    group, dedup within the queue's window, peek, and exact counts of deliveries and of leases that ran out. A message given
    back unrun is not counted. Composed by the core: expiry, priority (one physical queue each).

Escape hatch
    `unwrap(sqlite3.Connection)` opens a connection of your own to the file. There is none for memory.
"""

from cloudq_local.memory import open_memory
from cloudq_local.sqlite import open_sqlite

__all__ = ["open_memory", "open_sqlite"]
