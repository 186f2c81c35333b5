"""What a person at a terminal sees: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

say = Console(stderr=True, highlight=False, soft_wrap=True)
"""Everything that is not data."""


def show(data: Any, table: Callable[[], Table | str], *, as_json: bool) -> None:
    """Print data on stdout: JSON, or for a person."""
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        shown = table()
        Console(highlight=False, soft_wrap=isinstance(shown, str)).print(shown)


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        """Say one line; warnings stand out."""
        colour = "yellow" if line.startswith("warning") else "dim"
        say.print(f"[{colour}]{time.monotonic() - self._started:6.1f} s[/]  ", end="")
        say.print(line, markup=False)


def status_table(rows: Sequence[Any]) -> Table:
    """The table of `status` and of the demo: a row for each model."""
    table = Table("name", "model", "registered", "stored", "serves", "last verdict")
    for row in rows:
        serves = ", ".join(sorted({_versions(server.ready) for server in row.servers}))
        verdict = f"version {row.verdict_version} {row.verdict}" if row.verdict else "none"
        table.add_row(row.name, row.model or "unknown", _text(row.registered), _text(row.stored), serves, verdict)
    return table


def _versions(ready: Sequence[int] | None) -> str:
    return "unknown" if ready is None else "/".join(map(str, ready)) or "nothing"


def _text(value: object) -> str:
    return "" if value is None else str(value)
