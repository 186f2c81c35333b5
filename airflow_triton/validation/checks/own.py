"""Checks that a team writes itself: entry points of the group `airflow_triton.checks`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.validation.checks.base import NEEDS, Bench, Check, Seen
from airflow_triton.validation.data import Dataset
from airflow_triton.validation.report import CheckResult

GROUP = "airflow_triton.checks"
_METHODS = ("fit", "see", "results")


class OwnCheck:
    """A check of someone else's, held to what a check is.

    Whatever it raises while it sees rows or says what it found, no result, or a result that is none: not passed, with the reason.
    What it raises in `fit` is a ValidationDataError. With the option `severity: warning` nothing of it rejects.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        """`name` is that of the entry point, `options` are what it is called with, without `severity`.

        Raises:
            ValidationDataError: there is no such entry point, it cannot be loaded, does not take the options, or makes no check.

        """
        self.name = name
        self._warns = options.get("severity") == "warning"
        self._check = _made(name, {key: value for key, value in options.items() if key != "severity"})
        self.needs = frozenset(self._check.needs)
        self._seen = False
        self._raised = ""

    def fit(self, dataset: Dataset, servable: Servable) -> None:
        """See `Check`."""
        try:
            self._check.fit(dataset, servable)
        except ValidationDataError:
            raise
        except Exception as error:
            raise ValidationDataError(f"the check {self.name!r} cannot run on {dataset.origin}: {_told(error)}") from error

    def see(self, seen: Seen) -> None:
        """See `Check`. After an error it is not shown any more."""
        self._seen = True
        if not self._raised:
            try:
                self._check.see(seen)
            except Exception as error:  # noqa: BLE001 it is anyone's code
                self._raised = _told(error)

    def results(self, bench: Bench) -> Sequence[CheckResult]:
        """See `Check`."""
        found: Any = None
        if self._seen and not self._raised:
            try:
                found = self._check.results(bench)
            except Exception as error:  # noqa: BLE001 it is anyone's code
                self._raised = _told(error)
        problem = f"it raised {self._raised}" if self._raised else _no_results(found) if self._seen else "it saw no row"
        results = [CheckResult(name=self.name, passed=False, summary=f"{self.name}: {problem}")] if problem else list(found)
        return [result.model_copy(update={"severity": "warning"}) for result in results] if self._warns else results


def _no_results(found: Any) -> str:
    """What is wrong with what `results` gave; "" if nothing is."""
    if not isinstance(found, list | tuple):
        return f"its results are {type(found).__name__}, and no list of CheckResult"
    if not found:
        return "it gave no result"
    others = sorted({type(each).__name__ for each in found if not isinstance(each, CheckResult)})
    return f"its results hold {', '.join(others)}, and not CheckResult alone" if others else ""


def _made(name: str, options: Mapping[str, Any]) -> Check:
    point = _entry_point(name)
    key = f"validate.checks.{name}"
    try:
        factory = point.load()
    except Exception as error:
        raise ValidationDataError(f"{key}: the entry point {point.value} cannot be loaded: {_told(error)}") from error
    try:
        check = factory(**options)
    except Exception as error:
        given = ", ".join(options) or "none"
        raise ValidationDataError(f"{key}: {point.value} does not take these options ({given}): {_told(error)}") from error
    missing = [method for method in _METHODS if not callable(getattr(check, method, None))]
    if isinstance(check, type) or missing:
        lacks = f", without {', '.join(missing)}" if missing else ""
        raise ValidationDataError(f"{key}: {point.value} makes no check, but {type(check).__name__}{lacks}")
    needs = getattr(check, "needs", None)
    if not isinstance(needs, set | frozenset) or not needs <= NEEDS:
        raise ValidationDataError(f"{key}: `needs` of {point.value} is {needs!r}; valid: a set of {', '.join(sorted(NEEDS))}")
    made: Check = check
    return made


def _entry_point(name: str) -> EntryPoint:
    known = entry_points(group=GROUP)
    found = {point.value: point for point in known if point.name == name}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ValidationDataError(f"validate.checks.{name}: several packages have a check of this name: {', '.join(sorted(found))}")
    names = sorted({point.name for point in known})
    near = difflib.get_close_matches(name, names, n=1)
    raise ValidationDataError(
        f"validate.checks.{name}: no installed package has a check of this name (an entry point of the group {GROUP}); "
        f"there are: {', '.join(names) or 'none'}" + (f" (did you mean {near[0]}?)" if near else "")
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
