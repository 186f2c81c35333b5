"""Putting the rows to a model on a server, many requests in flight.

Triton knows two shapes of a tensor: the model's own and, where config.pbtxt has a `reshape`, another one towards its clients
(a model whose output is one number a row, [-1], answers [-1, 1], for example, and a scalar [1]: Triton has no tensor without
dimensions).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from airflow_triton.servable import Servable
from airflow_triton.server import TritonClient

if TYPE_CHECKING:
    import numpy as np
    from tritonclient.grpc.model_config_pb2 import ModelConfig

IN_FLIGHT = 4
"""Requests at the same time."""


def ask(client: TritonClient, model: str, inputs: Mapping[str, np.ndarray], *, rows: int) -> dict[str, np.ndarray]:
    """Answer the model's outputs for all rows of `inputs`, in their order.

    A model that batches is asked in requests of `rows` rows, four at a time; one that does not (`rows` 0) gets all of it in one.

    Raises:
        ServerError: a request failed, with the server's reason.

    """
    import numpy as np

    if rows == 0:
        return client.infer(model, inputs)
    total = min(array.shape[0] for array in inputs.values())
    batches = [{name: array[start : start + rows] for name, array in inputs.items()} for start in range(0, total, rows)]
    with ThreadPoolExecutor(max_workers=IN_FLIGHT) as pool:
        answers = list(pool.map(lambda batch: client.infer(model, batch), batches))
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def as_server_takes(config: ModelConfig, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs, shaped as the model takes them, in the shapes that the server takes."""
    shaped = {tensor.name: list(tensor.dims) for tensor in config.input if tensor.HasField("reshape")}
    return {
        name: array.reshape([*_batch(config, array), *shaped[name]]) if name in shaped else array.reshape(array.shape or (1,))
        for name, array in inputs.items()
    }


def as_model_gives(config: ModelConfig, servable: Servable, answers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The server's answers in the shapes in which the model itself gave them."""
    shaped = {tensor.name: list(tensor.reshape.shape) for tensor in config.output if tensor.HasField("reshape")}
    scalars = {tensor.name for tensor in servable.outputs if tensor.shape == ()}
    own = {
        name: [*_batch(config, array), *shaped[name]] if name in shaped else [] if name in scalars else array.shape
        for name, array in answers.items()
    }
    return {name: array.reshape(own[name]) for name, array in answers.items()}


def _batch(config: ModelConfig, array: np.ndarray) -> tuple[int, ...]:
    return array.shape[:1] if config.max_batch_size > 0 else ()
