"""The parts of a dataset on disk: the inputs of each in one .npz file, what goes with them in another beside it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.tensors import load_arrays, save_arrays
from airflow_triton.validation.data.dataset import Part

if TYPE_CHECKING:
    import numpy as np

_LABELS, _TABLE, _MISSING, _ANSWER = "labels", "table/", "missing/", "answer/"


def write_part(folder: Path, number: int, part: Part) -> Path:
    """Write a part as the one with this number; answer the file of its inputs. Texts come back as texts, nothing is pickled."""
    path = folder / f"part-{number:06}.npz"
    save_arrays(path, dict(part.inputs))
    rest = {f"{_TABLE}{name}": array for name, array in part.table.items()}
    rest |= {f"{_MISSING}{name}": _is_none(array) for name, array in part.table.items() if array.dtype.kind == "O"}
    rest |= {f"{_ANSWER}{name}": array for name, array in part.answers.items()}
    if part.labels is not None:
        rest[_LABELS] = part.labels
    if rest:
        save_arrays(_beside(path), rest)
    return path


def read_part(path: Path, start: int) -> Part:
    """The part whose inputs are in this file; `start` is the number of its first row. Its `table` is read when someone looks into it."""
    beside = _beside(path)
    has_rest = beside.exists()
    rest = load_arrays(beside, only=lambda name: name == _LABELS or name.startswith(_ANSWER)) if has_rest else {}
    return Part(
        start=start,
        inputs=load_arrays(path),
        labels=rest.get(_LABELS),
        table=_Table(beside) if has_rest else {},
        answers=_below(_ANSWER, rest),
    )


def read_labels(path: Path) -> np.ndarray[Any, Any]:
    """The labels of the part whose inputs are in this file."""
    return load_arrays(_beside(path), only=lambda name: name == _LABELS)[_LABELS]


class _Table(Mapping[str, Any]):
    """The columns that a file holds, read at the first look: most checks need none of them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray[Any, Any]]:
        found = load_arrays(self._path, only=lambda name: name.startswith((_TABLE, _MISSING)))
        columns = _below(_TABLE, found)
        for name, missing in _below(_MISSING, found).items():
            columns[name][missing] = None
        return columns

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _is_none(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.array([value is None for value in array], dtype=bool)


def _below(prefix: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}-rest.npz")
