"""Models that are asked as scikit-learn's are, once their graph is made: what is served of it, and what the model itself answers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from airflow_triton.convert.base import Arrays, Run
from airflow_triton.convert.estimators.inputs import layout_of
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable

TARGET_OPSET = {"": 18, "ai.onnx.ml": 3}
"""The operators that graphs are written with (IR version 8 or lower follows). onnxruntime reads them since 1.14, so every
Triton since 23.04 does; Triton 24.10 has onnxruntime 1.19, which would read up to opset 21 and IR version 10."""

ONNXMLTOOLS_OPSET = 15
"""The newest operators that onnxmltools writes."""

METHODS = {
    "label": ("predict",),
    "probabilities": ("predict_proba", "decision_function"),
    "scores": ("transform", "decision_function", "score_samples"),
}
"""Which method of the model answers for an output of its graph, the first that it has; any other: predict or transform."""


def serve(
    estimator: Any,
    graph: Any,
    model: MlflowModel,
    into: VersionFolder,
    *,
    example: Any,
    flavor: str,
    converter: str,
    tools: Sequence[str],
) -> Servable:
    """Write the graph with those outputs that the model itself can answer for, truly declared, and describe it.

    `tools` are the distributions whose versions are noted.
    """
    path = into.write(onnx_files.MODEL_FILE, graph.SerializeToString(deterministic=True))
    seen = inspect_onnx.inspect(path, example=example, columns=model.columns)
    outputs = tuple(spec for spec in seen.outputs if _method(estimator, spec.name, spec.shape)) or seen.outputs
    kept = [output for output in graph.graph.output if output.name in {spec.name for spec in outputs}]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    onnx_files.declare(graph, (*seen.inputs, *outputs))
    into.write(onnx_files.MODEL_FILE, graph.SerializeToString(deterministic=True))
    onnx_files.check(path, of=model.folder)
    return replace(seen, outputs=outputs).servable(
        flavor=flavor,
        converter=converter,
        tools={name: importlib.metadata.version(name) for name in (*tools, "onnx", "onnxruntime")},
    )


def original(estimator: Any, model: MlflowModel, servable: Servable) -> Run:
    """The model's own methods, on a table if it was trained on one: one array for each output."""
    layout = layout_of(estimator, model)
    return lambda inputs: _answers(estimator, model, servable, layout.table(inputs))


def _answers(estimator: Any, model: MlflowModel, servable: Servable, table: Any) -> Arrays:
    import numpy as np

    given = {}
    for spec in servable.outputs:
        method = _method(estimator, spec.name, spec.shape)
        if method is None:
            raise ConversionError(f"{model.folder}: the model has no method that answers for the output {spec.name!r}")
        answer = np.asarray(getattr(estimator, method)(table))
        if answer.shape[1:] == (1,) and len(spec.shape) == 1:
            answer = answer.reshape(-1)  # CatBoost gives the labels of several classes as a column
        given[spec.name] = answer.astype(str).astype(object) if spec.datatype == "BYTES" else answer
    return given


def _method(estimator: Any, output: str, shape: tuple[int, ...]) -> str | None:
    names = METHODS.get(output, ("predict", "transform"))
    method = next((name for name in names if hasattr(estimator, name)), None)
    binary = is_classifier(estimator) and len(getattr(estimator, "classes_", ())) == len(("no", "yes"))
    return None if method == "decision_function" and binary and shape[-1:] != (1,) else method


def is_classifier(estimator: Any) -> bool:
    """Whether the model tells classes; scikit-learn's own question, which it refuses of what is not its own."""
    from sklearn.base import BaseEstimator
    from sklearn.base import is_classifier as ask

    return bool(ask(estimator)) if isinstance(estimator, BaseEstimator) else hasattr(estimator, "predict_proba")
