"""MLflow's `onnx` flavor: the file is served as it is, with its external data, and with correct declarations."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from airflow_triton.convert import signature
from airflow_triton.convert.base import Form, Options, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.convert.onnx import opset as onnx_opset
from airflow_triton.convert.onnx import simplify as onnx_simplify
from airflow_triton.convert.runners import onnxruntime
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
    """See `base.Converter.convert`. The converter is called "as-is" where the bytes are the original's, else "onnx".

    With `to: onnx`, declared shapes that are missing or wrong are corrected, opset and IR version are brought down to the options', an
    opset below 7 is raised, and the graph is simplified if they ask for it; weights and nodes stay otherwise. With `to: as-is` a file
    that would need any of it is refused, but for its opset: a server that is too old refuses that when the candidate is loaded.
    """
    source = model.file("onnx", "data")
    graph = onnx_files.read(source)
    shapes = _input_shapes(model, graph, example)
    notes = []
    if options.simplify:
        entry = onnx_files.MODEL_FILE
        graph, told = onnx_simplify.write(source, into)
        notes.append(told)
    else:
        entry = onnx_files.copy(source, into, graph)
    path = into.path / entry
    if options.to == "onnx":
        fitting, told = onnx_opset.fit(graph, opset=options.opset, ir_version=options.ir_version, of=source)
        if told:
            into.write(entry, fitting.SerializeToString(deterministic=True))
            notes.append(told)
    seen = inspect_onnx.inspect(path if notes else source, input_shapes=shapes, example=example, columns=model.columns)
    signature.check(model, seen.inputs, seen.outputs)
    changed = _correct(into, entry, seen, to=options.to) or bool(notes)
    onnx_files.check(path, of=source)
    return seen.servable(
        flavor="onnx",
        converter="onnx" if changed else "as-is",
        tools={name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")},
        entry=entry,
        notes=notes,
    )


def _correct(into: VersionFolder, entry: str, seen: inspect_onnx.Inspection, *, to: Form) -> bool:
    """Write the truth into the copy's declarations; true if a byte changed."""
    if to == "as-is":
        if seen.corrected:
            raise ConversionError(
                f"the graph declares no shape or a wrong one for {', '.join(seen.corrected)}, and Triton would refuse to load it; "
                "use `to: onnx`, which corrects the declarations and nothing else"
            )
        return False
    graph = onnx_files.read(into.path / entry)
    if not onnx_files.declare(graph, (*seen.inputs, *seen.outputs)):
        return False
    into.write(entry, graph.SerializeToString(deterministic=True))
    return True


def _input_shapes(model: MlflowModel, graph: Any, example: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that the signature, or else the example, knows of inputs that the graph declares without one."""
    missing = onnx_files.shapeless(graph)
    weights = {tensor.name for tensor in graph.graph.initializer}
    names = [entry.name for entry in graph.graph.input if entry.name not in weights]
    fields = {field.name or names[0]: field.shape for field in model.inputs or () if field.shape is not None}
    arrays = example if isinstance(example, Mapping) else {names[0]: example} if len(names) == 1 else {}
    sizes = {name: (-1, *array.shape[1:]) for name, array in arrays.items() if getattr(array, "ndim", 0) and hasattr(array, "dtype")}
    known = {**sizes, **fields}
    return {name: known[name] for name in names if name in missing and name in known}


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: onnxruntime, on the CPU, on the original file.

    Of an opset that onnxruntime does not have (below 7), ONNX's own reference evaluator is asked, which is slow.
    """
    path = model.file("onnx", "data")
    if (onnx_opset.opset_of(onnx_files.read(path)) or onnx_opset.OLDEST) >= onnx_opset.OLDEST:
        return onnxruntime.run_file(path, servable)
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    names = [spec.name for spec in servable.outputs]
    return lambda inputs: dict(zip(names, evaluator.run(names, dict(inputs)), strict=True))
