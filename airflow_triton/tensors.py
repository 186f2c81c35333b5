"""Tensors as numpy arrays: the map of element types, exact casts, tables to inputs, and the .npz files between processes.

BYTES tensors are object arrays of `str` in memory (what onnxruntime and Triton's client take) and plain unicode arrays in
an .npz, so that no file needs a pickle to be read. BF16, which numpy lacks, is float32, as in Triton's own client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import DataType, Servable, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

NUMPY_TYPES: dict[DataType, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "float32",
    "BYTES": "object",
}
"""The numpy dtype of each of Triton's element types (https://github.com/triton-inference-server/server, model_configuration)."""

_DATATYPES: dict[str, DataType] = {dtype: datatype for datatype, dtype in NUMPY_TYPES.items() if datatype != "BF16"}


def datatype_of(dtype: Any) -> DataType | None:
    """Triton's name of a numpy dtype; strings of any kind are BYTES, None is a dtype that Triton does not have."""
    import numpy as np

    known = np.dtype(dtype)
    return "BYTES" if known.kind in "OUS" else _DATATYPES.get(known.name)


def cast(values: Any, datatype: DataType) -> np.ndarray[Any, Any]:
    """The values as an array of exactly this element type.

    Guarantee: what the type cannot hold is refused, not altered: a fraction or NaN for an integer, a number out of range, a
    text for a number. A float is rounded to a smaller float type (that is what FP32 means); text and bytes become `str`.

    Raises:
        ValueError: a value does not fit the type.

    """
    import numpy as np

    given = np.asarray(values)
    if datatype == "BYTES":
        return _texts(given)
    wanted = np.dtype(NUMPY_TYPES[datatype])
    if given.dtype == wanted:
        return given
    if given.dtype.kind not in "biufO" or (given.dtype.kind == "O" and any(isinstance(v, (str, bytes)) for v in given.flat)):
        raise ValueError(f"{'text' if given.dtype.kind in 'OUS' else given.dtype} where {datatype} is needed")
    try:
        with np.errstate(all="ignore"):
            array: np.ndarray[Any, Any] = given.astype(wanted)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not {datatype}: {error}") from error
    if wanted.kind in "iub" and not np.array_equal(array, given):
        raise ValueError(f"values that {datatype} cannot hold (fractions, missing values or numbers out of range)")
    return array


