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
_out = Console(highlight=False, markup=False, soft_wrap=True)
_FIGURES_SHOWN = 4
_NEVER_SERVED = ("rejected", "failed", "refused")


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
    """The table of `status` and of the demo: a row for each model, and where its servers differ one for each of them."""
    table = Table("name", "model", "registered", "stored", "serves", "last verdict")
    for row in rows:
        serves = sorted({_versions(server.ready) for server in row.servers})
        verdict = f"version {row.verdict_version} {row.verdict}" if row.verdict else "none"
        table.add_row(row.name, row.model or "unknown", _text(row.registered), _text(row.stored), ", ".join(serves), verdict)
        for server in row.servers if len(serves) > 1 else ():
            table.add_row(f"  {server.server}", "", "", "", _versions(server.ready), "")
    return table


def plan_table(plans: Sequence[Any]) -> Table:
    """The table of `plan`: a row for each spec."""
    table = Table("name", "action", "registered", "stored", "serves", "files")
    for plan in plans:
        serves = ", ".join(sorted({_versions(server.ready) for server in plan.servers}))
        table.add_row(plan.name, plan.action, _text(plan.registered), _text(plan.released), serves, plan.conversion or "")
    return table


def plan_text(plan: Any) -> None:
    """What a plan says beside its row, on stdout: why, and the change of config.pbtxt. Nothing where there is nothing to do."""
    if plan.action == "nothing":
        return
    _out.print(f"\n{plan.name}: {plan.action}")
    for reason in plan.why:
        _out.print(f"  {reason}")
    if plan.conversion is not None and not plan.config_known:
        _out.print("  config.pbtxt is made of the converted model; known before is what the spec's `config` changes in the released one:")
        _out.print("" if plan.config_diff else "  nothing")
    if plan.config_diff:
        _diff(plan.config_diff)


def history_table(events: Sequence[Any]) -> Table:
    """The table of `history`: a row for each release, and for each version that was rejected."""
    table = Table("since", "version", "how", "by", "MLflow", "digest", "verdict", "alias", "can serve again")
    for event in events:
        again = "" if event.how in _NEVER_SERVED else "yes" if event.stored else "removed"
        digest = (event.digest or "")[:12]
        row = (event.at, str(event.version), event.how, event.by, event.source, digest, _verdict(event), event.alias, again)
        table.add_row(*(cell or "" for cell in row))
    return table


def _verdict(event: Any) -> str:
    """A verdict with its figures; of a version that did not pass, why."""
    if event.how in _NEVER_SERVED:
        return event.verdict or ""
    figures = [f"{name} {value:g}" for name, value in event.figures.items()]
    word = (event.verdict or "").partition(":")[0]
    return f"{word}: {', '.join(figures[:_FIGURES_SHOWN])}" if figures else word


def diff_text(title: str, diff: str) -> None:
    """A change of config.pbtxt under its title, on stdout."""
    _out.print(f"\n{title}")
    _diff(diff)


def _diff(diff: str) -> None:
    for line in diff.splitlines()[2:]:  # the names of the two sides
        _out.print(f"  {line}", style={"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))


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
