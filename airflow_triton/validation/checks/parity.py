"""Do the server's answers agree with what is expected: with the MLflow model's own (`parity`), or with recorded ones (`golden`)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow_triton.servable import Servable
from airflow_triton.spec import Golden, ServedParity
from airflow_triton.validation.agreement import Agreement, Comparison
from airflow_triton.validation.checks.base import Bench, Seen
from airflow_triton.validation.checks.closest import Closeness
from airflow_triton.validation.data import Dataset
from airflow_triton.validation.report import CheckResult

if TYPE_CHECKING:
    import numpy as np


class AgreementCheck:
    """Compare output by output, whatever the number of rows.

    Floating-point outputs must satisfy |answer - expected| <= atol + rtol * |expected| in every element (numpy's `allclose`), NaN standing
    for NaN and an infinity for the same infinity; all others must be equal. A missing output, another shape, no output at all, and a
    floating-point output without one finite element: never a pass. Figures: those of `agreement.OutputAgreement`, by output.
    """

    def __init__(
        self,
        name: str,
        *,
        rtol: float,
        atol: float,
        severity: Literal["critical", "warning"] = "critical",
        outputs: Mapping[str, tuple[float, float]] | None = None,
        cosine: float | None = None,
        argmax: float | None = None,
    ) -> None:
        self.name = name
        self.needs = frozenset({"expected" if name == "parity" else "recorded"})
        self.severity = severity
        self.limits = {"rtol": rtol, "atol": atol}
        self._least = {key: limit for key, limit in (("cosine", cosine), ("argmax", argmax)) if limit is not None}
        self._comparison = Comparison(rtol=rtol, atol=atol, outputs=outputs)
        self._own = outputs or {}
        self._closeness = Closeness()
        self._case = ""

    @classmethod
    def parity(cls, rules: ServedParity) -> AgreementCheck:
        """Against the MLflow model's own answers."""
        outputs = {name: (own.rtol, own.atol) for name, own in rules.outputs.items()}
        return cls(
            "parity", rtol=rules.rtol, atol=rules.atol, severity=rules.severity, outputs=outputs, cosine=rules.cosine, argmax=rules.argmax
        )

    @classmethod
    def golden(cls, rules: Golden) -> AgreementCheck:
        """Against the answers that were recorded with the requests."""
        return cls("golden", rtol=rules.rtol, atol=rules.atol, severity=rules.severity)

    def fit(self, dataset: Dataset, servable: Servable) -> None:
        """See `Check`."""
        from airflow_triton.errors import ValidationDataError

        self._case = dataset.origin
        known = [tensor.name for tensor in servable.outputs]
        if unknown := sorted(set(self._own) - set(known)):
            raise ValidationDataError(f"validate.parity.outputs names {unknown}, and the model's outputs are {known}")

    def see(self, seen: Seen) -> None:
        """See `Check`."""
        expected = seen.expected if self.name == "parity" else seen.part.answers
        if expected is not None:
            self._comparison.add(self._case, seen.answers, expected, start=seen.part.start)
            self._closeness.add(seen.answers, expected, start=seen.part.start)

    def results(self, bench: Bench) -> Sequence[CheckResult]:  # noqa: ARG002 it asks nothing
        """See `Check`."""
        agreement = self._comparison.agreement
        problems = [*_without_numbers(agreement, self._closeness.floating), *self._too_far(agreement)]
        summary = "; ".join(problems) if agreement.passed and problems else agreement.summary
        return [
            CheckResult(
                name=self.name,
                passed=agreement.passed and not problems,
                severity=self.severity,
                summary=f"{self.name}: {summary}",
                figures=agreement.figures,
                limits={**self.limits, **self._least},
                plots=self._closeness.plots(self.name, against="MLflow model" if self.name == "parity" else "recorded"),
            )
        ]

    def _too_far(self, agreement: Agreement) -> list[str]:
        """What is below the smallest cosine similarity, or the smallest share of rows with the same arg-max."""
        found = [(output.name, key, getattr(output, key), limit) for output in agreement.outputs for key, limit in self._least.items()]
        problems = [
            f"the {key} of the output {name!r} is {value:g}, below {limit:g}"
            for name, key, value, limit in found
            if value is not None and value < limit
        ]
        measured = {key for _, key, value, _ in found if value is not None}
        return problems + [f"no output has a figure for {key!r}" for key in self._least if key not in measured]


def _without_numbers(agreement: Agreement, floating: set[str]) -> list[str]:
    return [
        f"the output {output.name!r} has no finite element to compare"
        for output in agreement.outputs
        if output.name in floating and output.elements and output.nan + output.infinite >= output.elements
    ]


def agree(
    answers: Mapping[str, np.ndarray[Any, Any]], expected: Mapping[str, np.ndarray[Any, Any]], *, rtol: float, atol: float
) -> Agreement:
    """One comparison of two sets of outputs, without a check around it."""
    comparison = Comparison(rtol=rtol, atol=atol)
    comparison.add("the request", answers, expected)
    return comparison.agreement
