"""What a converted model and its original are both asked: the input example, other rows like it, and edge cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.base import Arrays
from airflow_triton.convert.probe import rows_of, shape_for, varied
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.tensors import NUMPY_TYPES

if TYPE_CHECKING:
    import numpy as np

EXAMPLE = "the input example"
ROWS = 4
"""Rows of a made-up request where there is no example to take the number from."""


@dataclass(frozen=True)
class Case:
    """One request. `must`: both models have to answer it; of the others, only those count that the original answers.

    `finite`: rows count only where the original gives finite numbers (a model that passes NaN on does not take it).
    """

    name: str
    inputs: Arrays
    must: bool = False
    finite: bool = False


def cases(servable: Servable, example: Arrays | None, *, largest: int, missing: bool) -> Iterator[Case]:
    """The requests for a servable, the example first; each input has its full shape, batch axis included.

    Args:
        servable: what is asked.
        example: the model's input example as the servable takes it, or None.
        largest: the rows of the largest batch; for a servable that batches.
        missing: whether NaN may mean a missing value.

    """
    base = example or made_up(servable, ROWS)
    if example:
        yield Case(EXAMPLE, example, must=True)
    yield Case("made-up rows", _like(base, servable), must=False)
    if servable.batching:
        yield Case("a batch of 1", _rows(base, servable, 1), must=bool(example))
        yield Case(f"a batch of {largest}", _rows(_like(base, servable), servable, largest))
    if texts := [spec.name for spec in servable.inputs if spec.datatype == "BYTES"]:
        yield Case("empty strings", {**base, **{name: _full(base[name], "") for name in texts}})
    floats = [spec.name for spec in servable.inputs if spec.datatype in ("FP16", "FP32", "FP64", "BF16")]
    if missing and floats:
        yield Case("missing values (NaN)", {**base, **{name: _with_gaps(base[name]) for name in floats}}, finite=True)


def made_up(servable: Servable, rows: int) -> Arrays:
    """Rows that differ, of the shapes that the servable declares; axes that may vary have a small size."""
    return {spec.name: varied(spec, shape_for(spec, rows)) for spec in servable.inputs}


def _rows(arrays: Arrays, servable: Servable, count: int) -> Arrays:
    return {spec.name: rows_of(arrays[spec.name], spec, (count,)) for spec in servable.inputs}


def _like(arrays: Arrays, servable: Servable) -> Arrays:
    """Rows of the same kind, in the reverse order: numbers with a fraction are moved by a tenth of their spread.

    Whole numbers, flags and texts stay with their rows: they may be codes, or say where another input ends (a mask).
    """
    return {spec.name: _shaken(arrays[spec.name], spec) for spec in servable.inputs}


def _shaken(array: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any]:
    import numpy as np

    if not array.ndim or not array.size:
        return array
    mixed = array[::-1]
    if array.dtype.kind != "f" or np.array_equal(np.trunc(array), array, equal_nan=True):
        return np.ascontiguousarray(mixed)
    random = np.random.default_rng(len(spec.name))
    spread = np.nanstd(mixed.astype(np.float64)) or 1.0
    return np.asarray(mixed + random.normal(scale=spread / 10, size=mixed.shape), dtype=NUMPY_TYPES[spec.datatype])


def _full(array: np.ndarray[Any, Any], value: str) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.full(array.shape, value, dtype=object)


def _with_gaps(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One element of each row is NaN, another one in each; of a lone column, every other row."""
    import numpy as np

    gaps = np.array(array)
    if not gaps.ndim:
        return np.full_like(gaps, np.nan)
    if gaps.ndim < 2 or gaps[0].size < 2:  # noqa: PLR2004 - one element a row
        gaps[::2] = np.nan
        return gaps
    flat = gaps.reshape(len(gaps), -1)
    flat[np.arange(len(flat)), np.arange(len(flat)) % flat.shape[1]] = np.nan
    return flat.reshape(gaps.shape)
