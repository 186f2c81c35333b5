"""From what a user has (tables, arrays, lists) to one array for each input of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.tensors import fit, rows_to_inputs
from mlflow_plugin.asking.served import Served

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PLUGIN_COLUMN = "inputs"
"""The one column of the files that NVIDIA's plugin takes for `predict`; the row's name is the tensor's."""
_WRAPPED = ("inputs", "instances")
_VALID = (
    "valid are a table (a data frame, a dictionary of columns, a list of records), one array or list for a model with one input, and a "
    "dictionary with an array for each input"
)


@dataclass(frozen=True)
class Question:
    """`arrays`: one for each input, as the server takes it. `by_tensor`: it was asked by the names of the inputs.

    `as_plugin`: in the form of NVIDIA's plugin, whose users look for the answer under `outputs`.
    """

    arrays: Mapping[str, np.ndarray]
    by_tensor: bool = False
    as_plugin: bool = False


def question(given: Any, to: Served, columns: Sequence[str] | None = None) -> Question:
    """The question that `given` is. `columns`: those of the model's signature, in its order.

    A file of MLflow's own (`dataframe_split`, `dataframe_records`, `inputs`, `instances`), read by pandas, is understood too.

    Raises:
        ValidationDataError: it does not fit the model's inputs; it tells what came and what is valid.

    """
    import pandas as pd

    as_plugin = isinstance(given, pd.DataFrame) and _is_plugins(given, to)
    if isinstance(given, pd.DataFrame):
        given = _unwrapped(given, to)
    if isinstance(given, Mapping):
        named = {str(name): value for name, value in given.items()}
        if _are_inputs(named, to):
            arrays = {spec.name: _fitted(named[spec.name], spec) for spec in _asked(to, named).inputs}
            return Question(arrays, by_tensor=True, as_plugin=as_plugin)
        given = _framed(named)
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)) and given and all(isinstance(row, Mapping) for row in given):
        given = _framed(list(given))
    if isinstance(given, pd.DataFrame):
        names = [str(name) for name in given.columns]
        return Question(rows_to_inputs(given.set_axis(names, axis=1), _asked(to, names), columns), by_tensor=set(names) <= _names(to))
    return Question(_alone(given, to))


def _names(to: Served) -> set[str]:
    return {spec.name for spec in to.servable.inputs}


def _are_inputs(names: Mapping[str, Any], to: Served) -> bool:
    """Whether these are the model's inputs, perhaps without optional ones."""
    return bool(names) and set(names) <= _names(to) and _names(to) - to.optional <= set(names)


def _asked(to: Served, names: Any) -> Servable:
    """The servable without the optional inputs that are not given."""
    left_out = to.optional - set(names)
    return to.servable.model_copy(update={"inputs": tuple(spec for spec in to.servable.inputs if spec.name not in left_out)})


def _is_plugins(frame: pd.DataFrame, to: Served) -> bool:
    one_column = [str(name) for name in frame.columns] == [PLUGIN_COLUMN]
    return one_column and _are_inputs({str(name): None for name in frame.index}, to)


def _unwrapped(frame: pd.DataFrame, to: Served) -> Any:
    """What a file means that pandas has read as a table of one column; any other table as it is."""
    import pandas as pd

    if len(frame.columns) != 1:
        return frame
    (name,), index, cells = map(str, frame.columns), [str(label) for label in frame.index], list(frame.iloc[:, 0])
    if _is_plugins(frame, to):
        return dict(zip(index, cells, strict=True))
    if name == "dataframe_split" and {"columns", "data"} <= set(index):
        split = dict(zip(index, cells, strict=True))
        return pd.DataFrame(split["data"], columns=split["columns"])
    if name == "dataframe_records":
        return cells
    if name in _WRAPPED and name not in _names(to) and len(to.servable.inputs) == 1:
        return cells
    return frame


def _framed(given: Any) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.DataFrame(given)
    except (ValueError, TypeError) as error:
        raise ValidationDataError(f"the inputs are no table: {error}; {_VALID}") from None


def _alone(given: Any, to: Served) -> dict[str, np.ndarray]:
    """An array or a list, for the model's only input."""
    import numpy as np

    required = [spec for spec in to.servable.inputs if spec.name not in to.optional] or list(to.servable.inputs)
    if not isinstance(given, (np.ndarray, np.generic, list, tuple, int, float)) or len(required) != 1:
        raise ValidationDataError(
            f"{type(given).__name__} is no question for `{to.model}`, which takes {_told(to.servable.inputs)}: {_VALID}"
        )
    return {required[0].name: _fitted(given, required[0])}


def _fitted(given: Any, spec: TensorSpec) -> np.ndarray:
    import numpy as np

    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValidationDataError(f"the input `{spec.name}`: its rows differ in length ({error})") from None
    return fit(array, spec, what=f"the input `{spec.name}`")


def _told(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"`{spec.name}` {spec.datatype}{list(spec.shape)}" for spec in specs)
