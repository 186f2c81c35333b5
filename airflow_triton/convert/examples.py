"""A model's logged input example, as the arrays that its servable takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable
from airflow_triton.tensors import fit, rows_to_inputs

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


def load(model: MlflowModel) -> Any:
    """The example as MLflow gives it (a table, an array, or a mapping of arrays); None where the model has none."""
    if not model.meta.get("saved_input_example_info"):
        return None
    from mlflow.models import Model

    return Model.load(str(model.folder)).load_input_example(str(model.folder))


def to_inputs(example: Any, servable: Servable, columns: Sequence[str] | None) -> dict[str, np.ndarray[Any, Any]]:
    """One array per input of the servable.

    Raises:
        ValidationDataError: the example does not fit.

    """
    import pandas as pd

    if isinstance(example, pd.DataFrame):
        return rows_to_inputs(example, servable, columns)
    if isinstance(example, Mapping):
        return by_name(example, servable, what="the input example")
    if len(servable.inputs) != 1:
        names = ", ".join(spec.name for spec in servable.inputs)
        raise ValidationDataError(f"the input example is one array, but the model takes {names}; log one with a name for each")
    spec = servable.inputs[0]
    values = example.toarray() if hasattr(example, "toarray") else example
    return {spec.name: fit(values, spec, what="the input example")}


def by_name(given: Mapping[str, Any], servable: Servable, *, what: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a mapping, fitted to the inputs of their names.

    Raises:
        ValidationDataError: names are missing or unexpected, or an array does not fit.

    """
    names = [spec.name for spec in servable.inputs]
    if set(given) != set(names):
        raise ValidationDataError(f"{what} has the arrays {sorted(given)}, but the model takes {names}")
    return {spec.name: fit(given[spec.name], spec, what=f"{what}, {spec.name!r}") for spec in servable.inputs}


def for_probing(example: Any, servable: Servable, columns: Sequence[str] | None) -> dict[str, np.ndarray[Any, Any]] | None:
    """The example where it fits; None where there is none or it does not (a model is not refused for its example)."""
    if example is None:
        return None
    try:
        return to_inputs(example, servable, columns)
    except ValidationDataError as error:
        log.warning("the input example is not used to look at the model: %s", error)
        return None
