"""What of a model's answers a metric is computed of: a class, a number or scores for each row.

Everything here raises ValueError, with the reason, where the answers or the labels hold nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_triton.tensors import plain_texts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]

_HALF = 0.5
_TEXTS = frozenset("OSU")


def classes(answers: Arrays, labels: Array, start: int) -> tuple[Array, Array]:
    """The predicted class of each row and its label, both as text where one of them is text.

    The classes are the output that holds them (integers, booleans or texts, one a row); where there is none, the place of the largest entry
    of a row of scores; where there is none of these either, whether a row's one score is at least one half. `start` is the number of
    the first row.
    """
    import numpy as np

    wanted, rows = class_labels(labels), len(labels)
    per_row = {name: array.reshape(rows) for name, array in answers.items() if array.size == rows and array.shape[:1] == (rows,)}
    discrete = [array for array in per_row.values() if array.dtype.kind != "f"]
    matrices = {name: array for name, array in answers.items() if array.ndim == 2 and array.shape[0] == rows and array.shape[1] > 1}  # noqa: PLR2004
    if discrete:
        predicted = discrete[0]
    elif matrices:
        predicted = _finite(*next(iter(matrices.items())), start).argmax(axis=1)
    elif per_row:
        predicted = (_finite(*next(iter(per_row.items())), start) >= _HALF).astype(np.int64)
    else:
        raise ValueError(f"no output holds a class for each of the {rows} rows: {shapes(answers)}")
    if {predicted.dtype.kind, wanted.dtype.kind} & _TEXTS:
        return _as_text(predicted), _as_text(wanted)
    return predicted, wanted


def values(answers: Arrays, labels: Array, start: int) -> tuple[str, Array]:
    """The first output with one number for each row, by its name, as float64 [rows]."""
    import numpy as np

    for name, array in answers.items():
        if array.size == len(labels) and array.dtype.kind in "fiu":
            return name, _finite(name, array.reshape(len(labels)), start).astype(np.float64)
    raise ValueError(f"no output holds one number for each of the {len(labels)} rows: {shapes(answers)}")


def scores(answers: Arrays, labels: Array, start: int) -> Array:
    """The first output with floating-point scores of each row: [rows] (of two columns the second one), or [rows, classes]."""
    for name, array in answers.items():
        if array.dtype.kind == "f" and array.shape[:1] == (len(labels),):
            found = _finite(name, array.reshape(len(labels), -1), start)
            return found[:, -1] if found.shape[1] <= 2 else found  # noqa: PLR2004 two classes
    raise ValueError(f"no output holds floating-point scores for the {len(labels)} rows: {shapes(answers)}")


def class_labels(labels: Array) -> Array:
    """The labels as classes: integers, booleans or texts [rows]."""
    import numpy as np

    flat = _one_each(labels)
    if flat.dtype.kind == "f":
        if not (np.isfinite(flat).all() and (flat == np.floor(flat)).all()):
            raise ValueError("the labels are numbers with fractions or gaps, and no classes")
        return flat.astype(np.int64)
    if flat.dtype.kind not in _TEXTS | set("biu"):
        raise ValueError(f"the labels are {labels.dtype}, and no classes")
    return flat


def targets(labels: Array) -> Array:
    """The labels as numbers: float64 [rows]."""
    import numpy as np

    flat = _one_each(labels)
    if flat.dtype.kind not in "biuf":
        raise ValueError(f"the labels are {'text' if flat.dtype.kind in _TEXTS else flat.dtype}, and no numbers")
    if not np.isfinite(flat).all():
        raise ValueError("a label is NaN or infinite")
    return flat.astype(np.float64)


def shapes(answers: Arrays) -> str:
    """The outputs for an error."""
    return ", ".join(f"`{name}` {array.dtype} {list(array.shape)}" for name, array in answers.items()) or "there is none"


def _one_each(labels: Array) -> Array:
    if labels.size != len(labels):
        raise ValueError(f"there are labels {list(labels.shape)}, and not one for each row")
    return labels.reshape(len(labels))


def _finite(name: str, array: Array, start: int) -> Array:
    import numpy as np

    wrong = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"the output {name!r} holds NaN or an infinity in {int(wrong.sum())} rows, first in row {start + int(wrong.argmax())}"
        )
    return array


def _as_text(array: Array) -> Array:
    import numpy as np

    if array.dtype.kind in _TEXTS:
        return plain_texts(array)
    return np.array([str(item) for item in array.tolist()], dtype=object)
