"""Look at what a graph really gives: run it on a few rows, and compare."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_triton.servable import TensorSpec
from airflow_triton.tensors import NUMPY_TYPES

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]
    Feed: TypeAlias = dict[str, Array]

log = logging.getLogger(__name__)

FEW, MORE = 2, 3
"""The two numbers of rows that are tried; neither is 1, which would broadcast where other sizes fail."""

SIZES = (5, 64, 1)
"""Sizes for the other axes that may vary, in the order tried: until the graph runs with one."""

SLOW_SECONDS = 5.0
"""A graph that takes longer for three rows is not run row by row as well."""


@dataclass(frozen=True)
class Seen:
    """The outputs of the runs that succeeded (each a list in the order of the graph), and whether rows are independent."""

    few: list[Array]
    more: list[Array] | None
    wider: list[Array] | None
    independent: bool


@dataclass
class Probe:
    """Runs one graph. `symbols` names the axes of each input as the graph does (None: no name)."""

    run: Callable[[Feed], list[Array]]
    inputs: Sequence[TensorSpec]
    symbols: Mapping[str, Sequence[str | None]]
    _batch_symbols: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._batch_symbols = {names[0] for names in self.symbols.values() if names and names[0]}

    def look(self, example: Feed | None) -> Seen | None:
        """Run on the example's rows or made-up ones, at two numbers of rows; None if the graph runs on none of them."""
        for recipe in self._recipes(example):
            for size in SIZES:
                few = self._try(self._feed(recipe, FEW, size))
                if few is not None:
                    return self._see(recipe, size, few)
        return None

    def _see(self, recipe: Callable[..., Array], size: int, few: list[Array]) -> Seen:
        feed = self._feed(recipe, MORE, size)
        start = time.monotonic()
        more = self._try(feed)
        slow = time.monotonic() - start > SLOW_SECONDS
        varying = any(-1 in spec.shape[1:] for spec in self.inputs)
        wider = self._try(self._feed(recipe, FEW, size + 1)) if varying else None
        independent = more is not None and (slow or self._rows_alone_agree(feed, more))
        return Seen(few, more, wider, independent)

    def _rows_alone_agree(self, feed: Feed, together: list[Array]) -> bool:
        import numpy as np

        if any(not array.shape or array.shape[0] != MORE for array in (*feed.values(), *together)):
            return False
        again = self._try(feed)
        if again is None or not all(map(_close, again, together)):
            return True  # the graph is random: its rows cannot be compared, and are not refused for that
        rows = [self._try({name: array[row : row + 1] for name, array in feed.items()}) for row in range(MORE)]
        alone = [row for row in rows if row is not None and all(array.shape[:1] == (1,) for array in row)]
        if len(alone) != MORE:
            return False
        joined = [np.concatenate([row[index] for row in alone]) for index in range(len(together))]
        return all(map(_close, joined, together))

    def _try(self, feed: Feed) -> list[Array] | None:
        try:
            return self.run(feed)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base; not running is an answer here
            log.debug("the graph does not run on %s: %s", {n: a.shape for n, a in feed.items()}, error)
            return None

    def _feed(self, recipe: Callable[..., Array], rows: int, size: int) -> Feed:
        return {spec.name: recipe(spec, self._shape(spec, rows, size)) for spec in self.inputs}

    def _shape(self, spec: TensorSpec, rows: int, size: int) -> tuple[int, ...]:
        names = self.symbols.get(spec.name) or [None] * len(spec.shape)
        return tuple(
            known if known != -1 else rows if axis == 0 or name in self._batch_symbols else size
            for axis, (known, name) in enumerate(zip(spec.shape, names, strict=True))
        )

    def _recipes(self, example: Feed | None) -> Iterator[Callable[..., Array]]:
        if example is not None and all(array.size for array in example.values()):
            yield lambda spec, shape: rows_of(example[spec.name], spec, shape)
        yield varied
        yield lambda spec, shape: _constant(spec, shape, 0)
        yield lambda spec, shape: _constant(spec, shape, 1)


def rows_of(array: Array, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """As many rows as `shape` says, repeated or cut; a tensor whose first axis is fixed stays as it is."""
    if not spec.shape or spec.shape[0] != -1:
        return array
    import numpy as np

    return array[np.arange(shape[0]) % len(array)]


def shape_for(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """A shape that the spec allows: so many rows, and a small size for the other axes that may vary."""
    return tuple(known if known != -1 else rows if axis == 0 else SIZES[0] for axis, known in enumerate(spec.shape))


def varied(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Rows that differ: fractions for floats, 0 and 1 for everything else."""
    import numpy as np

    dtype = NUMPY_TYPES[spec.datatype]
    if np.dtype(dtype).kind == "f":
        return np.asarray(np.random.default_rng(len(shape)).random(shape), dtype=dtype)
    ones = (np.indices(shape).sum(axis=0) if shape else np.zeros(())) % 2
    return _texts(ones) if spec.datatype == "BYTES" else np.asarray(ones, dtype=dtype)


def _constant(spec: TensorSpec, shape: tuple[int, ...], value: int) -> Array:
    import numpy as np

    full = np.full(shape, value, dtype="int8")
    return _texts(full) if spec.datatype == "BYTES" else full.astype(NUMPY_TYPES[spec.datatype])


def _texts(numbers: Array) -> Array:
    import numpy as np

    return np.asarray(numbers.astype("int8").astype(str), dtype=object)


def _close(left: Array, right: Array) -> bool:
    """Equal but for rounding: a graph may add in another order when it has other rows beside."""
    import numpy as np

    if left.shape != right.shape:
        return False
    if left.dtype.kind != "f":
        return bool(np.array_equal(left, right))
    tolerance = 2e-2 if left.dtype.itemsize == 2 else 1e-3  # noqa: PLR2004 - two bytes are FP16
    finite = np.abs(right[np.isfinite(right)])
    scale = float(finite.max()) if finite.size else 1.0
    return bool(np.allclose(left, right, rtol=tolerance, atol=tolerance * scale, equal_nan=True))
