"""What every converter is: one module for one flavor, imported only in the child process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from pydantic import BaseModel, ConfigDict

from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.errors import ConversionError
from airflow_triton.repository.manifest import FileDigest
from airflow_triton.servable import Servable

if TYPE_CHECKING:
    import numpy as np

    from airflow_triton.convert.version_folder import VersionFolder

Form: TypeAlias = Literal["onnx", "as-is"]
Arrays: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"

TRITON = "triton"
"""The flavor of a ready Triton model, as NVIDIA's MLflow plugin logs it."""

NO_ORIGINAL = (
    "a model of the flavor `triton` answers only on Triton, so there is no original to compare it with: set `validate.parity: false` "
    "and declare other checks, such as `validate.metrics` with `validate.data`"
)

CONVERTERS = {
    TRITON: "airflow_triton.convert.triton",
    "onnx": "airflow_triton.convert.onnx",
    "sklearn": "airflow_triton.convert.sklearn",
}
"""The module of each flavor's converter; of a model with several flavors, the first here is used."""


class Conversion(BaseModel):
    """What came of a conversion: what Triton is to serve, and every file of its version directory with its digest."""

    model_config = ConfigDict(frozen=True)

    servable: Servable
    files: tuple[FileDigest, ...]


class Converter(Protocol):
    """The functions of a converter's module."""

    def convert(self, model: MlflowModel, into: VersionFolder, *, to: Form, example: Any) -> Servable:
        """Write the files of one version directory into `into` and describe them.

        `example` is the model's logged input example as MLflow gives it, or None.

        Raises:
            ConversionError: the model cannot become a servable, or contradicts its signature.

        """

    def answers(self, model: MlflowModel, servable: Servable, inputs: Arrays) -> Arrays:
        """The original model's own outputs for the servable's inputs, one array per output of the servable.

        Raises:
            ValidationDataError: there is no original that could answer outside of Triton (see `has_original`).

        """


def flavor_of(model: MlflowModel) -> str:
    """The flavor to convert.

    Raises:
        ConversionError: there is no converter for any of the model's flavors; it names both sides and what to do.

    """
    for flavor in CONVERTERS:
        if flavor in model.flavors:
            return flavor
    *most, last = sorted(CONVERTERS)
    raise ConversionError(
        f"{model.folder}: the model has the flavors {', '.join(sorted(model.flavors))}; only {', '.join(most)} and {last} can be "
        "converted. Export it to ONNX in the training code and log that with mlflow.onnx.log_model"
    )


def converter_for(flavor: str) -> Converter:
    """The converter of a flavor (this imports what it needs)."""
    return cast("Converter", importlib.import_module(CONVERTERS[flavor]))
