"""Whether an MLflow signature and a graph's tensors say the same, found out before anything is published."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_triton.convert.mlmodel import Field, MlflowModel
from airflow_triton.errors import ConversionError
from airflow_triton.servable import TensorSpec
from airflow_triton.tensors import NUMPY_TYPES

MATRIX_AXES = 2


def check(model: MlflowModel, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Compare the signature, where there is one, with the tensors of an ONNX graph.

    Names must be the same (a lone tensor without a name is matched by position), as must element types, numbers of axes and
    sizes that are fixed on both sides. float64 stands for FP32 too: MLflow itself casts it for onnxruntime. Of outputs, only
    tensors with names are compared; a signature need not list them all.

    Raises:
        ConversionError: they contradict each other; it tells both sides.

    """
    problems: list[str] = []
    if model.inputs:
        columns = model.columns
        problems += _columns(model.inputs, inputs) if columns is not None else _tensors(model.inputs, inputs, every=True)
    if model.outputs and all(field.shape is not None for field in model.outputs):
        problems += _tensors(model.outputs, outputs, every=False)
    if problems:
        raise ConversionError(
            f"{model.folder}: the model's signature contradicts its graph: {'; '.join(problems)}. "
            "Log the model again with the signature that fits, or without one"
        )


def describe(fields: Sequence[Field]) -> str:
    """A signature's fields, short."""
    return ", ".join(f"{field.name or '(unnamed)'}: {field.dtype}{'' if field.shape is None else list(field.shape)}" for field in fields)


def _describe_graph(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name}: {spec.datatype}{list(spec.shape)}" for spec in specs)


def _tensors(fields: Sequence[Field], specs: Sequence[TensorSpec], *, every: bool) -> list[str]:
    if len(fields) == 1 and fields[0].name is None:
        if len(specs) != 1:
            if not every:
                return []
            return [f"the signature has one tensor without a name, the graph takes {_describe_graph(specs)}"]
        return _one(fields[0], specs[0])
    known = {spec.name: spec for spec in specs}
    names = {field.name for field in fields}
    if not names <= set(known) or (every and names != set(known)):
        return [f"the signature has {describe(fields)}, the graph {_describe_graph(specs)}"]
    return [problem for field in fields for problem in _one(field, known[str(field.name)])]


def _one(field: Field, spec: TensorSpec) -> list[str]:
    problems = []
    graph_type = NUMPY_TYPES[spec.datatype].replace("object", "str")
    if field.dtype != graph_type and (field.dtype, graph_type) != ("float64", "float32"):
        problems.append(f"{spec.name} is {field.dtype} in the signature and {spec.datatype} ({graph_type}) in the graph")
    shape = field.shape or ()
    same = len(shape) == len(spec.shape) and all(-1 in pair or pair[0] == pair[1] for pair in zip(shape, spec.shape, strict=True))
    if not same:
        problems.append(f"{spec.name} is {list(shape)} in the signature and {list(spec.shape)} in the graph")
    return problems


def _columns(fields: Sequence[Field], specs: Sequence[TensorSpec]) -> list[str]:
    """A table's columns: one for each input, or side by side in the only one."""
    by_name = {spec.name: spec for spec in specs}
    if len(specs) == 1 and (len(fields) > 1 or fields[0].name not in by_name):
        spec = specs[0]
        width = spec.shape[1] if len(spec.shape) == MATRIX_AXES else -1
        if width not in (-1, len(fields)):
            return [f"the signature has {len(fields)} columns ({describe(fields)}), the graph's {spec.name} takes {width}"]
        return [problem for field in fields for problem in _kind(field, spec)]
    if {field.name for field in fields} != set(by_name):
        return [f"the signature has the columns {describe(fields)}, the graph takes {_describe_graph(specs)}"]
    return [problem for field in fields for problem in _kind(field, by_name[str(field.name)])]


def _kind(field: Field, spec: TensorSpec) -> list[str]:
    if (field.dtype == "str") == (spec.datatype == "BYTES"):
        return []
    return [f"column {field.name} is {field.dtype} in the signature, and the graph's {spec.name} is {spec.datatype}"]
