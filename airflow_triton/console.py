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
        Console(highlight=False, markup=False, soft_wrap=isinstance(shown, str)).print(shown)


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


def fsck_table(findings: Sequence[Any]) -> Table:
    """The table of `fsck`: a row for each version, and for each model that is not ours."""
    table = Table("name", "version", "role", "state")
    for each in findings:
        if each.role in ("serves", "kept", "unused", "foreign"):
            whole = "not ours" if each.role == "foreign" else "incomplete" if each.stale else "whole"
            table.add_row(each.model, _text(each.version), each.role, "; ".join(each.problems) or whole)
    return table


def leftover_line(finding: Any) -> str:
    """What `fsck` says of something that an attempt left: where, what, how large, and what removes it."""
    size = "" if finding.size is None else f"{_bytes(finding.size)}; "
    return f"{finding.role} {finding.where}: {finding.about}; {size}removed by {finding.removed_by}"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:g} {unit}"
        size = round(size / 1024, 1)
    return f"{size:g} GiB"


def _versions(ready: Sequence[int] | None) -> str:
    return "unknown" if ready is None else "/".join(map(str, ready)) or "nothing"


def _text(value: object) -> str:
    return "" if value is None else str(value)
