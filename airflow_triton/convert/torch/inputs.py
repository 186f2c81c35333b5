"""What a PyTorch model is given: the tensors of its signature or its input example, matched with forward's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_triton import tensors
from airflow_triton.convert.mlmodel import Field, MlflowModel
from airflow_triton.convert.signature import describe
from airflow_triton.convert.torch.module import Argument, Ask
from airflow_triton.errors import ConversionError
from airflow_triton.servable import DataType, TensorSpec

Places = tuple[tuple[str, str | None], ...]
"""For each input its name, and the argument of forward that takes it (None: it is a value of the one mapping that forward takes)."""


def fields_of(model: MlflowModel, example: Any, floats: str) -> tuple[Field, ...]:
    """The tensors that the model takes: its signature's; without one, the example's, whose first axis is taken to be the batch.

    A table goes in as one matrix of float32, as MLflow itself hands it to PyTorch. An example without a signature comes back from its
    JSON without its types, so its fractions are taken to be of the type `floats`, the model's own.

    Raises:
        ConversionError: there is neither, or one holds what is no tensor of numbers.

    """
    import numpy as np

    if model.columns is not None:
        fields: tuple[Field, ...] = (Field(None, "float32", (-1, len(model.columns))),)
    elif model.inputs:
        fields = model.inputs
    elif example is None:
        raise ConversionError(
            f"{model.folder}: the model has neither a signature nor an input example, so nothing says what it takes: log it with "
            "`input_example=` or `signature=`"
        )
    else:
        given = example if isinstance(example, Mapping) else {None: example}
        arrays = {name: np.asarray(value) for name, value in given.items()}
        kinds = {name: floats if array.dtype.kind == "f" else array.dtype.name for name, array in arrays.items()}
        fields = tuple(Field(name, kinds[name], (-1, *array.shape[1:])) for name, array in arrays.items())
    for field in fields:
        if field.dtype in ("str", "object") or tensors.datatype_of(_dtype(field, model)) is None:
            raise ConversionError(
                f"{model.folder}: {field.name or 'the input'} is {field.dtype}, and PyTorch takes tensors of numbers; `to: python` serves "
                "what the MLflow model takes"
            )
    return fields


def _dtype(field: Field, model: MlflowModel) -> Any:
    import numpy as np

    try:
        return np.dtype(field.dtype)
    except TypeError as error:
        raise ConversionError(f"{model.folder}: the signature has {describe([field])}, which is no element type of a tensor") from error


def places(fields: Sequence[Field], takes: Sequence[Argument], model: MlflowModel) -> Places:
    """Which argument of forward takes which input.

    Names that are forward's arguments go there; names that all are not go in forward's order (as MLflow itself hands them over); a lone
    tensor goes to the first argument, and without a name has that one's. Several go to a lone argument as a mapping.

    Raises:
        ConversionError: only some of the names are arguments, or their number does not fit.

    """
    known, names = [each.name for each in takes], [field.name for field in fields]
    required = [each.name for each in takes if each.required]
    if len(fields) > 1 and len(takes) == 1:
        return tuple((str(name), None) for name in names)
    if all(name in known for name in names):
        chosen = [name for name in known if name in names]
        if set(required) <= set(chosen):
            return tuple((name, name) for name in chosen)
    elif not set(names) & set(known) and len(required) <= len(names) <= len(known):
        return tuple((name or argument, argument) for name, argument in zip(names, known, strict=False))
    raise ConversionError(
        f"{model.folder}: the inputs {describe(fields)} do not fit the model's forward({', '.join(known)}), of which {', '.join(required)} "
        "must be given; log the model with a signature that has a tensor for each, by its name"
    )


def asker(module: Any, where: Places, takes: Sequence[Argument]) -> Ask:
    """How the module is called with one tensor for each input."""
    names = [name for name, _ in where]
    given = [argument for _, argument in where]
    if None in given:
        return lambda values: module(dict(zip(names, values, strict=True)))
    if given == [each.name for each in takes][: len(given)]:
        return lambda values: module(*values)
    return lambda values: module(**dict(zip(map(str, given), values, strict=True)))


def specs(fields: Sequence[Field], where: Places) -> tuple[TensorSpec, ...]:
    """The inputs as they are served."""
    known = {field.name: field for field in fields}
    found = [known.get(name, fields[0]) for name, _ in where]  # the one that has no name is the only one
    return tuple(
        TensorSpec(name=name, datatype=_datatype(field), shape=field.shape or ()) for (name, _), field in zip(where, found, strict=True)
    )


def _datatype(field: Field) -> DataType:
    return tensors.datatype_of(field.dtype) or "FP32"
