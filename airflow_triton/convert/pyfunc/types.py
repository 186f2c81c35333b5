"""What an MLflow model takes, as tensors: read from its signature, or from its input example."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_triton.convert.mlmodel import COLUMN_TYPES, Field, MlflowModel
from airflow_triton.errors import ConversionError
from airflow_triton.servable import DataType, TensorSpec
from airflow_triton.tensors import NUMPY_TYPES, datatype_of

LONE = "input"
"""The name of an input that the signature gives none."""


@dataclass(frozen=True)
class Question:
    """What `predict` is asked with, and the tensors of which that is made.

    `table`: a pandas DataFrame, one tensor [-1, 1] for each column. `list`: a Python list, one tensor [-1, 1]. `array`: one numpy array.
    `arrays`: a mapping of them.
    """

    kind: Literal["table", "list", "array", "arrays"]
    inputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()


def question_of(model: MlflowModel, example: Any) -> Question:
    """The model's input, by its signature, or by its input example where it has no signature.

    Raises:
        ConversionError: it has neither, or an input is of a type that no tensor has.

    """
    fields = model.inputs or _of_example(model, example)
    tables = [field.shape is None for field in fields]
    if any(tables) and not all(tables):
        raise ConversionError(f"{model.folder}: the model's signature mixes columns and tensors")
    notes = _notes(model)
    lone = len(fields) == 1 and fields[0].name is None
    if not lone and any(field.name is None for field in fields):
        raise ConversionError(f"{model.folder}: several inputs of the signature have no name; name them")
    refused = [f"{field.name or LONE} ({field.dtype})" for field in fields if datatype_of_field(field) is None]
    if refused:
        raise ConversionError(
            f"{model.folder}: no tensor holds the inputs {', '.join(refused)} of the model's signature; valid for a column: "
            f"{', '.join(COLUMN_TYPES)}. Log the model with text instead (a date as ISO 8601, anything nested as JSON), and read it in "
            "`predict`"
        )
    if tables[0]:
        return Question("list" if lone else "table", tuple(_spec(field, (-1, 1)) for field in fields), notes)
    return Question("array" if lone else "arrays", tuple(_spec(field, field.shape or ()) for field in fields), notes)


def datatype_of_field(field: Field) -> DataType | None:
    """Triton's name of a field's element type; None where it has none."""
    if field.dtype not in {*NUMPY_TYPES.values(), "str"}:
        return None
    return datatype_of(field.dtype)


def _spec(field: Field, shape: tuple[int, ...]) -> TensorSpec:
    datatype = datatype_of_field(field)
    assert datatype is not None, "it was refused"
    return TensorSpec(name=str(LONE if field.name is None else field.name), datatype=datatype, shape=shape)


def _of_example(model: MlflowModel, example: Any) -> Sequence[Field]:
    if example is None:
        raise ConversionError(
            f"{model.folder}: the model has neither a signature nor an input example, so nothing tells what it takes: log it with "
            "`input_example=` (MLflow infers the signature of it)"
        )
    from mlflow.exceptions import MlflowException
    from mlflow.models import infer_signature
    from mlflow.types.schema import DataType as ColumnType
    from mlflow.types.schema import TensorSpec as MlflowTensor

    try:
        specs = infer_signature(example).inputs.inputs
    except MlflowException as error:
        raise ConversionError(f"{model.folder}: MLflow cannot tell the types of the input example: {error}; log a signature") from error
    fields = []
    for spec in specs:
        if isinstance(spec, MlflowTensor):
            dtype = "str" if spec.type.kind in "OUS" else spec.type.name
            fields.append(Field(spec.name, dtype, tuple(spec.shape)))
        else:
            kind = spec.type.name if isinstance(spec.type, ColumnType) else str(spec.type)
            fields.append(Field(spec.name, COLUMN_TYPES.get(kind, kind), None))
    return fields


def _notes(model: MlflowModel) -> tuple[str, ...]:
    signature = model.meta.get("signature") or {}
    told = json.loads(signature.get("inputs") or "[]")
    optional = [str(entry.get("name")) for entry in told if entry.get("required") is False]
    parameters = [str(entry.get("name")) for entry in json.loads(signature.get("params") or "[]")]
    notes = []
    if optional:
        notes.append(f"The columns {', '.join(optional)} are optional for the MLflow model; on Triton each request has them all.")
    if parameters:
        notes.append(f"The parameters {', '.join(parameters)} have their defaults: a request to Triton cannot set them.")
    return tuple(notes)
