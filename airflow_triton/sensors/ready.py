"""Waiting until a released version serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_triton.errors import ServerUnreachableError, SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.operators.base import spec_of
from airflow_triton.sensors.waiting import WaitingSensor

if TYPE_CHECKING:
    from airflow_triton.server import TritonClient
    from airflow_triton.triggers.waiting import WaitTrigger


class ModelReadySensor(WaitingSensor):
    """Wait until one version of a model is the only one that is ready, on every server and every replica.

    It is the version that is released (config.pbtxt names it, and its configuration has to be loaded too; beside it may be ready what
    stays loaded for a rollback, all of it), unless `version` says another one: then no higher one may be ready.
    A server that does not answer is waited for. For NONE mode, where a release serves after a restart.

    :param spec: the deployment: the path of a spec file, or its content as a mapping (templated)
    :param model: instead of a spec: the model's name on Triton (templated)
    :param servers: connection ids or URLs (templated); default: the spec's, or TRITON_URL in the environment
    :param repository: the model repository (templated), not read where `version` is given; default: the spec's, or TRITON_MODEL_REPO in
        the environment
    :param version: the version to wait for; default: the one that is released (templated)
    :param deferrable: see WaitingSensor
    """

    template_fields: Sequence[str] = ("spec", "model", "version", "servers", "repository")
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

    @property
    def wait_id(self) -> str:
        """The model's name."""
        return str(self.model) if self.spec is None else str(spec_of(self.spec, self.task_id).name)

    def look(self) -> tuple[bool, WaitTrigger | None]:
        """See WaitingSensor."""
        from airflow_triton.rollout.serving import Servers
        from airflow_triton.rollout.target import find_addresses, find_servers

        if (self.spec is None) == (self.model is None):
            raise SpecError(f"the sensor `{self.task_id}` takes either a `spec` or a `model`")
        spec = spec_of(self.spec, self.task_id) if self.spec is not None else None
        model = spec.name if spec else str(self.model)
        versions, config = self._wanted(model, spec)
        names = find_servers(spec, servers=self.servers)
        if not names:
            raise SpecError(f"the sensor `{self.task_id}` has no server: looked at `servers`, the spec's, and TRITON_URL")
        addresses = find_addresses(spec, servers=self.servers, connections=airflow_connections())
        try:
            with Servers.connected(addresses) as servers:
                found = [self._is_there(client, model, versions, config) for client in servers.clients]  # each is told in the log
        except ServerUnreachableError as error:  # a name that stands for replicas, of which there are none now
            self.log.info("%s", error)
            found = [False]
        return all(found), self._trigger(model, versions, names)

    def _trigger(self, model: str, versions: tuple[int, ...], names: Sequence[str]) -> WaitTrigger | None:
        if not versions:
            return None
        from airflow_triton.triggers.ready import ModelReadyTrigger

        return ModelReadyTrigger(model=model, version=versions[-1], servers=names, poll_interval=self.poke_interval)

    def _wanted(self, model: str, spec: Any) -> tuple[tuple[int, ...], str | None]:
        """The versions that have to be ready, the last one to serve, and the configuration that it has to be loaded with, if that is known.

        No version where none is released.
        """
        from airflow_triton.repository import releases
        from airflow_triton.rollout.target import find_repository

        version = self.number("version", self.version)
        if version is not None:
            return (version,), None
        found = releases(find_repository(spec, repository=self.repository, connections=airflow_connections()), model)
        return (found[-1].versions, found[-1].config) if found else ((), None)

    def _is_there(self, client: TritonClient, model: str, versions: tuple[int, ...], config: str | None) -> bool:
        from airflow_triton.rollout.control import satisfies

        try:
            ready = client.ready_versions(model)
            serves = ready == versions if config is not None else ready[-1:] == versions
            there = bool(versions) and serves and (config is None or satisfies(client.config(model, versions[-1]), config))
        except ServerUnreachableError as error:
            self.log.info("%s", error)
            return False
        self.log.info("%s has ready: %s; wanted are %s: %s", client.address, list(ready), list(versions), "there" if there else "not yet")
        return there
