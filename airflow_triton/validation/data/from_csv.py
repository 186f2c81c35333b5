"""Reader of CSV files: the kind of a column is that of the whole column, although a few thousand rows are read at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.validation.data.dataset import PART_ROWS
from airflow_triton.validation.data.tables import Table
from airflow_triton.validation.data.wanted import Wanted

if TYPE_CHECKING:
    import pandas as pd

_TEXT = "object"
_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""What pandas takes for a missing value, unless it is told otherwise."""


def csv(path: Path, wanted: Wanted) -> Table:
    """A CSV file with a header. It is read twice: first to learn the kinds of its columns and to count its rows.

    A column whose cells are all numbers, or all `True` or `False`, is one of numbers or booleans, in which an empty cell, `NA`, `NaN`,
    `null` and the like are missing. Every other column, and whatever the servable takes as text, is text, and `NA` in it is a text. An
    empty cell is an empty text where the servable takes it, and missing elsewhere.
    """
    file = _Csv(path, wanted)
    return Table(wanted, file.frames, lambda: file.rows)


@dataclass
class _Csv:
    path: Path
    wanted: Wanted
    _kinds: dict[str, str] = field(default_factory=dict)
    _rows: int = -1

    @property
    def rows(self) -> int:
        self._survey()
        return self._rows

    def frames(self) -> Iterator[pd.DataFrame]:
        self._survey()
        text = self._taken_as_text(list(self._kinds))
        only_empty = {name: [""] for name, kind in self._kinds.items() if kind == _TEXT and name not in text}
        usual = {name: [*_MISSING] for name, kind in self._kinds.items() if kind != _TEXT and name not in text}
        kinds: Any = {name: _TEXT if name in text else kind for name, kind in self._kinds.items()}
        yield from self._read(dtype=kinds, na_values={**only_empty, **usual})

    def _survey(self) -> None:
        if self._rows >= 0:
            return
        found: dict[str, set[str]] = {}
        rows = 0
        for frame in self._read(na_values=[*_MISSING]):
            rows += len(frame)
            for name, dtype in frame.dtypes.items():
                found.setdefault(str(name), set()).add(dtype.name if dtype.kind in "biuf" else _TEXT)
        self._kinds = {name: _joined(kinds) for name, kinds in found.items()}
        self._rows = rows

    def _taken_as_text(self, names: list[str]) -> set[str]:
        """The columns that the servable takes, or gives, as text: those of its names, or all features for one matrix of texts."""
        servable, label = self.wanted.servable, self.wanted.label
        outputs = set(self.wanted.outputs_in(names))
        matrix = servable.inputs[0] if len(servable.inputs) == 1 and len(servable.inputs[0].shape) == 2 else None  # noqa: PLR2004
        text = {tensor.name for tensor in servable.inputs if tensor.datatype == "BYTES"}
        text |= {tensor.name for tensor in servable.outputs if tensor.datatype == "BYTES" and tensor.name in outputs}
        if matrix and matrix.datatype == "BYTES":
            text |= set(names) - outputs - {label}
        return text & (set(names) - {label})

    def _read(self, **options: Any) -> Iterator[pd.DataFrame]:
        import pandas as pd

        with pd.read_csv(self.path, chunksize=PART_ROWS, low_memory=False, keep_default_na=False, index_col=False, **options) as reader:
            while (frame := _next(reader)) is not None:
                yield frame


def _next(reader: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
    """The next rows; ValueError where they have cells that belong to no column, which pandas drops with a warning."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return next(reader, None)
        except pd.errors.ParserWarning:
            raise ValueError("its rows have more cells than its header has names") from None


def _joined(kinds: set[str]) -> str:
    """The kind of a column, of the kinds that were found in its parts."""
    import numpy as np

    if len(kinds) > 1 and kinds & {_TEXT, "bool"}:
        return _TEXT
    return np.result_type(*kinds).name if len(kinds) > 1 else next(iter(kinds))
