"""Waiting until a released version serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator, Context

from airflow_triton.errors import ServerUnreachableError, SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.operators.base import errors_for_airflow, spec_of

if TYPE_CHECKING:
    from airflow_triton.server import TritonClient


class ModelReadySensor(BaseSensorOperator):
    """Wait until one version of a model is the only one that is ready, on every server.

    It is the version that is released (config.pbtxt names it, and its configuration has to be loaded too), unless `version` says
    another one. A server that does not answer is waited for. For NONE mode, where a release serves after a restart.

    :param spec: the deployment: the path of a spec file, or its content as a mapping (templated)
    :param model: instead of a spec: the model's name on Triton (templated)
    :param servers: connection ids or URLs; default: the spec's, or TRITON_URL in the environment
    :param repository: the model repository, not read where `version` is given; default: the spec's, or TRITON_MODEL_REPO in the environment
    :param version: the version to wait for; default: the one that is released (templated)
    """

    template_fields: Sequence[str] = ("spec", "model", "version")
    template_fields_renderers: ClassVar[dict[str, str]] = {"spec": "json"}
    ui_color = "#76b900"

    def __init__(
        self,
        *,
        spec: str | Mapping[str, Any] | None = None,
        model: str | None = None,
        servers: Sequence[str] = (),
        repository: str | None = None,
        version: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.model = model
        self.servers = servers
        self.repository = repository
        self.version = version

    def poke(self, context: Context) -> bool:  # noqa: ARG002 Airflow's signature
        """Whether every server is there."""
        from airflow_triton.rollout.serving import Servers
        from airflow_triton.rollout.target import find_addresses

        with errors_for_airflow():
            if (self.spec is None) == (self.model is None):
                raise SpecError(f"the sensor `{self.task_id}` takes either a `spec` or a `model`")
            spec = spec_of(self.spec, self.task_id) if self.spec is not None else None
            model = spec.name if spec else str(self.model)
            version, config = self._wanted(model, spec)
            addresses = find_addresses(spec, servers=self.servers, connections=airflow_connections())
            if not addresses:
                raise SpecError(f"the sensor `{self.task_id}` has no server: looked at `servers`, the spec's, and TRITON_URL")
            with Servers.connected(addresses) as servers:
                found = [self._is_there(client, model, version, config) for client in servers.clients]  # each is told in the log
        return all(found)

    def _wanted(self, model: str, spec: Any) -> tuple[int | None, str | None]:
        """The version, and the configuration that it has to be loaded with, if that is known; no version where none is released."""
        from airflow_triton.repository import releases
        from airflow_triton.rollout.target import find_repository

        if self.version not in (None, ""):
            return int(str(self.version)), None
        found = releases(find_repository(spec, repository=self.repository, connections=airflow_connections()), model)
        return (found[-1].version, found[-1].config) if found else (None, None)

    def _is_there(self, client: TritonClient, model: str, version: int | None, config: str | None) -> bool:
        from airflow_triton.rollout.control import satisfies

        try:
            ready = client.ready_versions(model)
            there = ready == (version,) and (config is None or satisfies(client.config(model, version), config))
        except ServerUnreachableError as error:
            self.log.info("%s", error)
            return False
        self.log.info("%s has ready: %s; wanted is version %s: %s", client.address, list(ready), version, "there" if there else "not yet")
        return there
