"""A model as a server has it loaded: its tensors, by the configuration with which it was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_triton.errors import ServerError
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.server import TritonClient

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Served:
    """A model on a server. `version` is the one that answers requests which name none; `most_rows` are in one request (0: any number).

    `optional` are the inputs that a request may leave out, `reshaped` the outputs that the server gives another shape than the model.
    """

    model: str
    version: int
    servable: Servable
    most_rows: int
    optional: frozenset[str]
    reshaped: frozenset[str]

    def ask(self, client: TritonClient, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One array for each output. More rows than the model takes are asked one request after the other."""
        import numpy as np

        rows = min((array.shape[0] for array in inputs.values() if array.ndim), default=0)
        if not self.most_rows or rows <= self.most_rows:
            return self._own(client.infer(self.model, inputs))
        parts = []
        for start in range(0, rows, self.most_rows):
            some = {name: array[start : start + self.most_rows] for name, array in inputs.items()}
            parts.append(client.infer(self.model, some))
        return self._own({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def _own(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs in the shapes that the model itself gives them: Triton has no [n], and answers it as [n, 1] (`reshape`)."""
        shapes = {spec.name: spec.shape for spec in self.servable.outputs if spec.name in self.reshaped and spec.shape.count(-1) <= 1}
        return {name: array.reshape(shapes[name]) if name in shapes else array for name, array in outputs.items()}


def served(client: TritonClient, model: str) -> Served:
    """The model as the server has it.

    Raises:
        ServerError: the server has no such model loaded.

    """
    config = client.config(model)
    most_rows = int(config.get("max_batch_size", 0))
    batching = most_rows > 0
    listed = config.get("version_policy", {}).get("specific", {}).get("versions", [])
    versions = sorted(map(int, listed)) or client.ready_versions(model)
    if not versions:
        raise ServerError(f"{client.address} has no version of `{model}` ready")
    return Served(
        model=model,
        version=versions[-1],
        servable=Servable(
            backend=str(config.get("backend") or config.get("platform") or ""),
            default_model_filename="",
            inputs=tuple(_spec(tensor, batching=batching) for tensor in config.get("input", [])),
            outputs=tuple(_spec(tensor, batching=batching, own=True) for tensor in config.get("output", [])),
            batching=batching,
            flavor="",
            converter="",
        ),
        most_rows=most_rows,
        optional=frozenset(tensor["name"] for tensor in config.get("input", []) if tensor.get("optional")),
        reshaped=frozenset(tensor["name"] for tensor in config.get("output", []) if "reshape" in tensor),
    )


def _spec(tensor: Mapping[str, Any], *, batching: bool, own: bool = False) -> TensorSpec:
    """A tensor of a config, as a request has it; with `own`, as the model itself has it."""
    datatype = tensor["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    sizes = tensor["reshape"].get("shape", []) if own and "reshape" in tensor else tensor.get("dims", [])
    dims = tuple(int(size) for size in sizes)
    return TensorSpec(name=tensor["name"], datatype=datatype, shape=(-1, *dims) if batching else dims)
