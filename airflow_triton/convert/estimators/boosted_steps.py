"""XGBoost's and LightGBM's estimators inside scikit-learn pipelines: skl2onnx is told of onnxmltools' converters for them."""

from __future__ import annotations

from typing import Any


def register(estimator: Any) -> bool:
    """Tell skl2onnx how to convert the boosted members of a pipeline; whether there are any. It stays told, in this process."""
    kinds = {type(part) for part in (estimator, *_parts(estimator))}
    found = [kind for kind in kinds if kind.__module__.partition(".")[0] in _LIBRARIES]
    for kind in found:
        _LIBRARIES[kind.__module__.partition(".")[0]](kind)
    return bool(found)


def _parts(estimator: Any) -> list[Any]:
    return list(estimator.get_params(deep=True).values()) if hasattr(estimator, "get_params") else []


def _xgboost(kind: type) -> None:
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    _tell(kind, "XGBoost", convert_xgboost)


def _lightgbm(kind: type) -> None:
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

    _tell(kind, "LightGbm", convert_lightgbm)


def _tell(kind: type, library: str, converter: Any) -> None:
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator
    from sklearn.base import ClassifierMixin

    classifies = issubclass(kind, ClassifierMixin)
    shapes = (
        shape_calculator.calculate_linear_classifier_output_shapes
        if classifies
        else shape_calculator.calculate_linear_regressor_output_shapes
    )
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifies else {"split": None}
    update_registered_converter(kind, f"{library}{kind.__name__}", shapes, converter, options=options)


_LIBRARIES = {"xgboost": _xgboost, "lightgbm": _lightgbm}
