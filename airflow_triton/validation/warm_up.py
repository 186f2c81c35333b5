"""Requests that Triton itself sends to every version that it loads, before it is READY: `model_warmup` of config.pbtxt.

They have the shapes of the rows that the model is validated with, and zeros (empty strings) for their values: a config.pbtxt holds no
data, and the files that it may name instead cannot lie inside a version (docs/decisions/0006-warm-up.md).

A request of `model_warmup` that fails can end Triton itself (2.51: a segmentation fault, in about one load of ten), and what serves with
it. So a candidate is loaded without them, and asked the same as ordinary requests: those fail as any other does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ServerError
from airflow_triton.model_config import datatype_name
from airflow_triton.server import TritonClient
from airflow_triton.tensors import NUMPY_TYPES

if TYPE_CHECKING:
    import numpy as np
    from tritonclient.grpc.model_config_pb2 import ModelConfig

NAME = "one row"
"""The name of the sample, which Triton tells when it fails."""

_SENT = {str(datatype): dtype for datatype, dtype in NUMPY_TYPES.items() if datatype != "BF16"}
"""The data types that a client can send, with their numpy dtypes."""

Shapes = Mapping[str, Sequence[int]]
"""The dims of one row for each input, as config.pbtxt has dims."""


def warmed_up(config: ModelConfig, requests: int, shapes: Callable[[], Shapes]) -> ModelConfig:
    """A copy of the config that lets Triton send so many requests of one row to each version that it loads.

    A config that has a `model_warmup` (the spec's, or a ready model's own) keeps it. `shapes` is asked only where the dims of an input
    vary; where it does not know the input, they stay -1. Inputs that are optional are left out.
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


def left_out(config: ModelConfig) -> ModelConfig:
    """A copy of the config with which a candidate is loaded: without the requests that `ask` can send itself."""
    changed = type(config)()
    changed.CopyFrom(config)
    del changed.model_warmup[:]
    changed.model_warmup.extend(sample for sample in config.model_warmup if not _is_sendable(sample))
    return changed


def ask(client: TritonClient, model: str, version: int, config: ModelConfig, *, seconds: float) -> None:
    """Send the requests with which the config warms up a version, one after another; `seconds` is the deadline of each.

    Raises:
        ServerError: one of them fails: loaded with that config, the version would not become ready.

    """
    for sample in config.model_warmup:
        for _ in range(max(1, sample.count) if _is_sendable(sample) else 0):
            try:
                client.infer(model, _values(sample, batching=config.max_batch_size > 0), version=version, seconds=seconds)
            except ServerError as error:
                raise type(error)(f"{error} (the warm-up request {sample.name!r}, which Triton is to send at every load)") from None


def _is_sendable(sample: Any) -> bool:
    """Whether its values are known here, and can be sent: not those of a file, not BF16; and a size that varies is none."""
    return all(
        not tensor.input_data_file and min(tensor.dims, default=0) >= 0 and datatype_name(tensor) in _SENT
        for tensor in sample.inputs.values()
    )


def _values(sample: Any, *, batching: bool) -> dict[str, np.ndarray]:
    """What Triton sends for the sample, in one request: zeros, or random bits; empty texts for either."""
    import numpy as np

    def values(tensor: Any) -> np.ndarray:
        shape = [max(1, sample.batch_size), *tensor.dims] if batching else list(tensor.dims)
        dtype = np.dtype(_SENT[datatype_name(tensor)])
        if dtype.kind == "O":
            return np.full(shape, "", dtype)
        if tensor.random_data and dtype.kind != "b":
            return np.frombuffer(np.random.default_rng().bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
        return np.zeros(shape, dtype)

    return {name: values(tensor) for name, tensor in sample.inputs.items()}


def _filled(tensor: Any, shape: Sequence[int]) -> list[int]:
    """The dims of a tensor, with the sizes of `shape` where they vary and it has as many."""
    dims = list(tensor.dims)
    return [real if dim < 0 else dim for dim, real in zip(dims, shape, strict=True)] if len(shape) == len(dims) else dims
