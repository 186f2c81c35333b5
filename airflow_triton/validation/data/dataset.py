"""The rows that a candidate is asked, in parts: however many there are, one part is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PART_ROWS = 8_192
"""Rows of a part."""


@dataclass(frozen=True)
class Part:
    """Some rows of a dataset, the first of them number `start`.

    `inputs`: one array for each input of the servable, shaped as the model takes it, batch axis included. `labels`: one for each row, or
    None. `table`: the columns of the table that the rows came from, without labels, recorded answers and columns whose cells hold several
    values (empty for rows that came as arrays); what is missing is NaN among numbers and booleans, NaT among times, None among texts.
    `answers`: the outputs that were recorded with them (empty where none were).
    """

    start: int
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    table: Mapping[str, np.ndarray] = field(default_factory=dict)
    answers: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The length of the first axis that the inputs share; 1 for inputs without axes."""
        return min((array.shape[0] for array in self.inputs.values() if array.ndim), default=1)


@dataclass(frozen=True)
class Dataset:
    """Rows that were read, found to fit the servable, and written as parts: .npz files in `folder`, in their order.

    `rows` is their number in all, `labelled` and `recorded` say whether they have labels and recorded answers; `inputs` are the .npz
    files that hold nothing but the inputs of each part (what `convert.reference` takes). `columns` are the names
    in the `table` of each part.
    """

    origin: str
    rows: int
    inputs: tuple[Path, ...]
    labelled: bool = False
    recorded: bool = False
    columns: tuple[str, ...] = ()

    def parts(self) -> Iterator[Part]:
        """Each part in its turn, read when it is asked for."""
        from airflow_triton.validation.data.parts import read_part

        start = 0
        for path in self.inputs:
            part = read_part(path, start)
            yield part
            start += part.rows

    def labels(self) -> Iterator[np.ndarray]:
        """The labels of each part in its turn, without its inputs; none where there are no labels."""
        from airflow_triton.validation.data.parts import read_labels

        for path in self.inputs if self.labelled else ():
            yield read_labels(path)
