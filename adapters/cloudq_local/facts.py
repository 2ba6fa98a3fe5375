"""What the embedded providers can do, as data."""

from cloudq.driver import Limits

#: The body limit is a choice, not SQLite's: an application that runs here also fits the provider with the most common limit,
#: 1 MiB. The counts bound the time for which one transaction holds the write lock.
SQLITE = Limits(
    provider="SQLite",
    message_bytes=1024 * 1024,
    attribute_bytes=64 * 1024,
    send_count=500,
    send_bytes=8 * 1024 * 1024,
    receive_count=100,
    settle_count=500,
    receive_wait=20.0,
    send_delay=float("inf"),
    release_delay=float("inf"),
    lease=(0.1, 12 * 3600.0),
    linger=0.0,
    native_dead_letter=True,
    native_order=True,
    ordered_delay=True,
    ordered_release_delay=float("inf"),
    dedup="all",
    counts_crashes=True,
    release_uncounted=True,
    tells_lost=True,
)
