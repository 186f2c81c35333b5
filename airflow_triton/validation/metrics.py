"""Metrics of the candidate's answers against labels, with the limits of the spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from airflow_triton.errors import ValidationDataError
from airflow_triton.validation.report import CheckResult

if TYPE_CHECKING:
    import numpy as np

METRICS = ("accuracy", "f1", "auc", "rmse", "mae", "r2")
"""accuracy, macro F1, area under the ROC curve (one against the rest, macro), and three of regression; all as scikit-learn has them."""


def metric_check(
    name: str,
    answers: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    server: str = "",
) -> CheckResult:
    """Compute one metric of `METRICS` and hold it against its limits (inclusive).

    Classes are taken from the output that holds them (integers or strings, one a row); where there is none, from the largest
    entry of a row of scores, or a score of at least one half. Values that are not finite never pass, in the metric or in the
    output that it is computed of.

    Raises:
        ValidationDataError: the answers hold nothing that this metric can be computed of, or the labels do not fit it.

    """
    import math

    try:
        value = _COMPUTE[name](answers, labels)
    except _NotFiniteError:
        value = math.nan
    except ValueError as error:  # scikit-learn's
        raise ValidationDataError(
            f"{name} cannot be computed of {_shapes(answers)} and {labels.dtype} labels {list(labels.shape)}: {error}"
        ) from None
    too_low = minimum is not None and not value >= minimum
    too_high = maximum is not None and not value <= maximum
    summary = f"{name} {value:.4g}"
    if not math.isfinite(value):
        summary += " is no number"
    elif too_low:
        summary += f" is below {minimum:g}"
    elif too_high:
        summary += f" is above {maximum:g}"
    limits = {key: limit for key, limit in (("min", minimum), ("max", maximum)) if limit is not None}
    passed = math.isfinite(value) and bool(limits) and not too_low and not too_high
    figures = {name: value} if math.isfinite(value) else {}
    return CheckResult(name=name, passed=passed, summary=summary, figures=figures, limits=limits, server=server)


def _classes(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The predicted classes and the labels, both as text where one of them is text."""
    import numpy as np

    rows = len(labels)
    per_row = {name: array.reshape(rows) for name, array in answers.items() if array.size == rows and array.shape[:1] == (rows,)}
    discrete = [array for array in per_row.values() if not np.issubdtype(array.dtype, np.floating)]
    if discrete:
        predicted = discrete[0]
    elif scores := [array for array in answers.values() if array.ndim == 2 and array.shape[0] == rows and array.shape[1] > 1]:  # noqa: PLR2004
        predicted = _finite(scores[0]).argmax(axis=1)
    elif per_row:
        predicted = (_finite(next(iter(per_row.values()))) >= 0.5).astype(np.int64)  # noqa: PLR2004
    else:
        raise ValidationDataError(f"no output holds a class for each of the {rows} rows: {_shapes(answers)}")
    if {predicted.dtype.kind, labels.dtype.kind} & set("OSU"):
        return _text(predicted), _text(labels)
    return predicted, labels


def _values(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The predicted number of each row."""
    for array in answers.values():
        if array.size == len(labels) and array.dtype.kind in "fiu":
            return _finite(array).reshape(len(labels))
    raise ValidationDataError(f"no output holds one number for each of the {len(labels)} rows: {_shapes(answers)}")


def _scores(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The floating-point scores of each row: [rows] or [rows, classes]."""
    import numpy as np

    for array in answers.values():
        if np.issubdtype(array.dtype, np.floating) and array.shape[:1] == (len(labels),):
            scores = _finite(array).reshape(len(labels), -1)
            return scores[:, -1] if scores.shape[1] <= 2 else scores  # noqa: PLR2004 two classes: the second one's
    raise ValidationDataError(f"no output holds floating-point scores for the {len(labels)} rows: {_shapes(answers)}")


class _NotFiniteError(Exception):
    """The output that a metric needs holds a NaN or an infinity."""


def _finite(array: np.ndarray) -> np.ndarray:
    import numpy as np

    if not np.isfinite(array).all():
        raise _NotFiniteError
    return array


def _text(array: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.array(
        [item.decode(errors="surrogateescape") if isinstance(item, bytes) else str(item) for item in array.reshape(-1)], dtype=object
    )


def _shapes(answers: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"`{name}` {array.dtype} {list(array.shape)}" for name, array in answers.items())


def _accuracy(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    predicted, wanted = _classes(answers, labels)
    return float(accuracy_score(wanted, predicted))


def _f1(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    predicted, wanted = _classes(answers, labels)
    return float(f1_score(wanted, predicted, average="macro"))


def _auc(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, _scores(answers, labels), multi_class="ovr"))


def _rmse(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(labels, _values(answers, labels)))


def _mae(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(labels, _values(answers, labels)))


def _r2(answers: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(labels, _values(answers, labels)))


_COMPUTE: dict[str, Callable[[Mapping[str, np.ndarray], np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "auc": _auc,
    "rmse": _rmse,
    "mae": _mae,
    "r2": _r2,
}
