"""A Great Expectations suite, held against the inputs joined with the predictions."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.spec import Expectations
from airflow_triton.validation.checks.base import Bench, Seen
from airflow_triton.validation.checks.data_docs import keep_docs
from airflow_triton.validation.checks.entries import not_null
from airflow_triton.validation.checks.frames import MOST_ROWS, Rows, tried
from airflow_triton.validation.checks.gx import Found, hold, hold_conditions
from airflow_triton.validation.checks.suites import load_suite
from airflow_triton.validation.data import Dataset
from airflow_triton.validation.report import CheckResult
from airflow_triton.validation.report.plots import Table

if TYPE_CHECKING:
    import pandas as pd

_TOLD = 3
"""So many problems are told in the summary; the table of the report has all."""


class ExpectationsCheck:
    """Every expectation of the suite has to hold; one with the severity `warning` or `info` is told and does not reject.

    Great Expectations passes over missing values (NaN, None), so here they are counted: a column that a critical expectation looks at, and
    each output, must have none, unless an expectation of the suite says how many of that column may be missing (`..._not_be_null`,
    `..._be_null`, `..._proportion_of_non_null_values_...`). Even then some value must be there. Never a pass: no rows, an expectation that
    could not run or looked at no value, a `row_condition` that selects no row, fewer results than expectations.
    """

    name = "expectations"
    needs: frozenset[str] = frozenset()

    def __init__(self, rules: Expectations, keep: Path | None = None, *, label: str = "label") -> None:
        """`label` is the column of the labels. `keep` is a folder for the Data Docs (None: none are written).

        Raises:
            ValidationDataError: the suite is not there, cannot be read, is empty, or an expectation of it is not one.

        """
        self.suite = load_suite(rules)
        self._keep = keep
        self._label = label
        named = {column for each in self.suite.expectations for column in each.columns}
        whole = any(not each.looks or each.row_condition is not None for each in self.suite.expectations)
        self._named = named
        self._kept = None if whole else named
        self._rows: Rows | None = None

    def fit(self, dataset: Dataset, servable: Servable) -> None:
        """See `Check`. The suite is tried on the first rows with made-up answers: what cannot run on such columns is refused."""
        part = next(dataset.parts(), None)
        if part is None or part.rows == 0:
            raise ValidationDataError(f"{dataset.origin} has no rows: nothing can be held against {self.suite.origin}")
        frame, outputs = tried(part, servable, self._label, self._named)
        columns = [str(column) for column in frame.columns]
        if unknown := sorted(self._named - set(columns)):
            near = [difflib.get_close_matches(name, columns, n=1) for name in unknown]
            meant = [found[0] for found in near if found]
            given = [column for column in columns if column not in outputs]
            raise ValidationDataError(
                f"{self.suite.origin} names the columns {unknown}, which are not there; there are {given} from {dataset.origin} and the "
                f"outputs {list(outputs)}" + (f" (did you mean {', '.join(meant)}?)" if meant else "")
            )
        always = [each for each in self.suite.expectations if each.row_condition is None]  # a condition may select no made-up answer
        found = hold(frame, "trial", always)[0] if always else []
        if broken := [str(each) for each in [*found, *hold_conditions(frame, self.suite.expectations)] if not each.ran]:
            raise ValidationDataError(f"{self.suite.origin} cannot be held against {dataset.origin} and the outputs: {'; '.join(broken)}")
        self._rows = Rows(dataset.rows, self._kept)

    def see(self, seen: Seen) -> None:
        """See `Check`."""
        if self._rows is None:
            self._rows = Rows(0, self._kept)
        self._rows.add(seen.part, seen.answers, self._label)

    def results(self, bench: Bench) -> Sequence[CheckResult]:
        """See `Check`. One result for what can reject, and another one for what only warns, if there is any."""
        return self.judged(str(bench.client.address))

    def judged(self, where: str) -> Sequence[CheckResult]:
        """See `results`; `where` is how the Data Docs call what was asked."""
        rows = self._rows
        if rows is None or rows.seen == 0:
            return [CheckResult(name=self.name, passed=False, summary="expectations: no row was seen")]
        try:
            frame = rows.frame
            found, result = hold(frame, self.suite.name, self.suite.expectations)
            conditions = [str(each) for each in hold_conditions(frame, self.suite.expectations) if each.problem]
        except Exception as error:  # noqa: BLE001 - a check that could not run does not pass, whatever it was
            return [CheckResult(name=self.name, passed=False, summary=f"expectations: could not run: {type(error).__name__}: {error}")]
        missing, odd = self._missing(rows, critical=True), self._missing(rows, critical=False)
        unwritten = self._docs(frame, result, {**missing, **odd}, where) if self._keep else ""
        on = f"on {rows.seen} rows" if rows.seen <= MOST_ROWS else f"on {len(frame)} rows, drawn at random from {rows.seen}"
        on += f" (Data Docs could not be written: {unwritten})" if unwritten else ""
        rejecting, warning = [each for each in found if each.critical], [each for each in found if not each.critical]
        problems = [*conditions, *missing.values()]
        told: list[CheckResult] = []
        if rejecting or problems:
            told.append(_result("critical", rejecting, problems, on=on, rows=rows.seen))
        if warning:
            told.append(_result("warning", warning, list(odd.values()), on=on, rows=rows.seen))
        return told

    def _docs(self, frame: pd.DataFrame, result: Any, missing: Collection[str], server: str) -> str:
        """Data Docs that fail where we do: what is missing is an expectation there, although the suite has none that says so."""
        assert self._keep is not None
        if added := [not_null(column) for column in missing if column in frame]:
            result = hold(frame, self.suite.name, [*self.suite.expectations, *added])[1]
        return keep_docs(self._keep, result, self.suite.name, server)

    def _missing(self, rows: Rows, *, critical: bool) -> dict[str, str]:
        """What is missing, by column, where expectations look that reject, or where others do that only warn; outputs always count."""
        looking = [each for each in self.suite.expectations if each.looks and not each.about_missing]
        looked = {column for each in looking for column in each.columns}
        rejecting = {column for each in looking if each.critical for column in each.columns} | set(rows.outputs)
        ruled = {column for each in self.suite.expectations if each.rules_missing for column in each.columns}
        problems: dict[str, str] = {}
        for column in sorted(rejecting if critical else looked - rejecting):
            count = rows.missing.get(column)
            if count is None:
                problems[column] = f"the column {column!r} did not come"
            elif count and column not in ruled:
                told = f"the column {column!r} has no value (NaN, None) in {count} of {rows.seen} rows"
                problems[column] = f"{told}, which no expectation allows"
            elif count == rows.seen and column in looked:
                problems[column] = f"the column {column!r} has no value (NaN, None) in any row"
        return problems


def _result(severity: Literal["critical", "warning"], found: Sequence[Found], others: Sequence[str], *, on: str, rows: int) -> CheckResult:
    """One verdict on these expectations, and on what else is wrong."""
    name = ExpectationsCheck.name if severity == "critical" else f"{ExpectationsCheck.name} (warning)"
    problems = [*others, *(str(each) for each in found if each.problem)]
    told = "; ".join(problems[:_TOLD]) + (f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else "")
    held = sum(not each.problem for each in found)
    return CheckResult(
        name=name,
        passed=not problems,
        severity=severity,
        summary=f"{name}: {f'{told} ({on})' if problems else f'{held} of {len(found)} hold {on}'}",
        figures={
            "evaluated": float(len(found)),
            "successful": float(held),
            "unexpected_percent": max((each.percent for each in found), default=0.0),
            "rows": float(rows),
        },
        limits={"successful": float(len(found))},
        plots=(_table(name, found, others),),
    )


def _table(name: str, found: Sequence[Found], others: Sequence[str]) -> Table:
    rows = [
        (each.type, each.columns, each.arguments, each.problem or each.observed, each.unexpected, "no" if each.problem else "yes")
        for each in found
    ]
    rows = [("(always)", "", "", problem, "", "no") for problem in others] + rows
    failed = tuple(number for number, row in enumerate(rows) if row[-1] == "no")
    columns = ("expectation", "columns", "arguments", "found", "unexpected values", "holds")
    return Table(title=name, columns=columns, rows=tuple(rows), marked=failed)
