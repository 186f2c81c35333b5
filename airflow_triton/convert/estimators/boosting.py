"""MLflow's `xgboost`, `lightgbm` and `catboost` flavors: trees become ONNX's own; missing values stay what the model learned of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_triton.convert import base
from airflow_triton.convert.base import Options, Run
from airflow_triton.convert.estimators import serve as estimators
from airflow_triton.convert.estimators.boosters import booster_of, xgboost_objective
from airflow_triton.convert.estimators.inputs import MATRIX, Layout, layout_of
from airflow_triton.convert.estimators.serve import ONNXMLTOOLS_OPSET
from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.convert.onnx.files import one_line
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable
from airflow_triton.versions import installed

TABULAR = True


def convert(model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
    """See `base.Converter.convert`. One matrix of FP32 goes in; NaN is a missing value where the model was trained with them.

    A classifier gives `label` and `probabilities`, anything else `variable` (XGBoost, LightGBM) or `predictions` (CatBoost). Models of
    XGBoost's and LightGBM's own API (`Booster`) are served as their scikit-learn wrappers would be: a classifier gives both.

    """
    flavor = base.route_of(model, options.to).flavor
    estimator = _load(model, flavor)
    layout = layout_of(estimator, model)
    if layout.columns is not None:
        text = [name for name, dtype in layout.columns.items() if dtype == "str"]
        raise ConversionError(f"{model.folder}: the columns {', '.join(text)} are text, {_NO_CATEGORIES}")
    to_onnx, converter = _EXPORTERS[flavor]
    try:
        graph = to_onnx(estimator, layout)
    except ConversionError as error:
        raise ConversionError(f"{model.folder}: {error}") from None
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ConversionError(f"{model.folder}: {converter} cannot convert the model: {type(error).__name__}: {one_line(error)}") from error
    known = installed((flavor, f"{flavor}-cpu"))  # XGBoost is called either
    tools = (converter, *(name for name in known if name.startswith(flavor)))
    return estimators.serve(estimator, graph, model, into, example=example, flavor=flavor, converter=converter, tools=tools)


def original(model: MlflowModel, servable: Servable) -> Run:
    """See `base.Converter.original`: the model's own `predict` and `predict_proba`."""
    return estimators.original(_load(model, servable.flavor), model, servable)


_NO_CATEGORIES = (
    "and ONNX's trees know numbers only: encode categories before the model (a scikit-learn pipeline with an OrdinalEncoder can be "
    "converted as a whole)"
)


def _load(model: MlflowModel, flavor: str) -> Any:
    try:
        loaded = importlib.import_module(f"mlflow.{flavor}").load_model(str(model.folder))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConversionError(f"{model.folder}: MLflow cannot load the {flavor} model: {reason}") from error
    return booster_of(loaded)


def _xgboost(estimator: Any, layout: Layout) -> Any:
    from onnxmltools import convert_xgboost

    native = estimator.native if hasattr(estimator, "native") else estimator.get_booster()
    kinds = dict(zip(native.feature_names or [], native.feature_types or [], strict=False))
    if "c" in (native.feature_types or []):
        named = [name for name, kind in kinds.items() if kind == "c"] or ["?"]
        raise ConversionError(f"the features {', '.join(named)} are categories, {_NO_CATEGORIES}")
    native.feature_names = None  # onnxmltools wants them to be f0, f1, ...
    if xgboost_objective(native) == "multi:softmax":
        native.set_param({"objective": "multi:softprob"})  # of the other, onnxmltools calls the margins probabilities
    return convert_xgboost(getattr(estimator, "native", estimator), initial_types=_types(layout), target_opset=ONNXMLTOOLS_OPSET)


def _lightgbm(estimator: Any, layout: Layout) -> Any:
    from onnxmltools import convert_lightgbm

    native = estimator.native if hasattr(estimator, "native") else estimator.booster_
    if any(native.pandas_categorical or ()):
        raise ConversionError(f"the model was trained on a table with categories, {_NO_CATEGORIES}")
    which = estimator.native if hasattr(estimator, "native") else estimator.wrapped
    return convert_lightgbm(which, initial_types=_types(layout), target_opset=ONNXMLTOOLS_OPSET, zipmap=False)


def _types(layout: Layout) -> list[tuple[str, Any]]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [(MATRIX, FloatTensorType([None, layout.width]))]


def _catboost(estimator: Any, layout: Layout) -> Any:  # noqa: ARG001 it knows its width itself
    import onnx

    if categories := estimator.get_cat_feature_indices():
        names = [estimator.feature_names_[index] for index in categories]
        raise ConversionError(f"the features {', '.join(names)} are categories, {_NO_CATEGORIES}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        estimator.save_model(str(path), format="onnx")
        graph = onnx.load(str(path))
    _rename(graph, graph.graph.input[0].name, MATRIX)
    _without_zipmap(graph, classes=len(estimator.classes_))
    return graph


def _rename(graph: Any, old: str, new: str) -> None:
    """Give a tensor another name, wherever it occurs."""
    for entry in (*graph.graph.input, *graph.graph.output):
        entry.name = new if entry.name == old else entry.name
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = new if name == old else name


def _without_zipmap(graph: Any, *, classes: int) -> None:
    """Give the probabilities out as a tensor, and not as one mapping for each row, which no tensor can hold."""
    import onnx

    for node in [node for node in graph.graph.node if node.op_type == "ZipMap"]:
        tensor, mapping = node.input[0], node.output[0]
        graph.graph.node.remove(node)
        outputs = [output for output in graph.graph.output if output.name != mapping]
        del graph.graph.output[:]
        _rename(graph, tensor, mapping)
        graph.graph.output.extend([*outputs, onnx.helper.make_tensor_value_info(mapping, onnx.TensorProto.FLOAT, [None, classes])])


_EXPORTERS: dict[str, tuple[Callable[[Any, Layout], Any], str]] = {
    "xgboost": (_xgboost, "onnxmltools"),
    "lightgbm": (_lightgbm, "onnxmltools"),
    "catboost": (_catboost, "catboost"),
}
"""What makes the graph for each flavor, and the distribution that it is of."""
