"""The `triton` deployment target of MLflow: `mlflow deployments create -t triton --name iris -m models:/iris@challenger`.

It is the same pipeline as everywhere: a model serves only after it was validated on the server, and a refused one leaves what
served. MLflow finds this module by its entry point and wants `target_help`, `run_local` and one client class in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from mlflow.deployments import BaseDeploymentClient  # noqa: TID253 MLflow imports this module, so it is loaded already
from mlflow.exceptions import MlflowException  # noqa: TID253 see above
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST  # noqa: TID253 see above

from airflow_triton.errors import DeployError, SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.rollout import Target, deploy, find_target, opened, status
from airflow_triton.spec import Spec, load_spec, spec_from_mapping

_SCHEMES = {"triton": "http", "tritons": "https"}


def target_help() -> str:
    """What `mlflow deployments help -t triton` prints."""
    return """Deploy to NVIDIA Triton, validated on the server before it serves.

Target URIs:
  triton                 the server of TRITON_URL (http://host:8000, grpc://host:8001; several: separated by commas)
  triton://host:8000     this server, over HTTP
  tritons://host:8000    this server, over HTTPS
  triton:/CONNECTION     the server of this Airflow connection

The model repository is TRITON_MODEL_REPO, or -C repository=DIR.

-C KEY=VALUE sets any key of the spec: -C config.max_batch_size=64, -C validate.metrics.accuracy.min=0.9, -C promote.alias=champion.
-C spec=FILE starts from a spec file; --name and --model-uri are set over it.

  mlflow deployments create -t triton --name iris -m models:/iris@challenger -C repository=/models
"""


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:  # noqa: ARG001
    """What `mlflow deployments run-local` calls; not available yet."""
    raise MlflowException(
        f"run-local is not available yet. Start a local Triton with `airflow-triton serve --repository models --http-port 8000`, then: "
        f"mlflow deployments create -t triton://127.0.0.1:8000 --name {name} -m {model_uri} -C repository=models",
        error_code=INVALID_PARAMETER_VALUE,
    )


class TritonDeploymentClient(BaseDeploymentClient):
    """Deployments on one Triton, or on those of `TRITON_URL`. See `target_help` for target URIs and configuration."""

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Deploy a registered model under `name`; answers `name`, `flavor`, `version` and `action`.

        The flavor is the model's own; to name another one is refused. Idempotent: what is deployed already is left alone.

        Raises:
            MlflowException: with the reason, where the model was not deployed. What served still serves.

        """
        _refuse_endpoint(endpoint)
        try:
            spec = _spec(name, model_uri, config)
            with opened(spec, self._target(spec)) as rollout:
                source = rollout.resolve()
                if flavor is not None and flavor not in source.flavors:
                    raise SpecError(f"the flavor `{flavor}` is not one of {source}'s: {', '.join(source.flavors)}")
                outcome = deploy(rollout)
        except DeployError as error:
            raise _translated(error) from error
        served = flavor or next((each for each in source.flavors if each != "python_function"), "python_function")
        return {"name": name, "flavor": served, "version": outcome.version, "action": outcome.action}

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Deploy another version; the same as `create_deployment`, which never touches what serves before the new one has passed."""
        if model_uri is None and "spec" not in (config or {}):
            raise MlflowException("say which model: --model-uri, or -C spec=FILE", error_code=INVALID_PARAMETER_VALUE)
        return self.create_deployment(name, model_uri or "", flavor, config, endpoint)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The models of the repository, each with the version that is stored and what each server has ready."""
        _refuse_endpoint(endpoint)
        try:
            target = self._target(None)
            return [_described(status(name, target).model_dump(mode="json")) for name in target.store.models()]
        except DeployError as error:
            raise _translated(error) from error

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One of `list_deployments`; MlflowException where there is none of this name."""
        for found in self.list_deployments(endpoint):
            if found["name"] == name:
                return found
        raise MlflowException(f"there is no deployment `{name}`", error_code=RESOURCE_DOES_NOT_EXIST)

    def delete_deployment(self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None) -> None:  # noqa: ARG002
        """Not available yet: raises MlflowException and changes nothing."""
        raise MlflowException(f"delete is not available yet; `{name}` is left as it is", error_code=INVALID_PARAMETER_VALUE)

    def predict(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> Any:  # noqa: ARG002
        """Not available yet: raises MlflowException."""
        raise MlflowException(
            "predict is not available yet; ask Triton itself at /v2/models/NAME/infer", error_code=INVALID_PARAMETER_VALUE
        )

    def _target(self, spec: Spec | None) -> Target:
        return find_target(spec, servers=_servers(self.target_uri), connections=airflow_connections())


def _servers(target_uri: str) -> tuple[str, ...]:
    """The servers that a target URI names; none for plain `triton`, which leaves it to the spec and the environment."""
    parts = urlsplit(target_uri)
    if not parts.scheme:
        return ()
    if parts.netloc and parts.scheme in _SCHEMES and not (parts.path.strip("/") or parts.query):
        return (f"{_SCHEMES[parts.scheme]}://{parts.netloc}",)
    connection = parts.path.strip("/")
    if parts.scheme == "triton" and not parts.netloc and connection and "/" not in connection:
        return (connection,)
    raise SpecError("the target is no Triton: valid are triton, triton://host:8000, tritons://host:8000 and triton:/CONNECTION")


def _spec(name: str, model_uri: str, config: Mapping[str, Any] | None) -> Spec:
    """The spec that a command line amounts to: a file's, or none, with each `-C` set over it."""
    settings = dict(config or {})
    start = settings.pop("spec", None)
    mapping: dict[str, Any] = load_spec(start).to_mapping() if start else {}
    for key, value in settings.items():
        section = mapping
        *above, last = key.split(".")
        for part in above:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise SpecError(f"-C {key}: `{part}` is a value, not a section")
        section[last] = yaml.safe_load(value) if isinstance(value, str) else value
    mapping["name"] = name
    if model_uri:
        mapping["model"] = model_uri
    return spec_from_mapping(mapping, where="mlflow deployments", folder=Path.cwd())


def _refuse_endpoint(endpoint: str | None) -> None:
    if endpoint is not None:
        raise MlflowException(f"--endpoint {endpoint}: endpoints are not available yet; a target is one Triton", INVALID_PARAMETER_VALUE)


def _described(row: dict[str, Any]) -> dict[str, Any]:
    return {"name": row["name"], "flavor": "triton", **{key: value for key, value in row.items() if key != "name"}}


def _translated(error: DeployError) -> MlflowException:
    code = INVALID_PARAMETER_VALUE if isinstance(error, SpecError) else None
    message = f"{type(error).__name__}: {error}"
    return MlflowException(message, error_code=code) if code is not None else MlflowException(message)
