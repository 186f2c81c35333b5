"""The optimization profile of a plan: which shapes each input may have, from the spec or from what is served."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from airflow_triton.errors import ConversionError
from airflow_triton.servable import DataType, Servable, TensorSpec
from airflow_triton.spec.tensorrt import Profile

DATATYPES: dict[str, DataType] = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}
"""Triton's names of TensorRT's element types: those that Triton's TensorRT backend serves (its ConvertTrtTypeToDataType)."""


class Shapes(BaseModel):
    """The smallest, the best and the largest shape of one input, batch axis included."""

    model_config = ConfigDict(frozen=True)

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


def profiles(servable: Servable, asked: Mapping[str, Profile], *, max_batch_size: int) -> dict[str, Shapes]:
    """One entry for each input that has an axis which varies, in the servable's order.

    An input that the spec has a profile for gets that. Of any other, only the batch axis may vary: it goes from 1 to
    `max_batch_size` rows, and is optimized for the latter.

    Args:
        servable: the ONNX model that the plan is built of.
        asked: the spec's profiles, by the names of inputs.
        max_batch_size: the rows that Triton may put into one execution (0: Triton does not batch).

    Raises:
        ConversionError: a profile does not fit its input, the batch axis or `max_batch_size`; or one is needed and not there.

    """
    names = [spec.name for spec in servable.inputs]
    for name in asked:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConversionError(f"convert.tensorrt.profiles.{name}: the model has no such input; valid: {', '.join(names)}{hint}")
    batched = servable.batching and max_batch_size > 0
    found = {}
    for spec in servable.inputs:
        if spec.name in asked:
            found[spec.name] = _asked(spec, asked[spec.name])
        elif -1 in spec.shape:
            found[spec.name] = _made(spec, batched=batched, rows=max_batch_size)
    if batched:
        _check_rows(found, max_batch_size)
    return found


def check_types(specs: Sequence[TensorSpec]) -> None:
    """Refuse what TensorRT cannot take or give.

    Raises:
        ConversionError: a tensor has another element type.

    """
    if bad := [f"{spec.name} ({spec.datatype})" for spec in specs if spec.datatype not in DATATYPES.values()]:
        raise ConversionError(
            f"TensorRT has no such element type: {', '.join(bad)}; valid: {', '.join(DATATYPES.values())}. Let the model take and give "
            "one of these (a Cast node), or use `to: onnx`"
        )


def _asked(spec: TensorSpec, profile: Profile) -> Shapes:
    where = f"convert.tensorrt.profiles.{spec.name}"
    for kind in ("min", "opt", "max"):
        shape = getattr(profile, kind)
        if len(shape) != len(spec.shape):
            raise ConversionError(
                f"{where}.{kind}: {list(shape)} has {len(shape)} axes, and the input {list(spec.shape)} has {len(spec.shape)}"
            )
        for axis, (got, size) in enumerate(zip(shape, spec.shape, strict=True)):
            if size not in (-1, got):
                raise ConversionError(
                    f"{where}.{kind}: axis {axis} is {got}, and the input's is always {size} (its shape is {list(spec.shape)})"
                )
    return Shapes(min=profile.min, opt=profile.opt, max=profile.max)


def _made(spec: TensorSpec, *, batched: bool, rows: int) -> Shapes:
    free = [axis for axis, size in enumerate(spec.shape) if size == -1 and not (batched and axis == 0)]
    if free:
        axes = f"axis {free[0]} varies" if len(free) == 1 else f"the axes {', '.join(map(str, free))} vary"
        raise ConversionError(
            f"the input {spec.name!r} has the shape {list(spec.shape)}: {axes}, and TensorRT has to know how far. Add "
            f"`convert.tensorrt.profiles.{spec.name}` with `min`, `opt` and `max`, each a list of {len(spec.shape)} sizes"
        )
    rest = spec.shape[1:]
    return Shapes(min=(1, *rest), opt=(rows, *rest), max=(rows, *rest))


def _check_rows(found: Mapping[str, Shapes], max_batch_size: int) -> None:
    """Under batching, every input has the same rows: from one to at least `max_batch_size`."""
    rows = {name: (shapes.min[0], shapes.opt[0], shapes.max[0]) for name, shapes in found.items()}
    if len(set(rows.values())) > 1:
        said = "; ".join(f"{name}: {low} to {high}, best {best}" for name, (low, best, high) in rows.items())
        raise ConversionError(f"convert.tensorrt.profiles: the inputs are batched together, and their first axes differ ({said})")
    for name, (low, _, high) in rows.items():
        if low > 1:
            raise ConversionError(f"convert.tensorrt.profiles.{name}.min: {low} rows; a request may have one, so min starts with 1")
        if high < max_batch_size:
            raise ConversionError(
                f"convert.tensorrt.profiles.{name}.max: {high} rows, and config.max_batch_size is {max_batch_size}; "
                "make the profile larger, or max_batch_size smaller"
            )
