"""What a validation found, in a form that travels: the verdict, and each check with its figures and limits."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, computed_field

from airflow_triton.repository.manifest import Probe, now


class CheckResult(BaseModel):
    """One check of one candidate on one server. `figures` are what was measured, `limits` what the spec demands."""

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    summary: str
    figures: dict[str, float] = Field(default_factory=dict)
    limits: dict[str, float] = Field(default_factory=dict)
    server: str = ""


class ValidationReport(BaseModel):
    """The verdict on a candidate.

    Guarantee: `passed` is true only where at least one check ran and all of them passed: a gate that checks nothing is closed.
    """

    model_config = ConfigDict(frozen=True)

    candidate: str
    data: str
    rows: int
    checks: tuple[CheckResult, ...]
    probe: Probe | None = None
    at: str = Field(default_factory=now)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """One word and why: `passed: parity ...; accuracy ...` or `rejected: accuracy 0.11 is below 0.9`."""
        if not self.checks:
            return "rejected: nothing was checked"
        told = [check.summary for check in self.checks if check.passed == self.passed]
        return f"{'passed' if self.passed else 'rejected'}: {'; '.join(dict.fromkeys(told))}"
