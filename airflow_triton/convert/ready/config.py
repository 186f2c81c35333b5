"""A ready model's own config.pbtxt: what it leaves out filled in, and its inputs and outputs read from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

from airflow_triton.errors import ConversionError
from airflow_triton.model_config import datatype_name
from airflow_triton.repository.version_layout import Layout
from airflow_triton.servable import DataType, TensorSpec

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def name_backend(config: ModelConfig, layout: Layout) -> None:
    """Say which backend serves it, where the config leaves that to Triton's auto-completion."""
    if config.backend or config.platform or layout.kind == "ensemble":
        return
    config.backend = layout.backend
    config.platform = layout.platform


def incomplete(config: ModelConfig) -> list[str]:
    """What the config does not say of the model's tensors: a side without any, or a tensor without type or dims."""
    missing = [f"no {side} at all" for side, tensors in (("input", config.input), ("output", config.output)) if not tensors]
    return missing + [
        f"no {' and no '.join(absent)} for {tensor.name!r}"
        for tensor in (*config.input, *config.output)
        if (absent := [field for field in ("data_type", "dims") if not getattr(tensor, field)])
    ]


def complete(config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Fill in what the config does not say of these tensors; what it says stays.

    Raises:
        ConversionError: it names a tensor that is none of these, or batches where one of them has no variable first axis.

    """
    for side, specs, field in (("inputs", inputs, config.input), ("outputs", outputs, config.output)):
        known = {spec.name: spec for spec in specs}
        if strangers := [tensor.name for tensor in field if tensor.name not in known]:
            raise ConversionError(f"config.pbtxt names the {side} {strangers}, but the model's are {list(known)}")
        entries = {tensor.name: tensor for tensor in field}
        for spec in specs:
            _fill(entries.get(spec.name) or field.add(name=spec.name), spec, batched=config.max_batch_size > 0)


def _fill(tensor: Any, spec: TensorSpec, *, batched: bool) -> None:
    if batched and spec.shape[:1] != (-1,):
        raise ConversionError(
            f"config.pbtxt has a max_batch_size, but {spec.name!r} {list(spec.shape)} has no variable first axis; set it to 0"
        )
    if not tensor.data_type:
        names = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name
        tensor.data_type = names["TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"].number
    if not tensor.dims:
        dims = spec.shape[1:] if batched else spec.shape
        tensor.dims.extend(dims or (1,))
        if batched and not dims:
            tensor.reshape.SetInParent()


def tensors(config: ModelConfig) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a complete config as the model itself sees them, batch axis included.

    Raises:
        ConversionError: one has a data type that this release does not know.

    """
    batch = (-1,) if config.max_batch_size > 0 else ()
    return tuple(_spec(tensor, batch) for tensor in config.input), tuple(_spec(tensor, batch) for tensor in config.output)


def _spec(tensor: Any, batch: tuple[int, ...]) -> TensorSpec:
    datatype = datatype_name(tensor)
    if datatype not in get_args(DataType):
        raise ConversionError(f"config.pbtxt: {tensor.name!r} is TYPE_{datatype}; valid: {', '.join(get_args(DataType))}")
    dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
    return TensorSpec(name=tensor.name, datatype=cast("DataType", datatype), shape=(*batch, *dims))
