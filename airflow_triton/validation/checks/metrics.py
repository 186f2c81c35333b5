"""Metrics of the candidate's answers against the labels, with the limits of the spec."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.spec import Limits
from airflow_triton.tensors import NUMPY_TYPES
from airflow_triton.validation.checks.base import Bench, Seen
from airflow_triton.validation.checks.functions import Function, Functions, load_function
from airflow_triton.validation.checks.measures import LOWER_IS_BETTER, MEASURES, Measure
from airflow_triton.validation.data import Dataset
from airflow_triton.validation.report import CheckResult

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

_ROUNDING = 1e-12
"""A drop that is above its limit by less than this share of the figures is rounding: 0.9 - 0.89 is a little more than 0.01."""


class MetricsCheck:
    """Every metric over all rows, one result each, held against its limits (inclusive).

    With `max_drop` the version that serves is asked the same rows on the same server, and its figure is computed alike. Never a pass: a
    metric that cannot be computed, a figure or an answer that it needs that is not finite, no rows, a version that serves and cannot be
    asked the same. Where nothing serves yet, `max_drop` demands nothing; a metric without another limit then passes as a warning does:
    by itself it lets no candidate through. Figures: the metric by its own name, `champion` (that of the version that serves) and
    `drop` (by how much the candidate's is worse; below 0 where it is better).
    """

    name = "metrics"

    def __init__(self, metrics: Mapping[str, Limits]) -> None:
        """Raises ValidationDataError where a function cannot be imported or called."""
        self._metrics = metrics
        functions = {name: load_function(name, limits.function) for name, limits in metrics.items() if limits.function}
        compared = [name for name, limits in metrics.items() if limits.max_drop is not None]
        self.needs = frozenset({"labels", "champion"} if compared else {"labels"})
        self._candidate = _Side(list(metrics), functions)
        self._champion = _Side(compared, functions)

    def fit(self, dataset: Dataset, servable: Servable) -> None:
        """See `Check`. Every label is looked at, and made-up answers of the types and shapes that the servable declares."""
        ready = [name for name, limits in self._metrics.items() if not limits.function]
        side, start = _Side(ready, {}), 0
        varies = any(-1 in tensor.shape[1:] for tensor in servable.outputs)
        for labels in dataset.labels():
            if varies:
                side.check_labels(labels)
            else:
                side.add(_made_up(servable, len(labels)), labels, start)
            start += len(labels)
        for name in ready:
            if problem := side.problem(name) or ("" if varies else side.problem_of_all(name)):
                raise ValidationDataError(
                    f"validate.metrics.{name} cannot be computed of {dataset.origin} and the model's outputs: {problem}"
                )

    def see(self, seen: Seen) -> None:
        """See `Check`."""
        labels = seen.part.labels
        if labels is None:
            return
        self._candidate.add(seen.answers, labels, seen.part.start)
        if seen.champion is not None:
            self._champion.add(seen.champion, labels, seen.part.start)

    def results(self, bench: Bench) -> Sequence[CheckResult]:
        """See `Check`."""
        shown: set[int] = set()
        told = []
        for name, limits in self._metrics.items():
            result, measure = self._result(name, limits, bench), self._candidate.measures[name]
            if result.figures and id(measure) not in shown:
                shown.add(id(measure))
                result = result.model_copy(update={"plots": measure.plots(name)})
            told.append(result)
        return told

    def _result(self, name: str, limits: Limits, bench: Bench) -> CheckResult:
        wanted = {key: limit for key in ("min", "max", "max_drop") if (limit := getattr(limits, key)) is not None}
        value, problem = self._candidate.figure(name)
        if problem:
            return CheckResult(name=name, passed=False, severity=limits.severity, summary=f"{name} {problem}", limits=wanted)
        figures, problems, severity = {name: value}, _beyond(value, limits) if wanted else ["has no limit"], limits.severity
        note = ""
        if limits.max_drop is not None and bench.champion is None and not bench.unfit:
            note = " (nothing serves yet: `max_drop` has nothing to hold it against)"
            severity = "warning" if len(wanted) == 1 else severity
        elif limits.max_drop is not None:
            champion, problem = self._champion.figure(name) if bench.champion and not bench.unfit else (math.nan, bench.unfit)
            if problem:
                problems.append(f"cannot be held against the version that serves: {problem}")
            else:
                drop = value - champion if _lower_is_better(name, limits) else champion - value
                figures |= {"champion": champion, "drop": drop}
                note = f" (the version that serves: {champion:.4g})"
                problems += _dropped(drop, limits.max_drop, champion, value)
        summary = f"{name} {value:.4g} {' and '.join(problems)}" if problems else f"{name} {value:.4g}{note}"
        return CheckResult(name=name, passed=not problems, severity=severity, summary=summary, figures=figures, limits=wanted)


class _Side:
    """The metrics of one model. What cannot be computed is kept as the reason, and the others go on."""

    def __init__(self, names: Sequence[str], functions: Mapping[str, Function]) -> None:
        kinds: dict[Any, Measure] = {Functions: Functions(functions)}
        for name in names:
            if name not in functions:
                kinds.setdefault(MEASURES[name], MEASURES[name]())
        self.measures = {name: kinds[Functions if name in functions else MEASURES[name]] for name in names}
        self._problems: dict[int, str] = {}

    def check_labels(self, labels: np.ndarray[Any, Any]) -> None:
        self._each("check_labels", labels)

    def add(self, answers: Arrays, labels: np.ndarray[Any, Any], start: int) -> None:
        self._each("add", answers, labels, start)

    def _each(self, method: str, *given: Any) -> None:
        for measure in {id(measure): measure for measure in self.measures.values()}.values():
            if id(measure) not in self._problems:
                try:
                    getattr(measure, method)(*given)
                except (ValueError, TypeError) as error:
                    self._problems[id(measure)] = str(error)

    def problem(self, name: str) -> str:
        """Why the metric cannot be computed of some row; "" if nothing is known."""
        return self._problems.get(id(self.measures[name]), "")

    def problem_of_all(self, name: str) -> str:
        """Why it cannot be computed of all rows together, as far as labels and shapes tell."""
        try:
            self.measures[name].check_whole(name)
        except ValueError as error:
            return str(error)
        return ""

    def figure(self, name: str) -> tuple[float, str]:
        """The figure, and why there is none."""
        problem, value = self.problem(name), math.nan
        if not problem:
            try:
                value = self.measures[name].figure(name)
            except (ValueError, TypeError) as error:
                problem = str(error)
        if problem:
            return math.nan, f"cannot be computed: {problem}"
        return value, "" if math.isfinite(value) else f"{value:g} is no finite number"


def _beyond(value: float, limits: Limits) -> list[str]:
    problems = []
    if limits.min is not None and not value >= limits.min:
        problems.append(f"is below {limits.min:g}")
    if limits.max is not None and not value <= limits.max:
        problems.append(f"is above {limits.max:g}")
    return problems


def _dropped(drop: float, most: float, champion: float, value: float) -> list[str]:
    if drop <= most + _ROUNDING * max(abs(champion), abs(value)):
        return []
    return [f"is worse than the {champion:.4g} of the version that serves by {drop:.4g}, more than {most:g}"]


def _lower_is_better(name: str, limits: Limits) -> bool:
    return bool(limits.lower_is_better) if limits.function else name in LOWER_IS_BETTER


def _made_up(servable: Servable, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Answers of zeros (of texts: empty ones) as the servable declares them, for so many rows."""
    import numpy as np

    made = {}
    for tensor in servable.outputs:
        shape = [rows if size == -1 else size for size in tensor.shape]
        zero: Any = np.array("", dtype=object) if tensor.datatype == "BYTES" else np.zeros((), NUMPY_TYPES[tensor.datatype])
        made[tensor.name] = np.broadcast_to(zero, shape)
    return made
