"""What every converter is: one module for one flavor and form, imported only in the child process."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field

from airflow_triton.convert.mlmodel import MlflowModel
from airflow_triton.errors import ConversionError
from airflow_triton.repository.manifest import FileDigest
from airflow_triton.servable import Servable
from airflow_triton.spec import PythonBackend
from airflow_triton.validation.agreement import Agreement

if TYPE_CHECKING:
    import numpy as np

    from airflow_triton.convert.version_folder import VersionFolder

Form: TypeAlias = Literal["onnx", "torchscript", "python", "as-is"]
"""What a flavor becomes. (`to: tensorrt` is the form `onnx`, of which `convert.tensorrt` makes a plan on a GPU worker.)"""

Arrays: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"
Run: TypeAlias = Callable[[Arrays], Arrays]
"""One run of a model: an array for each input, with its batch axis; an array for each output."""

TRITON = "triton"
"""The flavor of a ready Triton model, as NVIDIA's MLflow plugin logs it."""

PYFUNC = "python_function"
"""The flavor that nearly every MLflow model has: what `mlflow.pyfunc.load_model` can load."""

NO_ORIGINAL = (
    "a model of the flavor `triton` answers only on Triton, so there is no original to compare it with: set `validate.parity: false` "
    "and declare other checks, such as `validate.metrics` with `validate.data`"
)


@dataclass(frozen=True)
class Route:
    """A way from a flavor to a form: the module that goes it (a `Converter`), and what pip calls what it needs."""

    flavor: str
    form: Form
    module: str
    tools: tuple[str, ...] = ()


_ROOM = "airflow_triton.convert"
_ONNX = ("onnx", "onnxruntime")

ROUTES = (
    Route(TRITON, "as-is", f"{_ROOM}.ready.convert", _ONNX),
    Route(TRITON, "onnx", f"{_ROOM}.ready.convert", _ONNX),
    Route("onnx", "onnx", f"{_ROOM}.onnx.convert", _ONNX),
    Route("onnx", "as-is", f"{_ROOM}.onnx.convert", _ONNX),
    Route("sklearn", "onnx", f"{_ROOM}.estimators.sklearn", (*_ONNX, "skl2onnx", "scikit-learn", "onnxmltools")),
    Route("xgboost", "onnx", f"{_ROOM}.estimators.boosting", (*_ONNX, "onnxmltools", "xgboost", "xgboost-cpu")),
    Route("lightgbm", "onnx", f"{_ROOM}.estimators.boosting", (*_ONNX, "onnxmltools", "lightgbm")),
    Route("catboost", "onnx", f"{_ROOM}.estimators.boosting", (*_ONNX, "catboost")),
    Route("pytorch", "onnx", f"{_ROOM}.torch.pytorch", (*_ONNX, "torch", "onnxscript")),
    Route("pytorch", "torchscript", f"{_ROOM}.torch.torchscript", ("torch",)),
    Route("tensorflow", "onnx", f"{_ROOM}.tensorflow.convert", (*_ONNX, "tf2onnx", "tensorflow", "tensorflow-cpu", "keras")),
    Route("tensorflow", "as-is", f"{_ROOM}.tensorflow.saved_model", ("tensorflow", "tensorflow-cpu", "keras")),
    Route("keras", "onnx", f"{_ROOM}.torch.keras", (*_ONNX, "keras", "torch", "onnxscript", "tf2onnx", "tensorflow", "tensorflow-cpu")),
    Route("keras", "as-is", f"{_ROOM}.tensorflow.saved_model", ("tensorflow", "tensorflow-cpu", "keras")),
    Route("transformers", "onnx", f"{_ROOM}.torch.transformers", (*_ONNX, "torch", "onnxscript", "transformers")),
    Route(PYFUNC, "python", f"{_ROOM}.pyfunc.convert", ("mlflow", "mlflow-skinny", "numpy", "pandas")),
)
"""Every way, the flavors in the order in which those of one model are tried."""

RUNNERS = {
    "onnxruntime": f"{_ROOM}.runners.onnxruntime",
    "pytorch": f"{_ROOM}.runners.pytorch",
    "python": f"{_ROOM}.runners.python",
    "tensorflow": f"{_ROOM}.runners.tensorflow",
    "tensorrt": f"{_ROOM}.runners.tensorrt",
}
"""The module (a `Runner`) that runs the files of each of Triton's backends without Triton."""