def _texts(given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if given.dtype.kind not in "OUS":
        raise ValueError(f"{given.dtype} where text (BYTES) is needed")
    array = np.empty(given.shape, dtype=object)
    for index, value in np.ndenumerate(given):
        if not isinstance(value, (str, bytes)):
            raise ValueError(f"{value!r} where text (BYTES) is needed")  # noqa: TRY004 - one error for all that does not fit
        array[index] = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    return array


def plain_texts(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array, its texts as `str` whether they came as bytes or as text; other element types as they are."""
    import numpy as np

    if array.dtype != object and array.dtype.kind not in "SU":
        return array
    flat = [item.decode(errors="surrogateescape") if isinstance(item, bytes) else str(item) for item in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write an .npz that can be read without pickle."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(path, "w") as archive:  # numpy's own `savez` cannot hold a tensor whose name is `file`
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array.astype(str) if array.dtype.kind == "O" else array, allow_pickle=False)


def load_arrays(path: Path, *, only: Callable[[str], bool] = lambda _: True) -> dict[str, np.ndarray[Any, Any]]:
    """Read an .npz without pickle; text comes back as object arrays of `str`. `only`: whether an array of this name is wanted.

    Raises:
        ValidationDataError: the file is no .npz, or needs pickle.

    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if only(name)}
        return {name: array.astype(object) if array.dtype.kind in "US" else array for name, array in arrays.items()}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValidationDataError(f"{path} cannot be read as an .npz of plain arrays: {error}") from error


def rows_to_inputs(frame: pd.DataFrame, servable: Servable, columns: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """One array per input of the servable, batch axis included, from a table with one row per request row.

    A servable with one matrix [-1, n] that no column is named after takes the columns side by side; otherwise each input
    takes the column of its name, whose cells may be lists or arrays where the input has more axes.

    Args:
        frame: the table, without labels.
        servable: what the inputs are for.
        columns: the columns that the model was logged with, in its order (its signature's). They give a matrix its order,
            and those that no input takes are allowed in the table and ignored. Default: the table's own columns.

    Raises:
        ValidationDataError: columns are missing or unexpected (each named), or a value does not fit its input.

    """
    import numpy as np

    present = [str(name) for name in frame.columns]
    matrix = _matrix(servable, present)
    needed = list(columns or present) if matrix else [spec.name for spec in servable.inputs]
    missing = [name for name in needed if name not in present]
    unexpected = [name for name in present if name not in {*needed, *(columns or ())}]
    if missing or unexpected:
        raise ValidationDataError(
            f"the table's columns do not fit the model: missing {missing or 'none'}, unexpected {unexpected or 'none'}; "
            f"the model takes {needed}"
        )
    parts = {name: frame.iloc[:, present.index(name)].to_numpy() for name in needed}
    if matrix is None:
        return {spec.name: fit(_cells(parts[spec.name]), spec, what=f"column {spec.name!r}") for spec in servable.inputs}
    stacked = np.empty((len(frame), len(needed)), dtype=NUMPY_TYPES[matrix.datatype])
    for position, (name, values) in enumerate(parts.items()):
        stacked[:, position] = _cast(values, matrix.datatype, f"column {name!r}")
    return {matrix.name: fit(stacked, matrix, what=f"the {len(needed)} columns {needed}")}


def _matrix(servable: Servable, present: Sequence[str]) -> TensorSpec | None:
    """The one matrix that takes all columns side by side, if that is what the servable has."""
    first = servable.inputs[0]
    alone = len(servable.inputs) == 1 and len(first.shape) == 2  # noqa: PLR2004 - a matrix has two axes
    return first if alone and (first.name not in present or len(present) > 1) else None


def _cells(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if values.dtype.kind == "O" and len(values) and isinstance(values[0], (list, tuple, np.ndarray)):
        try:
            return np.stack([np.asarray(value) for value in values])
        except ValueError:
            return values  # rows of different lengths: `fit` says so
    return values


def fit(values: Any, spec: TensorSpec, *, what: str) -> np.ndarray[Any, Any]:
    """The values as an array of the spec's element type and a shape that the spec allows.

    Axes of length 1 are added or dropped where only they stand between the two shapes ([n] for [-1, 1], and back).

    Raises:
        ValidationDataError: naming `what`, its shape or values, and what the spec takes.

    """
    array = _cast(values, spec.datatype, what)
    if not fits(array.shape, spec.shape) and spec.shape.count(-1) <= 1:
        squeezed = [size for size in array.shape if size != 1]
        if squeezed == [size for size in _resolved(array.size, spec.shape) if size != 1]:
            array = array.reshape(spec.shape)
    if not fits(array.shape, spec.shape):
        raise ValidationDataError(f"{what}: shape {list(array.shape)} does not fit {spec.name!r} {list(spec.shape)}")
    return array


def fits(actual: Sequence[int], allowed: Sequence[int]) -> bool:
    """Whether a shape is one of those that a spec's shape, with its -1, allows."""
    return len(actual) == len(allowed) and all(want in (-1, size) for size, want in zip(actual, allowed, strict=True))


def _resolved(count: int, shape: Sequence[int]) -> list[int]:
    fixed = 1
    for size in shape:
        fixed *= size if size != -1 else 1
    return [count // fixed if size == -1 and fixed else size for size in shape]


def _cast(values: Any, datatype: DataType, what: str) -> np.ndarray[Any, Any]:
    try:
        return cast(values, datatype)
    except ValueError as error:
        raise ValidationDataError(f"{what}: {error}") from error
