"""What a PyTorch model is asked while it is exported: values that it answers, in sizes that an exporter does not fix."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.convert import examples
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.probe import varied
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

if TYPE_CHECKING:
    from airflow_triton.convert.base import Arrays
    from airflow_triton.convert.torch.module import Named

CLOSE = 1e-2
"""Two answers further apart than this, relative to their scale, are not apart by rounding (FP16 included)."""

SIZES = (7, 64, 16, 2)
"""Sizes that are tried for axes (but the first) that may vary, where there is no example to take them from."""


def sample(
    inputs: Sequence[TensorSpec], example: Any, run: Callable[[Arrays], dict[str, Any]], model: MlflowModel
) -> tuple[Arrays, dict[str, Any]]:
    """A request that the model answers, and its answer: the example's values, or made-up ones.

    No axis that may vary has a size that an exporter would fix (0, 1, or that of another axis).

    Raises:
        ConversionError: the model answers neither; with its reason.

    """
    provisional = Servable(backend="", default_model_filename="", inputs=tuple(inputs), outputs=(), batching=False, flavor="", converter="")
    given = examples.for_probing(example, provisional, model.columns)
    if given is not None and all(array.size for array in given.values()):
        rows = _rows(inputs, [array.shape for array in given.values()])
        tries: list[Arrays] = [{spec.name: grown(given[spec.name], spec, rows=rows) for spec in inputs}]
    else:
        given = None
        rows = _rows(inputs, [spec.shape for spec in inputs])
        tries = [{spec.name: varied(spec, _shape(spec, rows, size)) for spec in inputs} for size in SIZES]
    reason = ""
    for feed in tries:
        try:
            return feed, run(feed)
        except ConversionError as error:
            raise ConversionError(f"{model.folder}: {error}") from error
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises
            reason = f"{type(error).__name__}: {one_line(error)}"
    if given is not None and answers(run, given):
        raise only_one_size(model, inputs, reason)
    tried = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in tries[-1].items())
    raise ConversionError(
        f"{model.folder}: the model does not take what its signature or input example says ({_said(inputs)}): asked with {tried}, it "
        f"raises {reason}. Log it with a signature and an input example that fit"
    )


def only_one_size(model: MlflowModel, inputs: Sequence[TensorSpec], reason: str) -> ConversionError:
    """The model was asked in another size, which its inputs say is possible, and raised `reason`."""
    return ConversionError(
        f"{model.folder}: the model's inputs are to vary in size ({_said(inputs)}), but it takes only the size that it was written or "
        f"exported for: {reason}. Log it with a signature of the sizes that it takes; torch.export (MLflow's pt2) fixes an axis of 1, so "
        "log that with an input example of two rows or more"
    )


def trials(named: Named, inputs: Sequence[TensorSpec], feed: Arrays, model: MlflowModel) -> list[tuple[Arrays, Arrays]]:
    """Requests of other sizes that the model answers, with its answers.

    Raises:
        ConversionError: inputs say that an axis may vary, and the model takes no other size; or it answers one request differently.

    """
    import numpy as np

    first, again = named.run(feed), named.run(feed)
    if not all(np.allclose(first[name], again[name], equal_nan=True) for name in first):
        raise ConversionError(
            f"{model.folder}: the model answers one request in two ways. Was it logged in training mode (dropout)? Call model.eval() "
            "before logging; a model that is random on purpose can be served with `to: python`"
        )
    if not any(-1 in spec.shape for spec in inputs):
        return []
    found: list[tuple[Arrays, Arrays]] = []
    reason = ""
    for more in (0, 1, -1):
        resized = {spec.name: grown(feed[spec.name], spec, more=more) for spec in inputs}
        try:
            found.append((resized, named.run(resized)))
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises
            reason = reason or f"{type(error).__name__}: {one_line(error)}"
    if not found:
        raise only_one_size(model, inputs, reason)
    return found


def _said(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name}: {spec.datatype}{list(spec.shape)}" for spec in specs)


def answers(run: Callable[[Arrays], Any], given: Arrays) -> bool:
    """Whether the model answers at all."""
    try:
        run(given)
    except Exception:  # noqa: BLE001 - whatever the model's code raises
        return False
    return True


def _rows(inputs: Sequence[TensorSpec], shapes: Sequence[Sequence[int]]) -> int:
    """A number of rows that no other axis has: exporters fix 0 and 1, and may take axes of one size for the same axis."""
    others = {*SIZES, *(size for shape in shapes for size in shape[1:]), *(size for spec in inputs for size in spec.shape)}
    return next(rows for rows in itertools.count(3) if rows not in others)


def grown(array: Any, spec: TensorSpec, *, rows: int | None = None, more: int = 0) -> Any:
    """The array with `rows` rows (default: one more than it has), every other axis that may vary `more` longer; values repeat.

    Only axes that the spec gives as -1 change; none becomes shorter than 2.
    """
    wanted = [
        None if known != -1 else (rows or array.shape[0] + 1) if axis == 0 else max(array.shape[axis] + more, 2)
        for axis, known in enumerate(spec.shape)
    ]
    return resized(array, wanted)


def difference(got: Arrays, expected: Arrays) -> str | None:
    """What tells two answers apart: a shape, or values that are further apart than by rounding; None if nothing does.

    An exporter that fixed a size gives one of the two away.
    """
    import numpy as np

    for name, theirs in expected.items():
        mine = got[name]
        if mine.shape != theirs.shape:
            return f"{name!r} is {list(mine.shape)} instead of {list(theirs.shape)}"
        scale = max(1e-6, float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)))
        if not np.allclose(mine, theirs, rtol=CLOSE, atol=CLOSE * scale, equal_nan=True):
            return f"{name!r} has other values"
    return None


def resized(array: Any, wanted: Sequence[int | None]) -> Any:
    """The array with these sizes (None: its own); its values repeat."""
    import numpy as np

    for axis, size in enumerate(wanted):
        if size is not None:
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return array


def _shape(spec: TensorSpec, rows: int, size: int) -> tuple[int, ...]:
    return tuple(known if known != -1 else rows if axis == 0 else size for axis, known in enumerate(spec.shape))
