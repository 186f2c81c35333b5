"""From a table, frame by frame, to the inputs of a servable, with the labels, recorded answers and columns beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import TensorSpec
from airflow_triton.validation.data.columns import plain, stacked
from airflow_triton.validation.data.dataset import Part
from airflow_triton.validation.data.wanted import Wanted, readable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass
class Table:
    """A table that `frames` reads from the beginning, some rows at a time; `rows` counts them."""

    wanted: Wanted
    frames: Callable[[], Iterator[pd.DataFrame]]
    rows: Callable[[], int]
    joined: bool = True

    def count(self) -> int:
        """See `Source`."""
        with readable(self.wanted.origin, "a table"):
            return self.rows()

    def parts(self) -> Iterator[Part]:
        """See `Source`. A servable that does not batch takes the whole table at once."""
        import pandas as pd

        start = 0
        frames = self._frames()
        if not self.wanted.servable.batching:
            every = list(frames)
            frames = iter([pd.concat(every, ignore_index=True)] if every else [])
        for frame in frames:
            if len(frame):
                yield _part(frame, self.wanted, start)
                start += len(frame)

    def _frames(self) -> Iterator[pd.DataFrame]:
        frames = None
        while True:
            with readable(self.wanted.origin, "a table"):
                frames = self.frames() if frames is None else frames
                frame = next(frames, None)
            if frame is None:
                return
            yield frame


def _part(frame: pd.DataFrame, wanted: Wanted, start: int) -> Part:
    from airflow_triton.tensors import rows_to_inputs

    frame = frame.rename(columns=str)
    if twice := sorted(frame.columns[frame.columns.duplicated()].unique()):
        raise ValidationDataError(f"{wanted.origin} has the columns {twice} more than once")
    where = wanted.rows(start, start + len(frame))
    labels = _labels(frame.pop(wanted.label), wanted, start) if wanted.label is not None and wanted.label in frame.columns else None
    answers = {name: frame.pop(name) for name in wanted.outputs_in(list(frame.columns))}
    try:
        inputs = rows_to_inputs(frame, wanted.servable, wanted.columns)
        outputs = [tensor for tensor in wanted.servable.outputs if tensor.name in answers]
        recorded = {tensor.name: _answer(answers[tensor.name], tensor) for tensor in outputs}
    except ValidationDataError as error:
        raise ValidationDataError(f"{where}: {error}") from None
    part = Part(
        start=start,
        inputs=inputs,
        labels=labels,
        table={name: values for name in frame.columns if (values := plain(frame[name])) is not None},
        answers=recorded,
    )
    if (wanted.servable.batching or labels is not None) and part.rows != len(frame):
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        raise ValidationDataError(f"{where}: {len(frame)} rows of the columns {list(frame.columns)} are no rows of the inputs {shapes}")
    return part


def _labels(column: pd.Series, wanted: Wanted, start: int) -> np.ndarray:
    try:
        values = stacked(column)
    except ValueError as error:
        raise ValidationDataError(f"{wanted.origin}: the labels in `{wanted.label}` cannot be used: {error}") from None
    return wanted.labels(values, start)


def _answer(column: pd.Series, tensor: TensorSpec) -> np.ndarray:
    from airflow_triton.tensors import fit

    what = f"the recorded answers in column {tensor.name!r}"
    try:
        array = fit(stacked(column), tensor, what=what)
    except ValueError as error:
        raise ValidationDataError(f"{what}: {error}") from None
    if array.shape[:1] != (len(column),):
        raise ValidationDataError(f"{what}: {len(column)} rows are not {list(array.shape)}")
    return array
