"""MLflow's client of the `triton` target."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.deployments import BaseDeploymentClient  # noqa: TID253 MLflow imports this module, so it is loaded already

from airflow_triton import repository
from airflow_triton.errors import SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.registry import Registry
from airflow_triton.rollout import Target, delete, find_target, status
from airflow_triton.spec import Spec
from mlflow_plugin.deployments import endpoints, predictions, rows, texts
from mlflow_plugin.deployments.deploying import deployed
from mlflow_plugin.deployments.errors import not_there, refused, told_as_mlflow
from mlflow_plugin.deployments.settings import mapping_of, servers_at, servers_of, spec_of

_OF_DELETE = {"repository", "servers", "control_mode", "tracking_uri"}

_log = logging.getLogger(__name__)


class TritonDeploymentClient(BaseDeploymentClient):
    """Deployments on one Triton, or on those of `TRITON_URL`. See `target_help` for target URIs and configuration.

    `endpoint`, wherever it is taken, names servers in place of the target's: a URL, or the id of an Airflow connection; several, separated
    by commas. Every error is an MlflowException.
    """

    def create_deployment(
        self, name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Deploy a registered model under `name`; answers `name`, `flavor`, `version`, `action` and `warnings`.

        The flavor is the model's own; to name another one is refused. Idempotent: what is deployed already is left alone. A deployment of
        NVIDIA's plugin under this name is taken over first, and serves on until the new version has passed. Where `config` says nothing
        of `validate`, a model without an input example is validated with made-up rows, and a warning says so.

        Raises:
            MlflowException: with the reason, where the model was not deployed. What served still serves.

        """
        with told_as_mlflow():
            spec = spec_of(name, model_uri, config)
            source, outcome = deployed(spec, self._target(spec, endpoint), config, flavor=flavor)
        served = flavor or next((each for each in source.flavors if each != "python_function"), "python_function")
        return {
            "name": name,
            "flavor": served,
            "version": outcome.version,
            "action": outcome.action,
            "warnings": list(outcome.warnings),
        }

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
            raise refused("say which model: --model-uri, or -C spec=FILE")
        return self.create_deployment(name, model_uri or "", flavor, config, endpoint)

    def delete_deployment(self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None) -> None:
        """Delete a deployment: from every server first, then its files, then its tags and aliases in MLflow. What is not there is fine.

        Of `config` it takes `spec`, `repository`, `servers`, `control_mode` and `tracking_uri`.

        Raises:
            MlflowException: others put the model there (and not NVIDIA's plugin), a server does not answer, or someone released meanwhile.

        """
        with told_as_mlflow():
            settings = mapping_of(config)
            spec = spec_of(name, None, config) if "spec" in (config or {}) else None
            if spec is None and (unknown := sorted(set(settings) - _OF_DELETE)):
                raise SpecError(f"-C {unknown[0]}: delete takes {', '.join(sorted({*_OF_DELETE, 'spec'}))}")
            target = find_target(
                spec,
                repository=settings.get("repository") if spec is None else None,
                servers=self._servers(endpoint) or (() if spec else _listed(settings.get("servers"))),
                connections=airflow_connections(),
                control_mode=settings.get("control_mode"),
            )
            with target.connected() as fleets:
                outcome = delete(name, fleets, Registry(settings.get("tracking_uri")), progress=_log.info)
        for warning in outcome.warnings:
            _log.warning("%s", warning)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Every deployment in the repository, with what its servers have ready: those of this package and of NVIDIA's plugin."""
        with told_as_mlflow():
            return rows.listed(self._target(None, endpoint))

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """One deployment with everything that is known of it; MlflowException where there is none of this name."""
        with told_as_mlflow():
            target = self._target(None, endpoint)
            repository.check_model_name(name)
            found = rows.one(name, target, status(name, target))
        if found is None:
            raise not_there(f"there is no deployment `{name}` in {target.store}")
        return found

    def predict(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> predictions.Predictions:
        """Ask what serves, and answer in the shape of the model's signature.

        `inputs` is a table (a data frame, a dictionary of columns, a list of records), an array or a list for a model with one input, or
        one array for each input: as a dictionary, as a data frame with a column for each, or as NVIDIA's plugin has it, a data frame with
        the one column `inputs` and a row for each. More rows than the model takes at once are asked in several requests. Without a name,
        the endpoint's only model is asked.

        Raises:
            MlflowException: there is no such model, the inputs do not fit it, or no server answers.

        """
        with told_as_mlflow():
            return predictions.predicted(deployment_name, inputs, lambda: self._target(None, endpoint), self._addresses(endpoint))

    def predict_stream(self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None) -> Iterator[Any]:  # noqa: ARG002
        """Refused: see the message."""
        raise refused(texts.NO_STREAM)

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:  # noqa: ARG002
        """Refused: see the message."""
        raise refused(texts.NO_EXPLAIN)

    def list_endpoints(self) -> list[dict[str, Any]]:
        """The servers of the target: `name` (its URL), whether it is `live`, its `version`, the `models` that are ready there."""
        with told_as_mlflow():
            return endpoints.described(self._addresses(None))

    def get_endpoint(self, endpoint: str) -> dict[str, Any]:
        """One server, as `list_endpoints` tells it; MlflowException where it does not answer."""
        with told_as_mlflow():
            (found, *_) = endpoints.described(self._addresses(endpoint))
        if not found["live"]:
            raise not_there(f"the endpoint {found['name']} does not answer: {found['problem']}")
        return found

    def create_endpoint(self, name: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Refused: see the message."""
        raise refused(texts.no_endpoint("create", "Start a tritonserver, or `mlflow deployments run-local` for one of this machine's own"))

    def update_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Refused: see the message."""
        raise refused(texts.no_endpoint("update", "Restart the server with other arguments, or update its deployments"))

    def delete_endpoint(self, endpoint: str) -> None:  # noqa: ARG002
        """Refused: see the message."""
        raise refused(texts.no_endpoint("delete", "Stop the server where it runs, or delete its deployments"))

    def _servers(self, endpoint: str | None) -> tuple[str, ...]:
        return servers_of(self.target_uri) if endpoint is None else servers_at(endpoint)

    def _addresses(self, endpoint: str | None) -> predictions.Addresses:
        return endpoints.addresses(self._servers(endpoint))

    def _target(self, spec: Spec | None, endpoint: str | None) -> Target:
        return find_target(spec, servers=self._servers(endpoint), connections=airflow_connections())


def _listed(servers: Any) -> tuple[str, ...]:
    return (servers,) if isinstance(servers, str) else tuple(servers or ())
