"""How a scikit-learn model is fed: one matrix, or one input for each column of its table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_triton.convert.base import Arrays
from airflow_triton.convert.mlmodel import Field, MlflowModel
from airflow_triton.convert.signature import describe
from airflow_triton.errors import ConversionError

MATRIX = "input"
"""The name of the one input of a model that takes a matrix."""

NUMBERS = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64"})


@dataclass(frozen=True)
class Layout:
    """The inputs of a model.

    `columns` are the names and numpy types of the columns in order, one input each; None: one matrix, `width` wide (None:
    any), of `dtype`. `names` are the features' names that the model was trained with, if it was.
    """

    columns: dict[str, str] | None
    names: tuple[str, ...]
    width: int | None
    dtype: str

    def onnx_types(self) -> list[tuple[str, Any]]:
        """The `initial_types` of skl2onnx. Floats of any size become FP32; integers, booleans and text keep their kind."""
        if self.columns is None:
            return [(MATRIX, _onnx_type("str" if self.dtype == "str" else "float32", self.width))]
        return [(name, _onnx_type(dtype, 1)) for name, dtype in self.columns.items()]

    def table(self, inputs: Arrays) -> Any:
        """What the model itself is given for these inputs: as it was trained, a table or a matrix, of the signature's types."""
        import pandas as pd

        if self.columns is None:
            matrix = inputs[MATRIX].astype("object" if self.dtype == "str" else self.dtype)
            return pd.DataFrame(matrix, columns=list(self.names)) if self.names else matrix
        return pd.DataFrame(
            {name: inputs[name].reshape(-1).astype("object" if dtype == "str" else dtype) for name, dtype in self.columns.items()}
        )


def layout_of(estimator: Any, model: MlflowModel) -> Layout:
    """Find out how the estimator is fed, from its signature and from itself.

    A table whose columns are all numbers, or a tensor, is one matrix; a table with text, or a model with a ColumnTransformer
    over columns by name, has one input for each column. Without a signature, the estimator's own number of features.

    Raises:
        ConversionError: the signature contradicts the estimator, or is needed and absent.

    """
    names = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
    width = getattr(estimator, "n_features_in_", None)
    fields = model.inputs
    if not fields:
        if _by_name(estimator):
            raise ConversionError(f"{model.folder}: the model takes its columns by name ({', '.join(names)}); log it with a signature")
        return Layout(None, names, width, "float64")
    said = len(fields) if model.columns is not None else _tensor_width(model, fields)
    problem = _contradiction(fields, names, width, said, ordered=not _by_name(estimator))
    if problem:
        raise ConversionError(
            f"{model.folder}: the model's signature contradicts the model: {problem}. Log it again with the signature that fits"
        )
    if model.columns is None:
        return Layout(None, names, width or said, fields[0].dtype)
    types = {str(field.name): field.dtype for field in fields}
    strange = [field for field in fields if field.dtype not in NUMBERS | {"str"}]
    if strange:
        raise ConversionError(f"{model.folder}: no tensor can hold the columns {describe(strange)}; log the model with numbers or text")
    if "str" in types.values() or _by_name(estimator):
        return Layout(types, names, width, "float64")
    all_single = set(types.values()) == {"float32"}
    return Layout(None, names, width or said, "float32" if all_single else "float64")


def _tensor_width(model: MlflowModel, fields: Sequence[Field]) -> int | None:
    shape = fields[0].shape
    if len(fields) > 1 or not shape:
        raise ConversionError(
            f"{model.folder}: the signature has {describe(fields)}, and a scikit-learn model takes one matrix [-1, features]"
        )
    if fields[0].dtype not in NUMBERS | {"str"}:
        raise ConversionError(f"{model.folder}: the signature's {describe(fields)} is neither numbers nor text")
    return None if shape[-1] == -1 else shape[-1]


def _contradiction(fields: Sequence[Field], names: Sequence[str], width: int | None, said: int | None, *, ordered: bool) -> str:
    trained = f"the model was trained on {width} features" + (f" ({', '.join(names)})" if names else "")
    if fields[0].shape is not None and len(fields[0].shape) != 2:  # noqa: PLR2004 - a matrix has two axes
        return f"the signature has {describe(fields)}, and {trained}, in a matrix of two axes"
    if None not in (width, said) and width != said:
        return f"the signature has {said} ({describe(fields)}), and {trained}"
    columns = [field.name for field in fields if field.shape is None]
    if names and columns and (columns != list(names) if ordered else set(columns) != set(names)):
        return f"the signature has the columns {', '.join(map(str, columns))}, and {trained}"
    return ""


def _by_name(estimator: Any) -> bool:
    """Whether a ColumnTransformer anywhere in the estimator picks columns by name (or by a rule that needs names)."""
    from sklearn.compose import ColumnTransformer

    parts = [estimator, *estimator.get_params(deep=True).values()] if hasattr(estimator, "get_params") else [estimator]
    transformers = [part for part in parts if isinstance(part, ColumnTransformer)]
    return any(_named(columns) for part in transformers for _, _, columns in part.transformers)


def _named(columns: Any) -> bool:
    if isinstance(columns, str) or callable(columns):
        return True
    return isinstance(columns, Iterable) and any(isinstance(column, str) for column in columns)


def _onnx_type(dtype: str, width: int | None) -> Any:
    from skl2onnx.common import data_types

    kinds = {
        "bool": data_types.BooleanTensorType,
        "int8": data_types.Int8TensorType,
        "int16": data_types.Int16TensorType,
        "int32": data_types.Int32TensorType,
        "int64": data_types.Int64TensorType,
        "str": data_types.StringTensorType,
    }
    return kinds.get(dtype, data_types.FloatTensorType)([None, width])
