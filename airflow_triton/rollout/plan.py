"""What `deploy` would do, and why, found out without touching anything."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from airflow_triton import model_config, repository
from airflow_triton.convert.base import route_from
from airflow_triton.errors import ConversionError, DeployError, ModelConfigError, ServerError
from airflow_triton.registry import ModelSource
from airflow_triton.repository import Release
from airflow_triton.rollout.pipeline import Rollout
from airflow_triton.rollout.records import deployment_id, onnx_id, servable_id
from airflow_triton.rollout.status import ServerStatus, server_status
from airflow_triton.servable import Servable
from airflow_triton.validation.warm_up import Shapes, shapes_in

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

Action: TypeAlias = Literal["deploy", "reconfigure", "load", "tidy", "nothing", "refused", "unknown"]


class Plan(BaseModel):
    """What `deploy` would do with one spec.

    `action`: `deploy` another version, or the same one made otherwise; `reconfigure` it; `load` it on servers that lack it; `tidy` up
    (an alias, what is left over); `nothing`. `refused`: it would end with an error before anything changed. `unknown`: who has to be
    asked does not answer. `why` says it in sentences, `problems` what would end it, and `exit_code` is what it would end with.

    `source` is the MLflow version that the spec means now, `registered` its number; `released` is the version that config.pbtxt names,
    `versions` are those that are stored. `conversion` says where the files come from (None: none are needed). `config_diff` is how
    config.pbtxt changes, its version policy left out; with `config_known` false the model has to be converted first, and the diff is
    of what the spec's `config` changes in the released one. `removed` are the versions that would go.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    action: Action
    why: tuple[str, ...]
    model: str
    source: str | None = None
    registered: int | None = None
    released: int | None = None
    versions: tuple[int, ...] = ()
    servers: tuple[ServerStatus, ...] = ()
    conversion: str | None = None
    config_known: bool = True
    config_diff: str = ""
    removed: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    exit_code: int = 0


def plan(rollout: Rollout) -> Plan:
    """What `deploy` would do with this rollout. It raises nothing for what it finds; that is in `problems`.

    Guarantee: nothing is written anywhere, and no server is told to load or to unload anything (so whether it is in the declared
    control mode is not found out). The data of the validation is not read, and the candidate is not judged; where Triton is to warm up
    a model whose shapes vary, they are shown as they were released, else as -1.

    Cost: what MLflow takes to resolve the model and to tell its tags and aliases, and one question to each server.
    """
    draft = _Draft(rollout)
    try:
        action = draft.action(draft.source())
    except DeployError as error:
        draft.stopped_by(error)
        action = "unknown" if error.transient else "refused"
    return Plan(
        name=rollout.spec.name,
        model=rollout.spec.model,
        action=action,
        why=tuple(draft.why),
        problems=tuple(draft.problems),
        exit_code=draft.exit_code,
        **draft.facts,
    )


