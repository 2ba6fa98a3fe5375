"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows. None is what the provider does not tell: `null` in JSON, `unknown` in a table, never 0."""
    if as_json:
        click.echo(json.dumps(list(rows), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Without a terminal nothing may be cut: somebody pipes this.
    console = Console(width=None if sys.stdout.isatty() else 240)
    shown = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(escape(_cell(row.get(column))) for column in columns))
    console.print(shown)


def printable(text: str) -> str:
    """Return text with every character that could steer a terminal escaped: a queue may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _cell(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:,.1f} s"  # the only floats shown are ages
    return printable(str(value))