class Options(BaseModel):
    """What a converter is told beside the model. Equal options, source and tools give equal files."""

    model_config = ConfigDict(frozen=True)

    to: Form = "onnx"
    opset: int | None = Field(default=None, description="the newest ONNX opset that the target server reads; None: it is not known")
    ir_version: int | None = Field(default=None, description="the newest IR version that the target server reads; None: it is not known")
    simplify: bool = Field(default=False, description="simplify the graph of the `onnx` flavor")
    requirements: tuple[str, ...] = Field(default=(), description="pip requirements that win over the model's own, for `to: python`")
    python: PythonBackend = Field(default=PythonBackend(), description="how `to: python` finds its packages on the server")


class Conversion(BaseModel):
    """What came of a conversion: what Triton is to serve, every file of its version directory with its digest, and the proof.

    `agreement` is what was compared with the MLflow model (None: a ready Triton model, which has no original).
    `seconds` is what each part took in the child (`convert`, `parity`), `peak_mib` the largest resident memory of its process.
    """

    model_config = ConfigDict(frozen=True)

    servable: Servable
    files: tuple[FileDigest, ...]
    agreement: Agreement | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_mib: float | None = None


class Converter(Protocol):
    """The functions of a converter's module.

    A module may have `example_inputs(model, servable, example) -> Arrays | None` too, where the logged example is not what the servable
    takes (text, of which the servable takes tokens): None where `example` is no such thing; without one (None), an example of its own.

    One of models of tables says so by `TABULAR = True`. Their originals take FP64 where the servable takes FP32, and are asked in their own
    precision, so that the proof of the conversion shows what the smaller one costs; and they may take missing values.
    """

    def convert(self, model: MlflowModel, into: VersionFolder, *, options: Options, example: Any) -> Servable:
        """Write the files of one version directory into `into` and describe them.

        `example` is the model's logged input example as MLflow gives it, or None.

        Raises:
            ConversionError: the model cannot become a servable, or contradicts its signature.

        """

    def original(self, model: MlflowModel, servable: Servable) -> Run:
        """The MLflow model itself, loaded: it takes the servable's inputs, and gives an array for each output of the servable.

        Raises:
            ConversionError: it cannot be loaded.
            ValidationDataError: there is no original that could answer outside of Triton (see `has_original`).

        """


class Runner(Protocol):
    """The function of a runner's module."""

    def load(self, folder: Path, servable: Servable) -> Run:
        """Load the files of a version directory, to be run in this process on the CPU (TensorRT: on the GPU).

        Raises:
            ConversionError: they do not load.

        """


def route_of(model: MlflowModel, form: Form) -> Route:
    """The way that a model goes to a form.

    Raises:
        ConversionError: there is none; it names both sides and what to do.

    """
    return route_from(model.flavors, form, where=model.folder)


def route_from(flavors: Collection[str], form: Form, *, where: object) -> Route:
    """As `route_of`, of a model whose flavors alone are known; `where` names it in the error."""
    for route in ROUTES:
        if route.flavor in flavors and route.form == form:
            return route
    had = ", ".join(sorted(flavors))
    others = forms_of(flavors)
    if not others:
        known = ", ".join(dict.fromkeys(route.flavor for route in ROUTES))
        raise ConversionError(
            f"{where}: the model has the flavors {had}; only models with one of {known} can be converted. Export it to ONNX in "
            "the training code and log that with mlflow.onnx.log_model"
        )
    remedy = " (`to: python` serves any model by Triton's Python backend)" if "python" in others else ""
    raise ConversionError(f"{where}: a model of {had} cannot become `to: {form}`; valid: {', '.join(others)}{remedy}")


def forms_of(flavors: Collection[str]) -> tuple[Form, ...]:
    """What models of these flavors can become."""
    return tuple(dict.fromkeys(route.form for route in ROUTES if route.flavor in flavors))


def original_of(servable: Servable) -> Converter:
    """The module that asks the original model of a servable (this imports what it needs)."""
    return converter(next(route for route in ROUTES if route.flavor == servable.flavor))


def converter(route: Route) -> Converter:
    """The module of a way (this imports what it needs)."""
    return cast("Converter", importlib.import_module(route.module))


def runner_of(servable: Servable) -> Runner | None:
    """The module that runs a servable's files; None where only Triton can (an ensemble, a backend of the user's own)."""
    module = RUNNERS.get(servable.backend)
    return cast("Runner", importlib.import_module(module)) if module else None
