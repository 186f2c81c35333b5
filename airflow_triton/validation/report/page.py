"""The report as one page: the verdict first, then every check with its figures, limits and plots. No script, no network."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_triton.validation.report import CheckResult, ValidationReport
from airflow_triton.validation.report.drawn import svg
from airflow_triton.validation.report.plots import Matrix

if TYPE_CHECKING:
    from jinja2 import Template

_MARKS = {"passed": "✓", "rejected": "✗", "warning": "!"}
_OPEN_SERVERS = 3
"""With more servers than this, those where everything passed are folded up."""
_MOST_TOLD = 6
"""Reasons that the verdict tells, at most; the others are with their checks."""
_MOST_COUNT = 1e15
"""Whole numbers below this are exact, and are written out."""
_STRONGEST = 50
"""Percent of a colour that text is still readable on."""


@dataclass
class Figures:
    """The numbers of a check: `rows` by name, each with a value for every one of `columns`; `limits` that belong to none of them."""

    columns: list[str] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)
    first: str = "figure"
    limits: list[str] = field(default_factory=list)


def html(report: ValidationReport) -> str:
    """The report as a whole HTML page that needs nothing else: style and plots are in it, and it does not ask the network for anything.

    Everything that came from outside (names, values, messages) is escaped. Links are followed only where they are http(s).
    """
    return _template().render(
        report=report,
        title=f"{report.name or report.candidate}: {'passed' if report.passed else 'rejected'}",
        serves=report.candidate == report.name,  # asked under its own name: it was validated again
        state="passed" if report.passed else "rejected",
        reasons=_reasons(report, "rejected"),
        warnings=_reasons(report, "warning"),
        servers=_by_server(report.checks),
        names=list(dict.fromkeys(check.name for check in report.checks)),
        most_open=_OPEN_SERVERS,
        most_told=_MOST_TOLD,
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("airflow_triton.validation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        state=state,
        mark=_MARKS.__getitem__,
        tables=figures,
        told=lambda check: check.summary.removeprefix(f"{check.name}: "),
        of=lambda count, what: f"{count} {what}{'' if count == 1 else 's'}",
        cells=cells,
        drawn=lambda plot: Markup(svg(plot)),  # noqa: S704 matplotlib escapes the texts
        followed=lambda link: urlsplit(link).scheme in {"http", "https"},
    )
    return environment.get_template("page.html.j2")


def _reasons(report: ValidationReport, kind: str) -> list[tuple[str, str]]:
    """What did not hold, each with the servers where that was; "" where there is only one."""
    servers = {check.server for check in report.checks}
    found: dict[str, list[str]] = {}
    for check in report.checks:
        if state(check) == kind:
            found.setdefault(check.summary, []).append(check.server)
    return [(summary, _on(list(dict.fromkeys(where)), len(servers))) for summary, where in found.items()]


def _on(where: Sequence[str], servers: int) -> str:
    if servers == 1:
        return ""
    return f"on {where[0]}" if len(where) == 1 else f"on {'all' if len(where) == servers else f'{len(where)} of'} {servers} servers"


def _by_server(checks: Sequence[CheckResult]) -> dict[str, list[CheckResult]]:
    """The servers in their order; what a person looks for first: rejections, then warnings."""
    servers: dict[str, list[CheckResult]] = {check.server: [] for check in checks}
    for check in sorted(checks, key=lambda check: ("rejected", "warning", "passed").index(state(check))):
        servers[check.server].append(check)
    return servers


def state(check: CheckResult) -> str:
    """`passed`, `rejected` or `warning`."""
    return "passed" if check.passed else "rejected" if check.rejects else "warning"


def number(value: float) -> str:
    """A number for a person: six digits, and a count as it is."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if value == round(value) and abs(value) < _MOST_COUNT else f"{value:,.6g}"


def figures(check: CheckResult) -> list[Figures]:
    """What was measured beside what is demanded: one table of plain figures, one of those by output (`probabilities.max_abs`).

    Those of another model (`champion.p50_ms`) stand beside the candidate's own (`p50_ms`).
    """
    limits = {name: number(value) for name, value in check.limits.items()}
    plain = {name: value for name, value in check.figures.items() if "." not in name}
    rest = {name: value for name, value in check.figures.items() if name not in plain}
    beside = {name: value for name, value in rest.items() if name.rpartition(".")[2] in plain}
    tables = []
    if plain:
        tables.append(_plain(check.name, plain, beside, limits))
    if len(beside) < len(rest):
        tables.append(_by_output({name: value for name, value in rest.items() if name not in beside}, limits))
    if limits:
        tables = tables or [Figures()]
        tables[-1].limits = [f"{name} {value}" for name, value in limits.items()]
    return tables


def _plain(name: str, measured: Mapping[str, float], beside: Mapping[str, float], limits: dict[str, str]) -> Figures:
    """A row each, with its limit: that of its name, or of its name with `min_` or `max_` before it.

    A check's chief figure has the check's name, and the limits that belong to no other are its own.
    """
    others = list(dict.fromkeys(other.rpartition(".")[0] for other in beside))
    table = Figures(columns=["measured", *others, "limit"])
    for key, value in measured.items():
        theirs = [number(beside[f"{other}.{key}"]) if f"{other}.{key}" in beside else "" for other in others]
        own = {"": limits.pop(key, ""), "min ": limits.pop(f"min_{key}", ""), "max ": limits.pop(f"max_{key}", "")}
        table.rows[key] = [number(value), *theirs, ", ".join(f"{way}{limit}" for way, limit in own.items() if limit)]
    if name in table.rows:
        left = [f"{key} {limits.pop(key)}" for key in list(limits)]
        table.rows[name][-1] = ", ".join(filter(None, [table.rows[name][-1], *left]))
    return table


def _by_output(measured: Mapping[str, float], limits: dict[str, str]) -> Figures:
    """A row for each output, and one for the limits."""
    split = {name: name.rpartition(".")[::2] for name in measured}
    columns = list(dict.fromkeys(last for _, last in split.values()))
    table = Figures(columns=columns, first="output")
    for name, (output, last) in split.items():
        row = table.rows.setdefault(output, [""] * len(columns))
        row[columns.index(last)] = number(measured[name])
    if any(column in limits for column in columns):
        table.rows["limit"] = [limits.pop(column, "") for column in columns]
    return table


def cells(matrix: Matrix) -> list[dict[str, Any]]:
    """The rows of a matrix: each count with the strength of its colour in percent, by its share of the row.

    Where rows and columns may have the same names, as in a confusion matrix, a cell is `wrong` that is not on the diagonal.
    """
    same = bool(set(matrix.rows) & set(matrix.columns))
    return [
        {
            "name": name,
            "cells": [
                {"count": count, "strength": round(_STRONGEST * count / max(sum(counts), 1)), "wrong": same and name != column}
                for column, count in zip(matrix.columns, counts, strict=True)
            ],
        }
        for name, counts in zip(matrix.rows, matrix.counts, strict=True)
    ]
