"""The `triton` flavor of MLflow: a ready Triton model directory, logged, registered and loaded; and asked through a running server.

What it writes is what NVIDIA's plugin writes (`flavors.triton.data` names the folder), so either package deploys what the other has
logged. Besides, the model is a `python_function`: `mlflow.pyfunc.load_model(uri).predict(rows)` asks the Triton that serves it, and so does
whatever takes an MLflow model, such as `mlflow.models.evaluate`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_triton.convert import mlmodel
from airflow_triton.errors import DeployError, SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.rollout.target import find_addresses
from airflow_triton.server import TritonClient

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo

FLAVOR_NAME = "triton"
SERVER, MODEL = "server", "model"
"""The keys of the pyfunc's `model_config`."""
_AWAIT_SECONDS = 300


def save_model(
    triton_model_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    mlflow_model: Model | None = None,
    *,
    signature: ModelSignature | None = None,
    input_example: Any = None,
    server: str | None = None,
    model: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Save a ready Triton model directory (config.pbtxt, version folders) as an MLflow model at `path`, which must not exist yet.

    `server` is the Triton that the pyfunc asks (a URL, or the id of an Airflow connection; else that of `TRITON_URL` when it is asked), and
    `model` its name there (else the folder's); both can be given again when it is loaded. `signature`, `input_example` and `metadata` are
    as for every flavor.

    Raises:
        MlflowException: `path` exists, or `triton_model_path` is no directory of a Triton model.

    """
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from mlflow.models.utils import _save_example
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS

    source, target = Path(os.path.normpath(triton_model_path)).absolute(), Path(path)
    _check(source)
    if target.exists() and any(target.iterdir()):
        raise MlflowException(f"{target} exists already, and is not empty", error_code=RESOURCE_ALREADY_EXISTS)
    described = Model() if mlflow_model is None else mlflow_model
    target.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target / source.name)
    if signature is not None:
        described.signature = signature
    if input_example is not None:
        _save_example(described, input_example, str(target))
    if metadata is not None:
        described.metadata = dict(metadata)
    described.add_flavor(FLAVOR_NAME, data=source.name)
    pyfunc.add_to_model(described, loader_module=__name__, model_config={SERVER: server or "", MODEL: model or source.name})
    described.save(str(target / "MLmodel"))


def _check(folder: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    from airflow_triton.convert.ready.files import model_folder

    try:
        if not folder.is_dir():
            raise SpecError(f"{folder} is no folder")
        model_folder(folder)
    except DeployError as error:
        raise MlflowException(
            f"{folder} is no Triton model directory (config.pbtxt and folders of versions, such as 1/model.onnx): {error}",
            error_code=INVALID_PARAMETER_VALUE,
        ) from None


def log_model(
    triton_model_path: str | os.PathLike[str],
    artifact_path: str | None = None,
    registered_model_name: str | None = None,
    await_registration_for: int | None = _AWAIT_SECONDS,
    *,
    name: str | None = None,
    **options: Any,
) -> ModelInfo:
    """Log a ready Triton model directory in the current run (or a new one), and register it where `registered_model_name` is given.

    The first four arguments are those of NVIDIA's flavor; `name` is MLflow 3's word for `artifact_path`, and `options` are those of
    `save_model`.
    """
    from mlflow.models import Model

    logged: ModelInfo = Model.log(
        artifact_path=None,
        name=name or artifact_path or "model",
        flavor=sys.modules[__name__],
        registered_model_name=registered_model_name,
        await_registration_for=await_registration_for,
        triton_model_path=triton_model_path,
        **options,
    )
    return logged


def load_model(model_uri: str, dst_path: str | None = None) -> TritonModel:
    """Download a model of this flavor: its folder, and a way to ask it. `dst_path` is the folder to download to, else a temporary one.

    Raises:
        MlflowException: there is no such model, or it has no flavor `triton`.

    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    local = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=dst_path))
    try:
        return _loaded(local, {})
    except DeployError as error:
        raise MlflowException(f"{model_uri}: {error}") from None


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> TritonModel:
    """What MLflow calls for `mlflow.pyfunc.load_model`."""
    return _loaded(Path(path), model_config or {})


def _loaded(folder: Path, config: Mapping[str, Any]) -> TritonModel:
    described = mlmodel.read(folder)
    if FLAVOR_NAME not in described.flavors:
        raise SpecError(f"it has the flavors {', '.join(sorted(described.flavors))}, and not `{FLAVOR_NAME}`")
    logged = described.flavors.get("python_function", {}).get("config") or {}
    data = described.file(FLAVOR_NAME, "data")
    return TritonModel(
        path=data,
        name=str(config.get(MODEL) or logged.get(MODEL) or data.name),
        server=str(config.get(SERVER) or logged.get(SERVER) or ""),
        described=described,
    )


@dataclass(frozen=True)
class TritonModel:
    """A Triton model directory at `path`, served as `name` by `server` ("": that of `TRITON_URL`)."""

    path: Path
    name: str
    server: str
    described: mlmodel.MlflowModel

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the running server, and answer in the shape of the model's signature (without one: a dictionary of arrays by output).

        `model_input` is a table, an array or a list, or one array for each input, as for `predict` of the deployment target. There are no
        `params`.

        Raises:
            MlflowException: there is no server, it does not answer, it has no such model, or the input does not fit.

        """
        from mlflow_plugin.asking import question, served, shaped
        from mlflow_plugin.deployments.errors import refused, told_as_mlflow

        if params:
            raise refused(f"a model on Triton takes no params, and there are: {', '.join(map(str, params))}")
        with told_as_mlflow(), self._client() as client:
            found = served(client, self.name)
            outputs = found.ask(client, question(model_input, found, self.described.columns).arrays)
        return shaped(outputs, self.described.outputs)

    def _client(self) -> TritonClient:
        addresses = find_addresses(servers=(self.server,) if self.server else (), connections=airflow_connections())
        if not addresses:
            raise SpecError(
                f"no Triton to ask `{self.name}` on: set TRITON_URL, or load it with model_config={{'{SERVER}': 'grpc://host:8001'}}"
            )
        return TritonClient(addresses[0].replicas()[0])
