"""Reader of .npz files: one array for each input, some rows at a time where the servable batches."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import TensorSpec
from airflow_triton.tensors import fit, load_arrays
from airflow_triton.validation.data.dataset import PART_ROWS, Part
from airflow_triton.validation.data.wanted import Wanted, readable

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, "np.ndarray[Any, Any]"]

_KIND = "an .npz of plain arrays"


def npz(path: Path, wanted: Wanted) -> Npz:
    """An .npz with one array for each input, perhaps with labels and recorded answers."""
    return Npz(path, wanted)


@dataclass
class Npz:
    """See `Source`. Arrays in Fortran's order, and all of a servable that does not batch, are read whole."""

    path: Path
    wanted: Wanted
    joined: bool = True

    def count(self) -> int:
        """See `Source`."""
        with contextlib.ExitStack() as stack:
            return next(iter(self._checked(self._opened(stack)).values()))[0]

    def parts(self) -> Iterator[Part]:
        """See `Source`."""
        if not self.wanted.servable.batching:
            yield self._part(self._whole(), 0)
            return
        with contextlib.ExitStack() as stack:
            streams = self._opened(stack)
            rows = next(iter(self._checked(streams).values()))[0]
            for start in range(0, rows, PART_ROWS):
                with readable(self.wanted.origin, _KIND):
                    arrays = {name: stream.read(min(PART_ROWS, rows - start)) for name, stream in streams.items()}
                yield self._part(arrays, start)

    def _whole(self) -> Arrays:
        with readable(self.wanted.origin, _KIND):
            arrays = load_arrays(self.path)
        self._names(list(arrays))
        return arrays

    def _opened(self, stack: contextlib.ExitStack) -> dict[str, _Stream]:
        with readable(self.wanted.origin, _KIND):
            return _streams(self.path, stack)

    def _names(self, names: list[str]) -> None:
        wanted = [tensor.name for tensor in self.wanted.servable.inputs]
        given = [name for name in names if name != self.wanted.label and name not in self.wanted.outputs_in(names)]
        if sorted(given) != sorted(wanted):
            raise ValidationDataError(
                f"{self.wanted.origin} holds the arrays {sorted(given)}, the model takes {sorted(wanted)}"
                + (f" (and labels in `{self.wanted.label}`)" if self.wanted.label else "")
            )

    def _checked(self, streams: Mapping[str, _Stream]) -> dict[str, tuple[int, ...]]:
        """The shapes of all arrays, which have as many rows as each other."""
        self._names(list(streams))
        shapes = {name: stream.shape for name, stream in streams.items()}
        if bare := [name for name, shape in shapes.items() if not shape]:
            raise ValidationDataError(f"{self.wanted.origin}: the arrays {bare} are single numbers: they have no rows")
        lengths = {name: shape[0] for name, shape in shapes.items() if name != self.wanted.label}
        if len(set(lengths.values())) > 1:
            raise ValidationDataError(f"{self.wanted.origin}: the inputs differ in their number of rows: {lengths}")
        rows = next(iter(lengths.values()))
        if self.wanted.label in shapes and shapes[self.wanted.label][0] != rows:
            raise ValidationDataError(f"{self.wanted.origin}: {shapes[self.wanted.label][0]} labels for {rows} rows")
        return {name: shapes[name] for name in lengths}

    def _part(self, arrays: Arrays, start: int) -> Part:
        servable, label = self.wanted.servable, self.wanted.label
        first = arrays[servable.inputs[0].name]
        where = self.wanted.rows(start, start + len(first)) if first.ndim else self.wanted.origin
        answers = self.wanted.outputs_in(list(arrays))
        part = Part(
            start=start,
            inputs={tensor.name: self._fit(arrays[tensor.name], tensor, where) for tensor in servable.inputs},
            labels=None if label is None or label not in arrays else self.wanted.labels(arrays[label], start),
            answers={tensor.name: self._fit(arrays[tensor.name], tensor, where) for tensor in servable.outputs if tensor.name in answers},
        )
        if part.labels is not None and len(part.labels) != part.rows:
            raise ValidationDataError(f"{self.wanted.origin}: {len(part.labels)} labels for {part.rows} rows")
        return part

    def _fit(self, array: np.ndarray[Any, Any], tensor: TensorSpec, where: str) -> np.ndarray[Any, Any]:
        fitted = fit(array, tensor, what=f"{where}: `{tensor.name}`")
        if self.wanted.servable.batching and array.shape[:1] != fitted.shape[:1]:
            raise ValidationDataError(
                f"{where}: `{tensor.name}` is shaped {list(array.shape)}: its rows are no rows of {list(fitted.shape)}"
            )
        return fitted


@dataclass
class _Stream:
    """One array of an .npz, read from its beginning; `rest` holds what could not be streamed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: IO[bytes]
    rest: np.ndarray[Any, Any] | None = None

    def read(self, rows: int) -> np.ndarray[Any, Any]:
        """The next rows."""
        import numpy as np

        if self.rest is not None:
            array, self.rest = self.rest[:rows], self.rest[rows:]
        else:
            shape = (rows, *self.shape[1:])
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(self._bytes(count * self.dtype.itemsize), self.dtype, count).reshape(shape)
        return array.astype(object) if array.dtype.kind in "US" else array

    def _bytes(self, size: int) -> bytes:
        content = self.file.read(size)
        if len(content) != size:
            raise ValueError("it ends too early")
        return content


def _streams(path: Path, stack: contextlib.ExitStack) -> dict[str, _Stream]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        return {name.removesuffix(".npy"): _stream(archive, name, stack) for name in archive.namelist() if not name.endswith("/")}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None


def _stream(archive: zipfile.ZipFile, name: str, stack: contextlib.ExitStack) -> _Stream:
    from numpy.lib import format as npy

    file = stack.enter_context(archive.open(name))
    version = npy.read_magic(file)
    if header := {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version):
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ValueError(f"`{name}` holds Python objects, which only a pickle can hold")
        if not fortran or len(shape) < 2:  # noqa: PLR2004 - an order is one of several axes
            return _Stream(shape, dtype, file)
    with archive.open(name) as again:
        whole = npy.read_array(again, allow_pickle=False)
    return _Stream(whole.shape, whole.dtype, file, whole)
