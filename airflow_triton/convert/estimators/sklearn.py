"""MLflow's `sklearn` flavor: skl2onnx makes the graph; labels and probabilities come out as plain tensors."""

from __future__ import annotations

from typing import Any

from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.estimators import boosted_steps as sklearn_boosting
from airflow_triton.convert.estimators import serve as estimators
from airflow_triton.convert.estimators import trees as sklearn_trees
from airflow_triton.convert.estimators.inputs import Layout, layout_of
from airflow_triton.convert.estimators.serve import ONNXMLTOOLS_OPSET
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable

TABULAR = True


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:  # noqa: ARG001 one form
    """See `base.Converter.convert`.

    A model of floats is served in FP32. A classifier's scores that the model itself does not give in that shape (the two
    columns that skl2onnx makes of a binary `decision_function`) are left out. The same model gives the same bytes, but
    for the few converters of skl2onnx that number their nodes anew (LocalOutlierFactor).
    """
    estimator = _load(model)
    layout = layout_of(estimator, model)
    graph = _to_onnx(estimator, layout, model)
    return estimators.serve(
        estimator, graph, model, into, example=example, flavor="sklearn", converter="skl2onnx", tools=("skl2onnx", "scikit-learn")
    )


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: the model's own methods, on a table if it was trained on one."""
    return estimators.original(_load(model), model, servable)


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
    sklearn_trees.send_missing_values(graph, estimator)
    return graph


def _without_zipmap(estimator: Any, types: list[tuple[str, Any]]) -> Any:
    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    opsets = {**estimators.TARGET_OPSET, "": ONNXMLTOOLS_OPSET} if sklearn_boosting.register(estimator) else estimators.TARGET_OPSET

    def to_onnx(options: dict[int, dict[str, bool]] | None) -> Any:
        return convert_sklearn(estimator, name="model", initial_types=types, options=options, target_opset=opsets)

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
