"""MLflow's `tensorflow` flavor to ONNX, by tf2onnx and by way of a SavedModel: tf2onnx itself cannot read models of Keras 3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_triton.convert import signature
from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.convert.tensorflow import model as tensorflow_model
from airflow_triton.convert.tensorflow.signature import Signature, open_signature
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable

OPSET = 18
"""The newest operators that tf2onnx 1.17 writes."""


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
    """See `base.Converter.convert`. Inputs and outputs have the names that the SavedModel's signature gives them."""
    with tensorflow_model.saved_model(model, example) as path:
        saved = open_signature(path, of=model.folder)
        graph = _to_onnx(path, saved, min(options.opset or OPSET, OPSET), model)
    _refuse_unknown(graph, model)
    file = into.write(onnx_files.MODEL_FILE, graph.SerializeToString(deterministic=True))
    seen = inspect_onnx.inspect(file, input_shapes=_shapes(model, saved), example=example, columns=model.columns)
    signature.check(model, seen.inputs, seen.outputs)
    onnx_files.declare(graph, (*seen.inputs, *seen.outputs))
    into.write(onnx_files.MODEL_FILE, graph.SerializeToString(deterministic=True))
    onnx_files.check(file, of=model.folder)
    return seen.servable(
        flavor=tensorflow_model.flavor_of(model),
        converter="tf2onnx",
        tools=tensorflow_model.versions("tf2onnx", "onnx", "onnxruntime"),
    )


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: the Keras model itself, or the SavedModel's signature, in TensorFlow."""
    if tensorflow_model.kind_of(model) == "keras":
        return tensorflow_model.ask_keras(tensorflow_model.load_keras(model), model, servable)
    with tensorflow_model.saved_model(model) as path:
        return open_signature(path, of=model.folder).run


def _to_onnx(path: Path, saved: Signature, opset: int, model: MlflowModel) -> Any:
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    try:
        frozen, inputs, outputs, tables, names = tf_loader.from_saved_model(
            str(path), None, None, tag="serve", signatures=[saved.key], return_initialized_tables=True, return_tensors_to_rename=True
        )
        with tf.Graph().as_default() as source:
            tf.import_graph_def(frozen, name="")
            made = tfonnx.process_tf_graph(
                source, opset=opset, input_names=inputs, output_names=outputs, tensors_to_rename=names, initialized_tables=tables
            )
        return optimizer.optimize_graph(made).make_model(f"the signature {saved.key}")
    except Exception as error:
        reason = f"{type(error).__name__}: {onnx_files.one_line(error)}"
        raise ConversionError(f"{model.folder}: tf2onnx cannot convert the model: {reason}; {_REMEDY}") from error


_REMEDY = "`to: as-is` serves the SavedModel on Triton's tensorflow backend, and `to: python` any model"


def _refuse_unknown(graph: Any, model: MlflowModel) -> None:
    """Refuse operators that are none of ONNX: what tf2onnx does not know it leaves as it is, or gives to a library of others."""
    import onnx.defs

    unknown = {node.op_type for node in _nodes(graph.graph) if not onnx.defs.has(node.op_type, node.domain)}
    if unknown:
        raise ConversionError(f"{model.folder}: ONNX has no operator for TensorFlow's {', '.join(sorted(unknown))}; {_REMEDY}")


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _shapes(model: MlflowModel, saved: Signature) -> dict[str, tuple[int, ...]]:
    """The shapes that MLflow's signature knows of inputs that TensorFlow's declares without one."""
    first = saved.inputs[0].name
    known = {field.name or first: field.shape for field in model.inputs or () if field.shape is not None}
    return {name: shape for name, shape in known.items() if name in saved.shapeless}
