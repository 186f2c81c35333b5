"""From the arrays that Triton answers to the shape that the model's signature promises; and to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.mlmodel import Field
from airflow_triton.tensors import plain_texts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MATRIX = 2


def shaped(outputs: Mapping[str, Array], fields: Sequence[Field] | None) -> Any:
    """The outputs as the signature's `fields` have them, texts as `str`.

    Columns with names: a data frame. Tensors with names: a dictionary of arrays. One column or tensor without a name: an array, of the only
    output, or of the first that has as many axes. No signature, or one that names what is not there: a dictionary of all outputs.
    """
    answer = {name: plain_texts(array) for name, array in outputs.items()}
    if not fields:
        return answer
    if len(fields) == 1 and fields[0].name is None:
        return _alone(answer, fields[0])
    names = [str(field.name) for field in fields]
    if all(field.shape is not None for field in fields):
        return {name: answer[name] for name in names} if set(names) <= set(answer) else answer
    return _table(answer, names)


def _alone(answer: Mapping[str, Array], field: Field) -> Array | Mapping[str, Array]:
    axes = 1 if field.shape is None else len(field.shape)
    fitting = [array for array in answer.values() if array.ndim == axes or _as_column(array, axes) is not None]
    if not fitting:
        return answer
    column = _as_column(fitting[0], axes)
    return fitting[0] if column is None else column


def _as_column(array: Array, axes: int) -> Array | None:
    """[n, 1] as [n], where one axis is wanted."""
    return array.reshape(-1) if axes == 1 and array.ndim == _MATRIX and array.shape[1] == 1 else None


def _table(answer: dict[str, Array], names: Sequence[str]) -> Any:
    import pandas as pd

    if set(names) <= set(answer):
        return pd.DataFrame({name: _cells(answer[name]) for name in names})
    only = next(iter(answer.values()))
    if len(answer) == 1 and only.ndim == _MATRIX and only.shape[1] == len(names):
        return pd.DataFrame(only, columns=list(names))
    return answer


def _cells(array: Array) -> Any:
    """A column of a table: one value for each row, or a list of them."""
    column = _as_column(array, 1)
    if column is not None:
        return column
    return array if array.ndim == 1 else list(array)


def as_json(answer: Any) -> Any:
    """A shaped answer as MLflow's scoring server writes it: a table as records, an array as lists; everything plain Python."""
    import numpy as np
    import pandas as pd

    if isinstance(answer, pd.DataFrame):
        return [{str(name): as_json(value) for name, value in row.items()} for row in answer.to_dict(orient="records")]
    if isinstance(answer, Mapping):
        return {name: as_json(value) for name, value in answer.items()}
    return answer.tolist() if isinstance(answer, (np.ndarray, np.generic)) else answer
