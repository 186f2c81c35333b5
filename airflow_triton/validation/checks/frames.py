"""The table that expectations are held against: the inputs joined with the predictions, one row for each row that was asked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.tensors import NUMPY_TYPES
from airflow_triton.validation.data import Part

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array = np.ndarray[Any, Any]

MOST_ROWS = 100_000
"""Great Expectations needs the whole table in memory. Of more rows it sees this many, drawn at random with a fixed seed."""

_TRIED_ROWS = 100


def columns_of(part: Part, answers: Mapping[str, Array], label: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The columns of these rows, and which of them are outputs.

    Inputs: the columns of the table that the rows came from; else each input [N] or [N, 1] is a column of its name, and [N, k] are
    NAME_0 to NAME_(k-1). Labels: a column of their name. Outputs likewise; one whose name is taken is called `predicted_NAME`.
    What has more axes, or no row for each row, is left out.
    """
    columns: dict[str, Array] = {name: _readable(array) for name, array in part.table.items()}
    if not part.table:
        for name, array in part.inputs.items():
            columns |= _split(name, array, part.rows)
    if part.labels is not None:
        columns.setdefault(label, _readable(part.labels.reshape(-1)))
    outputs: dict[str, Array] = {}
    for name, array in answers.items():
        free, split = name, _split(name, array, part.rows)
        while columns.keys() & split.keys():
            free = f"predicted_{free}"
            split = _split(free, array, part.rows)
        outputs |= split
    return columns | outputs, tuple(outputs)


def _split(name: str, array: Array, rows: int) -> dict[str, Array]:
    if array.ndim not in (1, 2) or array.shape[0] != rows:
        return {}
    plain = _readable(array)
    if plain.ndim == 1 or plain.shape[1] == 1:
        return {name: plain.reshape(-1)}
    return {f"{name}_{number}": plain[:, number] for number in range(plain.shape[1])}


def _readable(array: Array) -> Array:
    """Texts as `str` (a byte that is no UTF-8 as an escape, so that a page can show it), gaps among them as they are."""
    import numpy as np

    if array.dtype.kind not in "OSU":
        return array
    texts = np.empty(array.size, dtype=object)
    for number, value in enumerate(array.reshape(-1).tolist()):
        raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        texts[number] = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return texts.reshape(array.shape)


def _decimal(array: Array) -> Array:
    """FP16 and FP32 as the float64 that is written the same: the FP32 number 0.1 is not above 0.1."""
    import numpy as np

    return array.astype(str).astype(np.float64) if array.dtype in (np.float16, np.float32) else array


def tried(part: Part, servable: Servable, label: str, named: Collection[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The first rows with made-up outputs of the types and shapes that the servable declares, and the names of its output columns.

    An output whose width varies has as many columns as `named` wants of it.
    """
    import pandas as pd

    rows = min(part.rows, _TRIED_ROWS)
    head = Part(
        start=0,
        inputs={name: array[:rows] if array.shape[:1] == (part.rows,) else array for name, array in part.inputs.items()},
        labels=None if part.labels is None else part.labels[:rows],
        table={name: array[:rows] for name, array in part.table.items()},
    )
    answers = {tensor.name: _made_up(tensor, rows, part.rows, named) for tensor in servable.outputs if len(tensor.shape) in (1, 2)}
    columns, outputs = columns_of(head, answers, label)
    return pd.DataFrame({name: _decimal(array) for name, array in columns.items()}), outputs


def _made_up(tensor: TensorSpec, rows: int, all_rows: int, named: Collection[str]) -> Array:
    import numpy as np

    first, *rest = tensor.shape
    width = [_width(tensor.name, named) if size == -1 else size for size in rest]
    shape = [rows if first in (-1, all_rows) else first, *width]
    values = np.resize(np.arange(2), shape)
    return np.where(values == 0, "0", "1").astype(object) if tensor.datatype == "BYTES" else values.astype(NUMPY_TYPES[tensor.datatype])


def _width(name: str, named: Collection[str]) -> int:
    numbers = [int(found[1]) for column in named if (found := re.fullmatch(rf"(?:predicted_)*{re.escape(name)}_([0-9]+)", column))]
    return max(2, *(number + 1 for number in numbers)) if numbers else 1


class Rows:
    """Collects parts: `add` each, then ask for the `frame`. Missing values are counted over all rows, also those that are not kept.

    `total` is how many rows there will be; `kept` the columns that are kept (None: all of them).
    """

    def __init__(self, total: int, kept: Collection[str] | None) -> None:
        import numpy as np

        self.seen = 0
        self.missing: dict[str, int] = {}
        self.outputs: tuple[str, ...] = ()
        self._wanted = kept
        self._parts: dict[str, list[Array]] = {}
        self._chosen: Array | None = None
        if total > MOST_ROWS:
            self._chosen = np.zeros(total, dtype=bool)
            self._chosen[np.random.default_rng(0).choice(total, MOST_ROWS, replace=False)] = True

    def add(self, part: Part, answers: Mapping[str, Array], label: str) -> None:
        """One part, with the candidate's answers."""
        import pandas as pd

        columns, self.outputs = columns_of(part, answers, label)
        mask = slice(None) if self._chosen is None else self._chosen[self.seen : self.seen + part.rows]
        self.seen += part.rows
        for name, array in columns.items():
            self.missing[name] = self.missing.get(name, 0) + int(pd.isna(array).sum())
            if self._wanted is None or name in self._wanted:
                self._parts.setdefault(name, []).append(array[mask])

    @property
    def frame(self) -> pd.DataFrame:
        """What was kept, one row for each row."""
        import numpy as np
        import pandas as pd

        return pd.DataFrame({name: _decimal(np.concatenate(parts)) for name, parts in self._parts.items()})
