"""The checks that a spec declares: each a small class behind one protocol (`base.Check`)."""

from __future__ import annotations

from pathlib import Path

from airflow_triton.spec import Validation
from airflow_triton.validation.checks.base import Bench, Check, Seen
from airflow_triton.validation.checks.expectations import ExpectationsCheck
from airflow_triton.validation.checks.latency import LatencyCheck
from airflow_triton.validation.checks.metrics import MetricsCheck
from airflow_triton.validation.checks.own import OwnCheck
from airflow_triton.validation.checks.parity import AgreementCheck

__all__ = ["Bench", "Check", "Seen", "checks_of", "golden_of"]


def checks_of(rules: Validation, keep: Path | None = None, *, max_batch_size: int | None = None) -> list[Check]:
    """The checks that see the rows of `validate.data` (else the input example), newly made, in the order of the report.

    `keep` is a folder for what a check leaves beside its result (Data Docs), which is kept with the report. None: nothing is left.
    `max_batch_size` is that of the candidate's config.pbtxt, where it is known.

    Raises:
        ValidationDataError: a suite, a function or a check of the user's own cannot be loaded, or names something that is not there.

    """
    checks: list[Check] = []
    if rules.parity:
        checks.append(AgreementCheck.parity(rules.parity))
    if rules.metrics:
        checks.append(MetricsCheck(rules.metrics))
    if rules.latency:
        checks.append(LatencyCheck(rules.latency, max_batch_size))
    if rules.expectations:
        checks.append(ExpectationsCheck(rules.expectations, keep, label=rules.label))
    checks += [OwnCheck(name, options) for name, options in (rules.checks or {}).items()]
    return checks


def golden_of(rules: Validation) -> list[Check]:
    """The checks that see the rows of `validate.golden`."""
    return [AgreementCheck.golden(rules.golden)] if rules.golden else []
