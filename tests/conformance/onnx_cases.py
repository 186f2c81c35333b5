"""ONNX's own backend tests: the models that the `onnx` package ships, with recorded inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper

DATA = Path(onnx.backend.test.__file__).parent / "data"
KINDS = ("simple", "pytorch-converted", "pytorch-operator", "light")
RTOL, ATOL = 1e-3, 1e-7
"""What ONNX's own runner allows."""


@dataclass(frozen=True)
class Case:
    """One model, the inputs that were recorded with it (of its first data set), and its outputs."""

    kind: str
    name: str
    path: Path
    inputs: dict[str, Any]
    outputs: dict[str, Any]

    @property
    def id(self) -> str:
        """Its name, as Triton can take it."""
        return f"{self.kind}.{self.name}"


def cases() -> list[Case]:
    """All of them, by kind and name."""
    found = [_recorded(kind, path) for kind in KINDS[:3] for path in sorted((DATA / kind).glob("*/model.onnx"))]
    return found + [_light(path) for path in sorted((DATA / "light").glob("*.onnx"))]


def _recorded(kind: str, path: Path) -> Case:
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {entry.name for entry in graph.initializer}
    folder = path.parent / "test_data_set_0"
    inputs = [entry.name for entry in graph.input if entry.name not in weights]
    return Case(kind, path.parent.name, path, _tensors(folder, "input", inputs), _tensors(folder, "output", [o.name for o in graph.output]))


def _light(path: Path) -> Case:
    """Their inputs are not recorded but made, as ONNX's runner makes them (`generate_dummy_data`)."""
    graph = onnx.load(str(path)).graph
    weights = {entry.name for entry in graph.initializer}
    inputs = {}
    for entry in graph.input:
        if entry.name not in weights:
            shape = [axis.dim_value or 1 for axis in entry.type.tensor_type.shape.dim]
            inputs[entry.name] = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    outputs = {entry.name: _read(path.with_name(f"{path.stem}_output_{index}.pb")) for index, entry in enumerate(graph.output)}
    return Case("light", path.stem, path, inputs, outputs)


def _tensors(folder: Path, what: str, names: list[str]) -> dict[str, Any]:
    return {name: _read(folder / f"{what}_{index}.pb") for index, name in enumerate(names)}


def _read(path: Path) -> Any:
    """A tensor as an array; None for what is no tensor (a sequence, an optional)."""
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)
    except Exception:  # noqa: BLE001 - a SequenceProto or an OptionalProto, read as what it is not
        return None
