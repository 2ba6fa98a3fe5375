"""From a URL to an open driver: `sqlite:///queue.db`, `memory://`, `<provider>://<place>`.

An adapter registers a function under its scheme in the entry-point group `cloudq.adapters`. It is called as
`open_driver(place, options, clock)` with what stands between `://` and `?`, the query as a dict, and the clock; it returns a
Driver, on the running loop, and raises ConfigError for a place or an option that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from urllib.parse import parse_qsl

from cloudq.clock import Clock
from cloudq.driver import Driver, Limits, Queue
from cloudq.durations import spoken
from cloudq.errors import ConfigError, MissingAdapter, nearest
from cloudq.facts import Aspect, Facts, facts_of, known

Opener = Callable[[str, Mapping[str, str], Clock], Driver]


def open_driver(url: str, clock: Clock) -> Driver:
    """Open the driver that a URL names. ConfigError tells what is wrong with the URL; MissingAdapter what to install."""
    if "://" not in url:
        raise ConfigError(f"{_masked(url)!r} is not a provider URL. Write scheme://place, e.g. sqlite:///cloudq.db.")
    scheme = url.partition("://")[0]
    opener = _opener(scheme)
    place, options = parts_of(url)
    if "@" in place and ":" in place.split("@")[0]:
        raise ConfigError(
            f"{scheme}://... holds a password. A URL names a provider and a place, never a secret: credentials come from "
            f"the provider's own chain."
        )
    return opener(place, options, clock)


def load_adapter(url: str) -> None:
    """Import what opens this URL, its SDK too. Errors as in `open_driver`."""
    _opener(url.partition("://")[0])


def parts_of(url: str) -> tuple[str, dict[str, str]]:
    """Return what stands between `://` and `?`, and the options after it."""
    place, _, query = url.partition("://")[2].partition("?")
    return place, dict(parse_qsl(query, keep_blank_values=True))


def refuse_impossible(queue: Queue, limits: Limits) -> None:
    """Raise ConfigError for a queue setting that this provider cannot keep: before the first message, never silently."""
    for _, reason in impossible(queue, limits):
        raise ConfigError(reason)


def impossible(queue: Queue, limits: Limits) -> Iterator[tuple[Aspect, str]]:
    """Yield the settings of a queue that this provider cannot keep, each with a sentence that says what to do."""
    setting, who = f"queues.{queue.logical}", limits.provider
    shortest, longest = limits.lease
    if not shortest <= queue.lease <= longest:
        between = f"{who} leases from {spoken(shortest)} to {spoken(longest)}"
        yield (
            "lease",
            f"{setting}.lease = {spoken(queue.lease)}: {between}. Choose one between; while a task runs it is renewed.",
        )
    if queue.ordered and not limits.native_order:
        yield "order", f"{setting}.ordered = true: {who} keeps no order. Use a provider that does for this queue."
    if not queue.dedup:
        return
    briefest, widest = limits.dedup_window
    if limits.dedup == "none" or (limits.dedup == "ordered" and not queue.ordered):
        where = " where ordered is not set" if limits.dedup == "ordered" else ""
        advice = "Remove it, or use a provider that does for this queue."
        yield "dedup", f"{setting}.dedup = {spoken(queue.dedup)}: {who} drops no duplicates{where}. {advice}"
    elif not briefest <= queue.dedup <= widest:
        allowed = spoken(widest) if briefest == widest else f"{spoken(briefest)} to {spoken(widest)}"
        yield "dedup", f"{setting}.dedup = {spoken(queue.dedup)}: the window of {who} is {allowed}. Choose that, or 0."


def scheme_of(url: str) -> str:
    """Return the provider that a URL names, or imitates (`memory://?as=<provider>`)."""
    scheme, _, rest = url.partition("://")
    return dict(parse_qsl(rest.partition("?")[2])).get("as", scheme)


def facts_at(url: str) -> Facts | None:
    """Return the facts of the provider that a URL names or imitates; None for an adapter that came without any."""
    model = scheme_of(url)
    return facts_of(model) if model in known() else None


def _opener(scheme: str) -> Opener:
    adapters = {entry.name: entry for entry in entry_points(group="cloudq.adapters")}
    entry = adapters.get(scheme)
    if entry is None:
        raise ConfigError(f"there is no provider {scheme!r}.{nearest(scheme, adapters)}")
    return _load(entry)


def _load(entry: EntryPoint) -> Opener:
    try:
        opener: Opener = entry.load()
    except ModuleNotFoundError as error:
        raise MissingAdapter(
            f"the provider {entry.name!r} needs {error.name!r}, which is not installed: "
            f"pip install 'cloudq-tasks[{entry.name}]'"
        ) from error
    return opener


def _masked(url: str) -> str:
    return url if len(url) < 60 else url[:57] + "..."