class _Draft:
    """A plan in the making. `found` are the releases of each repository, the first one's first."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.spec = rollout.spec
        self.name = rollout.spec.name
        self.found: list[list[Release]] = []
        self.why: list[str] = []
        self.problems: list[str] = []
        self.exit_code = 0
        self.facts: dict[str, Any] = {}

    def stopped_by(self, error: DeployError) -> None:
        """Note what would end `deploy`."""
        self.problems.append(str(error))
        self.exit_code = self.exit_code or error.exit_code

    def source(self) -> ModelSource:
        """What is stored, served and, answered, registered. A server that does not answer does not hide the rest."""
        self.rollout.check_declared()
        for fleet in self.rollout.fleets:
            if fleet.store.on_disk:
                fleet.store.check_exists()  # a store says so when it is read, and would be probed and marked by it
            self.found.append(repository.releases(fleet.store, self.name))
        if self.found[0]:
            self.facts["released"] = self.found[0][-1].version
        self.facts["versions"] = tuple(self.rollout.store.versions(self.name))
        self.facts["servers"] = servers = tuple(
            server_status(client, self.name, str(fleet.store)) for fleet in self.rollout.fleets for client in fleet.servers.clients
        )
        for row in servers:
            if row.ready is None:
                self.stopped_by(ServerError(row.problem))
        source = self.rollout.source()
        self.facts |= {"source": str(source), "registered": source.version}
        return source

    def action(self, source: ModelSource) -> Action:
        """What would be done to let `source` serve."""
        behind = [not self.rollout.has_released(fleet, source) for fleet in self.rollout.fleets]
        if any(behind):
            return self._deployment(source, behind)
        return self._settled(source)

    # --- nothing to release

    def _settled(self, source: ModelSource) -> Action:
        late = self._lacking()
        tidied = self._alias(source) + self._leftovers(source) + self._removed(self.found, released=True)
        if late and not self.rollout.servers.control.takes_candidates:
            self.why += [f"{each}; in NONE mode it serves it once it has been started again" for each in late]
            late = []
        self.why += [*late, *tidied] or [f"version {source.version} is released already"]
        if any(row.ready is None for row in self.facts["servers"]):
            return "unknown"
        return "load" if late else "tidy" if tidied else "nothing"

    def _lacking(self) -> list[str]:
        released = {str(fleet.store): found[-1].versions for fleet, found in zip(self.rollout.fleets, self.found, strict=True)}
        return [
            f"{row.server} serves {list(row.ready) or 'nothing'}, released is {' and '.join(map(str, released[row.repository]))}"
            for row in self.facts["servers"]
            if row.ready is not None and row.ready != released[row.repository]
        ]

    # --- a release

    def _deployment(self, source: ModelSource, behind: list[bool]) -> Action:
        whole = servable_id(self.spec, source)
        current = self.found[0][-1] if self.found[0] else None
        self.why += self._reasons(source, behind, current)
        if found := self.rollout.verdicts.rejection(source, spec_digest=self.spec.digest()):
            self.why.append(
                f"{source} was {found.verdict} {'by' if found.verdict == 'rejected' else 'under'} this very spec ({found.at}): "
                f"{found.why.removeprefix(f'{found.verdict}: ')}; it would be tried again, but not by a DAG that follows the registry"
            )
        if self.spec.promote.approval:
            self.why.append("once it has passed, it waits for a person's approval in Airflow (`airflow-triton apply --approve` gives it)")
        told, servable = self._files(source)
        self.facts["conversion"] = told
        self._config(source, servable, current)
        self.why += self._remade(source, whole) + self._alias(source) + self._leftovers(source)
        coming = Release(id=deployment_id(self.spec, source), version=source.version, servable_id=whole, how="promote", config="")
        self.why += self._removed([[*found, coming] for found in self.found], released=False)
        same = current is not None and (current.version, current.servable_id) == (source.version, whole)
        return "reconfigure" if same and behind[0] else "deploy"

    def _reasons(self, source: ModelSource, behind: list[bool], current: Release | None) -> list[str]:
        if not all(behind):
            places = [str(fleet.store) for fleet, late in zip(self.rollout.fleets, behind, strict=True) if late]
            return [f"version {source.version} is released, but not yet in {', '.join(places)}: an earlier attempt was cut off"]
        if current is None:
            return [f"`{self.name}` has no release yet: {self.spec.model} is version {source.version}"]
        if current.version != source.version:
            back = f" (rolled back, {current.at}{f', {current.by}' if current.by else ''})" if current.how == "rollback" else ""
            return [f"{self.spec.model} is version {source.version}, released is version {current.version}{back}"]
        if current.servable_id != servable_id(self.spec, source):
            return [f"version {current.version} was released as made of something else: its content or the spec's `convert` changed"]
        return [f"version {current.version} was released with another `config` than the spec has"]

    def _files(self, source: ModelSource) -> tuple[str, Servable | None]:
        """Where the files would come from, in words; and what Triton would serve, where that is known."""
        whole, plans = servable_id(self.spec, source), self.spec.convert.plans is not None
        if stored := self.rollout.files.stored(source):
            return "the stored version is reused", stored.servable
        if waiting := self.rollout.files.waiting(source, whole):
            return "what an earlier attempt converted is reused", waiting.servable
        after = "; TensorRT plans are built of it" if plans else ""
        if plans:
            self._tell_of_tools()
            if self.rollout.files.waiting(source, onnx_id(self.spec, source)):
                return f"the ONNX model that an earlier attempt converted is reused{after}", None
        route = route_from(source.flavors, self.spec.convert.form, where=source)
        with contextlib.suppress(ServerError):  # what the servers read decides the files; the plan has said who does not answer
            if kept := self.rollout.conversions.kept(source):
                return f"from the cache of conversions{after}", None if plans else self.rollout.files.accelerated(kept.servable)
        return f"convert {route.flavor} to {self.spec.convert.form}{after}", None

    def _tell_of_tools(self) -> None:
        try:
            self.rollout.plans.require_here()
        except ConversionError as error:
            self.why.append(f"the TensorRT plans cannot be built here, but by a GPU worker of Airflow: {error}")

    def _config(self, source: ModelSource, servable: Servable | None, current: Release | None) -> None:
        before = current.config if current else ""

        def known(_: ModelConfig) -> Shapes:
            return shapes_in(model_config.parse(before))

        if servable is not None:
            self.facts["config_diff"] = model_config.diff(before, self.rollout.config(servable, source.version, known))
            return
        self.facts["config_known"] = False
        manifest = self.rollout.store.manifest(self.name, current.version) if current else None
        if manifest is not None and manifest.servable is not None:
            with contextlib.suppress(ModelConfigError):  # it may be right for the model that comes
                self.facts["config_diff"] = model_config.diff(before, self.rollout.config(manifest.servable, source.version, known))

    def _remade(self, source: ModelSource, whole: str) -> list[str]:
        """What to expect where the version is stored with other files."""
        version = source.version
        for fleet, found in zip(self.rollout.fleets, self.found, strict=True):
            stored = fleet.store.manifest(self.name, version) if any(release.version == version for release in found) else None
            if stored is not None and stored.servable_id != whole:
                told = f"version {version} has served as it is stored in {fleet.store}, and stored versions never change"
                return [f"{told}: other files end as a conflict; register the model as a new version"]
        return []

    # --- what comes with it

    def _alias(self, source: ModelSource) -> list[str]:
        alias = self.spec.promote.alias
        at = self.rollout.registry.aliases(source.name).get(alias) if alias else None
        if alias is None or at == source.version:
            return []
        came = f"from version {at} " if at is not None else ""
        return [f"the alias `{alias}` of `{source.name}` moves {came}to version {source.version}"]

    def _leftovers(self, source: ModelSource) -> list[str]:
        own = repository.candidate_name(self.name, source.version, deployment_id(self.spec, source))
        left = {
            name
            for fleet in self.rollout.fleets
            for name in {*repository.stale_candidates(fleet.store, self.name), *({own} & set(fleet.store.candidates(self.name)))}
        }
        return [f"the candidate `{name}`, which an earlier attempt left, goes" for name in sorted(left)]

    def _removed(self, found: list[list[Release]], *, released: bool) -> list[str]:
        gone = {
            version
            for fleet, past in zip(self.rollout.fleets, found, strict=True)
            for version in repository.superfluous(fleet.store, self.name, past, keep=self.spec.promote.keep)
            if released or version != past[-1].version
        }
        self.facts["removed"] = tuple(sorted(gone))
        kept = f"promote.keep: {self.spec.promote.keep}"
        return [f"version {version} is removed ({kept})" for version in sorted(gone)]
