"""MLflow's `sklearn` flavor: skl2onnx makes the graph; labels and probabilities come out as plain tensors."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from airflow_triton.convert import inspect_onnx, onnx_files
from airflow_triton.convert.base import Arrays, Form
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx_files import one_line
from airflow_triton.convert.sklearn_inputs import Layout, layout_of
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable

TARGET_OPSET = {"": 18, "ai.onnx.ml": 3}
"""The operators that graphs are written with (IR version 8 or lower follows). onnxruntime reads them since 1.14, so every
Triton since 23.04 does; Triton 24.10 has onnxruntime 1.19, which would read up to opset 21 and IR version 10."""

METHODS = {
    "label": ("predict",),
    "probabilities": ("predict_proba", "decision_function"),
    "scores": ("transform", "decision_function", "score_samples"),
}
"""Which method of the model answers for an output of skl2onnx, the first that it has; any other: predict or transform."""


def convert(model: MlflowModel, into: VersionFolder, *, to: Form, example: Any) -> Servable:
    """See `base.Converter.convert`.

    A model of floats is served in FP32. A classifier's scores that the model itself does not give in that shape (the two
    columns that skl2onnx makes of a binary `decision_function`) are left out. The same model gives the same bytes, but
    for the few converters of skl2onnx that number their nodes anew (LocalOutlierFactor).
    """
    if to == "as-is":
        raise ConversionError(f"{model.folder}: Triton cannot serve a scikit-learn model as it is; use `to: onnx`")
    estimator = _load(model)
    layout = layout_of(estimator, model)
    graph = _to_onnx(estimator, layout, model)
    path = into.write(onnx_files.MODEL_FILE, graph.SerializeToString(deterministic=True))
    seen = inspect_onnx.inspect(path, example=example, columns=model.columns)
    outputs = tuple(spec for spec in seen.outputs if _method(estimator, spec.name, spec.shape)) or seen.outputs
    kept = [output for output in graph.graph.output if output.name in {spec.name for spec in outputs}]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    onnx_files.declare(graph, (*seen.inputs, *outputs))
    into.write(onnx_files.MODEL_FILE, graph.SerializeToString(deterministic=True))
    onnx_files.check(path, of=model.folder)
    return Servable(
        backend="onnxruntime",
        default_model_filename=onnx_files.MODEL_FILE,
        inputs=seen.inputs,
        outputs=outputs,
        batching=seen.batching,
        flavor="sklearn",
        converter="skl2onnx",
        tools={name: importlib.metadata.version(name) for name in ("skl2onnx", "scikit-learn", "onnx", "onnxruntime")},
    )


def answers(model: MlflowModel, servable: Servable, inputs: Arrays) -> Arrays:
    """See `base.Converter.answers`: the model's own methods, on a table if it was trained on one."""
    import numpy as np

    estimator = _load(model)
    table = layout_of(estimator, model).table(inputs)
    given = {}
    for spec in servable.outputs:
        method = _method(estimator, spec.name, spec.shape)
        if method is None:
            raise ConversionError(f"{model.folder}: the model has no method that answers for the output {spec.name!r}")
        answer = np.asarray(getattr(estimator, method)(table))
        given[spec.name] = answer.astype(str).astype(object) if spec.datatype == "BYTES" else answer
    return given


def _method(estimator: Any, output: str, shape: tuple[int, ...]) -> str | None:
    from sklearn.base import is_classifier

    names = METHODS.get(output, ("predict", "transform"))
    method = next((name for name in names if hasattr(estimator, name)), None)
    binary = is_classifier(estimator) and len(getattr(estimator, "classes_", ())) == len(("no", "yes"))
    return None if method == "decision_function" and binary and shape[-1:] != (1,) else method


def _load(model: MlflowModel) -> Any:
    import mlflow.sklearn

    try:
        return mlflow.sklearn.load_model(str(model.folder))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        if type(error).__name__ == "UntrustedTypesFoundException":
            raise ConversionError(
                f"{model.folder}: skops does not load types that nobody trusted: {one_line(error)} "
                "If you trust them, log the model with skops_trusted_types=[...] naming them"
            ) from error
        raise ConversionError(
            f"{model.folder}: MLflow cannot load the scikit-learn model: {type(error).__name__}: {one_line(error)}"
        ) from error


def _to_onnx(estimator: Any, layout: Layout, model: MlflowModel) -> Any:
    types = layout.onnx_types()
    try:
        graph = _without_zipmap(estimator, types)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ConversionError(
            f"{model.folder}: skl2onnx cannot convert the model: {type(error).__name__}: {reason} "
            "(its supported models: https://onnx.ai/sklearn-onnx/supported.html)"
        ) from error
    domains = {entry.domain: entry.version for entry in sorted(graph.opset_import, key=lambda entry: entry.version)}
    del graph.opset_import[:]  # it can name one domain twice
    for domain, version in sorted(domains.items()):
        graph.opset_import.add(domain=domain, version=version)
    _restore_names(graph, [name for name, _ in types])
    return graph


def _without_zipmap(estimator: Any, types: list[tuple[str, Any]]) -> Any:
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    def to_onnx(options: dict[int, dict[str, bool]] | None) -> Any:
        return convert_sklearn(estimator, name="model", initial_types=types, options=options, target_opset=TARGET_OPSET)

    if not is_classifier(estimator):
        return to_onnx(None)
    try:
        return to_onnx({id(estimator): {"zipmap": False}})
    except NameError as error:
        if "zipmap" not in str(error):
            raise
        return to_onnx(None)  # this classifier has no such option, and no ZipMap either


def _restore_names(graph: Any, names: list[str]) -> None:
    """Give the inputs the columns' own names: skl2onnx writes "a (cm)" as "a__cm_"."""
    import onnx

    for entry, name in zip(graph.graph.input, names, strict=True):
        if entry.name != name:
            graph.graph.node.insert(0, onnx.helper.make_node("Identity", [name], [entry.name], name=f"column {name}"))
            entry.name = name
