"""The rows that a candidate is asked: from a file, or the model's own input example."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_TABLES = (".parquet", ".csv", ".json")


@dataclass(frozen=True)
class Dataset:
    """`inputs`: one array for each input of the servable, full shape, batch axis included. `labels`: one for each row, or None."""

    origin: str
    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """The length of the first axis that the inputs share; 1 for inputs without axes."""
        return min((array.shape[0] for array in self.inputs.values() if array.ndim), default=1)


def load_dataset(path: str | Path, servable: Servable, *, label: str = "label", columns: Sequence[str] | None = None) -> Dataset:
    """Read rows for `servable` from a file.

    An `.npz` holds one array for each input, named as the input and shaped as the server takes it, batch axis included. A table
    (`.csv`, `.parquet`, `.json` in records) has a column for each feature or input; `columns` is their order where the
    servable takes one matrix (default: the file's). The array or column called `label` holds the labels, where there is one.

    Raises:
        ValidationDataError: no such file, another kind of file, empty, or it does not fit the servable's inputs.

    """
    path = Path(path)
    if not path.is_file():
        raise ValidationDataError(f"there is no data file {path} to validate with (`validate.data`)")
    if path.suffix == ".npz":
        dataset = _from_arrays(path, servable, label)
    elif path.suffix in _TABLES:
        dataset = _from_table(path, servable, label, columns)
    else:
        raise ValidationDataError(f"{path}: unknown kind of data; valid: .npz, {', '.join(_TABLES)}")
    if dataset.rows == 0:
        raise ValidationDataError(f"{path} has no rows: nothing can be validated with it")
    lengths = {name: array.shape[0] for name, array in dataset.inputs.items() if array.ndim}
    if servable.batching and len(set(lengths.values())) > 1:
        raise ValidationDataError(f"{path}: the inputs differ in their number of rows: {lengths}")
    if dataset.labels is not None and len(dataset.labels) != dataset.rows:
        raise ValidationDataError(f"{path}: {len(dataset.labels)} labels for {dataset.rows} rows")
    return dataset


def _from_arrays(path: Path, servable: Servable, label: str) -> Dataset:
    from airflow_triton.tensors import fit, load_arrays

    arrays = load_arrays(path)
    labels = arrays.pop(label, None)
    wanted = [tensor.name for tensor in servable.inputs]
    if sorted(arrays) != sorted(wanted):
        raise ValidationDataError(f"{path} holds the arrays {sorted(arrays)}, the model takes {sorted(wanted)} (and labels in `{label}`)")
    inputs = {tensor.name: fit(arrays[tensor.name], tensor, what=f"{path}: `{tensor.name}`") for tensor in servable.inputs}
    for name, array in arrays.items():
        if servable.batching and array.shape[:1] != inputs[name].shape[:1]:
            raise ValidationDataError(f"{path}: `{name}` is shaped {list(array.shape)}: its rows are no rows of {list(inputs[name].shape)}")
    return Dataset(str(path), inputs, labels)


def _from_table(path: Path, servable: Servable, label: str, columns: Sequence[str] | None) -> Dataset:
    import pandas as pd

    from airflow_triton.tensors import rows_to_inputs

    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": pd.read_csv,
        ".parquet": pd.read_parquet,
        ".json": lambda where: pd.DataFrame(_records(where)),
    }
    try:
        frame = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise ValidationDataError(f"{path} cannot be read as a table: {error}") from None
    labels = frame.pop(label).to_numpy() if label in frame else None
    try:
        dataset = Dataset(str(path), rows_to_inputs(frame, servable, columns), labels)
    except ValidationDataError as error:
        raise ValidationDataError(f"{path}: {error}") from None
    if servable.batching and dataset.rows != len(frame):
        shapes = {name: list(array.shape) for name, array in dataset.inputs.items()}
        raise ValidationDataError(f"{path}: {len(frame)} rows of the columns {list(frame.columns)} are no rows of the inputs {shapes}")
    return dataset


def _records(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON file as they are written: pandas' own reader takes digits in quotes for numbers and guesses dates."""
    rows = json.loads(path.read_bytes())
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of records")
    return rows
