"""Metrics of a team's own: a function that the spec names, asked with all rows."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.validation.report.plots import Plot

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]

Function = Callable[[dict[str, Any], Any], Any]
"""f(answers, labels) to a number: one array for each output, by its name, and one with the label of each row; both read-only."""


def load_function(metric: str, path: str) -> Function:
    """The function at MODULE:NAME.

    Raises:
        ValidationDataError: it cannot be imported, or not be called with two arguments.

    """
    key = f"validate.metrics.{metric}.function"
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ValidationDataError(
            f"{key}: {path} cannot be imported: {type(error).__name__}: {error}; the module must be installed, or on PYTHONPATH, where the "
            "validation runs"
        ) from error
    if not callable(function):
        raise ValidationDataError(f"{key}: {path} is no function, but {type(function).__name__}")
    try:
        inspect.signature(function).bind({}, None)
    except TypeError as error:
        raise ValidationDataError(f"{key}: {path} cannot be called as f(answers, labels): {error}") from None
    except ValueError:  # written in C, without a signature
        pass
    loaded: Function = function
    return loaded


class Functions:
    """Functions of one's own, by the names of their metrics. All outputs of all rows are in memory."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self._functions = functions
        self._answers: list[Arrays] = []
        self._labels: list[Array] = []

    def check_labels(self, labels: Array) -> None:
        """See `Measure`: any."""

    def add(self, answers: Arrays, labels: Array, start: int) -> None:  # noqa: ARG002 all are given at once
        """See `Measure`."""
        self._answers.append(answers)
        self._labels.append(labels)

    def check_whole(self, metric: str) -> None:
        """See `Measure`."""
        if not self._labels:
            raise ValueError(f"there are no rows for {metric}")

    def figure(self, metric: str) -> float:
        """See `Measure`."""
        self.check_whole(metric)
        answers = {name: _joined([each[name] for each in self._answers]) for name in self._answers[0]}
        labels = _joined(self._labels)
        for array in (*answers.values(), labels):
            array.flags.writeable = False
        try:
            found = self._functions[metric](answers, labels)
        except Exception as error:
            raise ValueError(f"its function raised {type(error).__name__}: {error}") from error
        return _number(found)

    def plots(self, metric: str) -> tuple[Plot, ...]:  # noqa: ARG002 there are none
        """See `Measure`."""
        return ()


def _joined(parts: Sequence[Array]) -> Array:
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _number(found: Any) -> float:
    """A real number, also numpy's and one in an array without axes."""
    import numpy as np

    plain = found.item() if isinstance(found, np.generic) or (isinstance(found, np.ndarray) and found.ndim == 0) else found
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise ValueError(f"its function gave no number, but {type(found).__name__}")  # noqa: TRY004 one error for all that gives no figure
    return float(plain)
