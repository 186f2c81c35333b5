"""What a validation found, in a form that travels: the verdict, and each check with its figures and limits."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from airflow_triton.repository.manifest import Probe, now
from airflow_triton.validation.report.plain import Number, Text
from airflow_triton.validation.report.plots import Plot


class CheckResult(BaseModel):
    """One check of one candidate on one server.

    `figures` are what was measured, `limits` what the spec demands, `plots` what a person would rather look at. A check with the
    severity `warning` is told, and does not reject.
    """

    model_config = ConfigDict(frozen=True)

    name: Text
    passed: bool
    summary: Text
    severity: Literal["critical", "warning"] = "critical"
    figures: dict[Text, Number] = Field(default_factory=dict)
    limits: dict[Text, Number] = Field(default_factory=dict)
    plots: tuple[Plot, ...] = ()
    server: Text = ""

    @property
    def rejects(self) -> bool:
        """Whether the candidate may not serve because of it."""
        return not self.passed and self.severity == "critical"


class ValidationReport(BaseModel):
    """The verdict on a candidate.

    Guarantee: `passed` is true only where at least one check that can reject ran, and all of those passed: a gate that checks nothing
    is closed. `champion` is the version that served when the candidate was examined. `links` lead to what was kept of the validation
    (`report`, `data_docs`): URLs in MLflow.
    """

    model_config = ConfigDict(frozen=True)

    candidate: Text
    data: Text
    rows: int
    checks: tuple[CheckResult, ...]
    name: Text = ""
    model: Text = Field(default="", description="the MLflow model version, such as models:/iris/8")
    champion: int | None = None
    probe: Probe | None = None
    seconds: dict[Text, float] = Field(default_factory=dict, description="what each part of the validation took")
    links: dict[str, Text] = Field(default_factory=dict)
    at: str = Field(default_factory=now)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return any(check.severity == "critical" for check in self.checks) and not any(check.rejects for check in self.checks)

    @property
    def verdict(self) -> str:
        """One word and why: `passed: parity ...; accuracy ...` or `rejected: accuracy 0.11 is below 0.9`."""
        if self.passed:
            told = [check.summary if check.passed else f"warning: {check.summary}" for check in self.checks]
        elif self.checks:
            told = [check.summary for check in self.checks if check.rejects]
            told = told or ["every check only warns", *(check.summary for check in self.checks)]
        else:
            told = ["nothing was checked"]
        return f"{'passed' if self.passed else 'rejected'}: {'; '.join(dict.fromkeys(told))}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What did not hold, and does not reject."""
        return tuple(dict.fromkeys(check.summary for check in self.checks if not check.passed and not check.rejects))

    def brief(self) -> ValidationReport:
        """The report without its plots: what travels between the steps."""
        return self.model_copy(update={"checks": tuple(check.model_copy(update={"plots": ()}) for check in self.checks)})
