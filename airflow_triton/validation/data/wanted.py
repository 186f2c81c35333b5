"""What rows are read for, and what every reader of them is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.validation.data.dataset import Part

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Wanted:
    """What the rows are read for.

    `origin` is how errors call the data; `label` the column or array with the labels (None: labels are not looked for); `columns` the order
    of the columns where the servable takes one matrix (None: the file's own).
    """

    origin: str
    servable: Servable
    label: str | None = None
    columns: tuple[str, ...] | None = None

    def outputs_in(self, names: list[str]) -> list[str]:
        """Which of the names are recorded answers: those of the servable's outputs that are neither labels nor columns of the model."""
        taken = {tensor.name for tensor in self.servable.inputs} | set(self.columns or ()) | {self.label}
        return [tensor.name for tensor in self.servable.outputs if tensor.name in names and tensor.name not in taken]

    def rows(self, start: int, end: int) -> str:
        """These rows in an error: nothing but the origin for the first ones, which may be all."""
        return self.origin if start == 0 else f"{self.origin} (rows {start} to {end - 1})"

    def labels(self, values: np.ndarray, start: int) -> np.ndarray:
        """The labels of the rows from number `start` on; ValidationDataError where one is missing."""
        import numpy as np
        import pandas as pd

        missing = np.asarray(pd.isna(values)).reshape(len(values), -1).any(axis=1)
        if missing.any():
            row = start + int(np.argmax(missing))
            raise ValidationDataError(f"{self.origin}: row {row} has no label in `{self.label}`: fill it in, or leave the row out")
        return values


class Source(Protocol):
    """A file that is read in parts of any size: each is held against the servable as it is read.

    `joined`: the parts are rows of one long request; else each of them is a request that stays whole.
    """

    joined: bool

    def count(self) -> int:
        """How many rows there are (of requests that stay whole: how many requests)."""

    def parts(self) -> Iterator[Part]:
        """Everything, from the beginning."""


@contextlib.contextmanager
def readable(origin: str, kind: str) -> Iterator[None]:
    """What a library raises on a file that it cannot read, as a ValidationDataError."""
    try:
        yield
    except (OSError, ValueError, EOFError, NotImplementedError, OverflowError, MemoryError) as error:
        raise ValidationDataError(f"{origin} cannot be read as {kind}: {error}") from None
    except ImportError as error:
        raise ValidationDataError(
            f"{origin} cannot be read as {kind} without {error.name}: pip install 'airflow-provider-triton[convert]'"
        ) from None
