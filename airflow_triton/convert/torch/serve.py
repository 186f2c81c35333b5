"""A torch model with named tensors becomes an ONNX file that is served: exported, truly declared, described."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.convert import signature
from airflow_triton.convert.base import Options
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.convert.torch import export as torch_export
from airflow_triton.convert.torch import requests as torch_requests
from airflow_triton.convert.torch.module import Named
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable, TensorSpec

if TYPE_CHECKING:
    from airflow_triton.convert.base import Arrays

NOT_BATCHED = "Triton cannot batch it: the first axis of an output is not the batch, or the answer of a row depends on the other rows."
LEAST_IR = 8
"""The IR version of opset 18; older ones are of no use."""


def serve(
    named: Named,
    inputs: Sequence[TensorSpec],
    feed: Arrays,
    model: MlflowModel,
    into: VersionFolder,
    *,
    options: Options,
    tools: Sequence[str] = (),
    flavor: str = "pytorch",
    signed: bool = True,
) -> Servable:
    """Export the model, write the graph with true declarations, and describe it.

    Args:
        named: the model.
        inputs: what it takes; -1 is an axis that has to stay variable.
        feed: a request that it answers, with which it is exported; its batch is neither 0 nor 1.
        model: where it came from.
        into: the version folder.
        options: the opset and IR version that the server reads.
        tools: distributions whose versions are noted, beside those of every export.
        flavor: the servable's.
        signed: whether the model's signature is about these tensors, and has to agree with them.

    Raises:
        ConversionError: the model takes one size only though its inputs say otherwise, answers at random, no exporter can do it, or the
            signature contradicts the graph.

    """
    trials = torch_requests.trials(named, inputs, feed, model)
    axes = {spec.name: [axis for axis, size in enumerate(spec.shape) if size == -1] for spec in inputs}
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as room:
        try:
            made, converter, notes = torch_export.export(torch_export.Request(named, feed, axes, trials, options.opset), Path(room))
        except ConversionError as error:
            ways = (
                "`to: torchscript` (torch.jit.script keeps both ways of a branch) or `to: python`"
                if flavor == "pytorch"
                else "`to: python`"
            )
            raise ConversionError(f"{model.folder}: {error}. Write the model in other operators, or use {ways}") from error
        entry = onnx_files.copy(made, into, onnx_files.read(made))
    path = into.path / entry
    seen = inspect_onnx.inspect(path, example=dict(feed))
    if signed:
        signature.check(model, seen.inputs, seen.outputs)
    graph = onnx_files.read(path)
    onnx_files.declare(graph, (*seen.inputs, *seen.outputs))
    _tidy(graph, options, model)
    into.write(entry, graph.SerializeToString(deterministic=True))
    onnx_files.check(path, of=model.folder)
    if not seen.batching and all(spec.shape[:1] == (-1,) for spec in inputs):
        notes = (*notes, NOT_BATCHED)
    return seen.servable(
        flavor=flavor,
        converter=converter,
        notes=notes,
        tools={name: importlib.metadata.version(name) for name in (*tools, "torch", "onnxscript", "onnx", "onnxruntime")},
        entry=entry,
    )


def _tidy(graph: Any, options: Options, model: MlflowModel) -> None:
    """Leave out where in whose code each node came from (paths of this machine), and ask for no newer format than the operators need."""
    import onnx

    parts = (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output)
    for part in (*parts, *graph.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    needed = max(LEAST_IR, onnx.helper.find_min_ir_version_for(list(graph.opset_import), ignore_unknown=True))
    if all(tensor.data_type <= onnx.TensorProto.BFLOAT16 for tensor in graph.graph.initializer):  # newer types need newer versions
        graph.ir_version = min(graph.ir_version, needed)
    if options.ir_version is not None and graph.ir_version > options.ir_version:
        raise ConversionError(
            f"{model.folder}: the graph needs version {graph.ir_version} of ONNX's format, and the server reads {options.ir_version}; "
            "use `to: python`, or a newer server"
        )
