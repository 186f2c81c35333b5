"""Requests that Triton itself sends to every version that it loads, before it is READY: `model_warmup` of config.pbtxt.

They have the shapes of the rows that the model is validated with, and zeros (empty strings) for their values: a config.pbtxt holds no
data, and the files that it may name instead cannot lie inside a version (docs/decisions/0006-warm-up.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

NAME = "one row"
"""The name of the sample, which Triton tells when it fails."""

Shapes = Mapping[str, Sequence[int]]
"""The dims of one row for each input, as config.pbtxt has dims."""


def warmed_up(config: ModelConfig, requests: int, shapes: Callable[[], Shapes]) -> ModelConfig:
    """A copy of the config that lets Triton send so many requests of one row to each version that it loads.

    A config that has a `model_warmup` (the spec's, or a ready model's own) keeps it. `shapes` is asked only where the dims of an input
    vary; where it does not know the input, they stay -1. Inputs that are optional are left out.

    One row, for a request of several (`batch_size`) that fails can end Triton itself (2.51: a segmentation fault).
    """
    changed = type(config)()
    changed.CopyFrom(config)
    if not requests or config.model_warmup:
        return changed
    inputs = [tensor for tensor in config.input if not tensor.optional]
    found = shapes() if any(dim < 0 for tensor in inputs for dim in tensor.dims) else {}
    sample = changed.model_warmup.add(name=NAME, batch_size=1, count=requests)
    for tensor in inputs:
        into = sample.inputs[tensor.name]
        into.data_type = tensor.data_type
        into.dims.extend(_filled(tensor, found.get(tensor.name, ())))
        into.zero_data = True
    return changed


def shapes_in(config: ModelConfig) -> Shapes:
    """The shapes of the requests with which a config warms up already; none where it does not."""
    return {name: list(tensor.dims) for sample in config.model_warmup for name, tensor in sample.inputs.items()}


def _filled(tensor: Any, shape: Sequence[int]) -> list[int]:
    """The dims of a tensor, with the sizes of `shape` where they vary and it has as many."""
    dims = list(tensor.dims)
    return [real if dim < 0 else dim for dim, real in zip(dims, shape, strict=True)] if len(shape) == len(dims) else dims
