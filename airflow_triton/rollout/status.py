"""What is declared, registered, stored and served, side by side, for one model and each of its servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from airflow_triton import repository
from airflow_triton.errors import DeployError, ServerError
from airflow_triton.registry import Registry
from airflow_triton.repository import ForeignModel, Release, Repository, StoredModel
from airflow_triton.repository.layout import is_candidate
from airflow_triton.rollout import drift
from airflow_triton.rollout.target import Target
from airflow_triton.rollout.verdicts import Verdicts
from airflow_triton.server import LoadedModel, TritonClient, ready
from airflow_triton.spec import Spec

_AT_ONCE = 16
"""Models that are looked at at a time."""


class ServerStatus(BaseModel):
    """One server: the versions that are ready there, or why that is not known (`problem`); and the repository that it serves from."""

    model_config = ConfigDict(frozen=True)

    server: str
    ready: tuple[int, ...] | None
    problem: str | None = None
    repository: str = ""


class Status(BaseModel):
    """One model. None means unknown or not there; `problems` tells which, and every drift, in words.

    `registered` is the version that `model` means in MLflow now, `stored` the one that config.pbtxt lets serve, of all `versions` that
    are stored; `since` when, and let so `by` whom, as far as that is known. They are those of the first repository.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    model: str | None
    registered: int | None
    stored: int | None
    versions: tuple[int, ...]
    servers: tuple[ServerStatus, ...]
    verdict: str | None
    verdict_version: int | None
    problems: tuple[str, ...]
    since: str | None = None
    by: str | None = None


def status(name: str, target: Target, *, spec: Spec | None = None, thorough: bool = False) -> Status:
    """Look everywhere and touch nothing. What does not answer is told in `problems`; it never raises for it.

    A model that others put there is told as its own version policy has it; `stored` is the highest version that serves by it.

    The registered model is the spec's or, without a spec, the one that the stored version was made of. Of the files that serve, the
    presence and the sizes are compared with the manifest's; `thorough` reads every byte.
    """
    with _looked(target) as fleets:
        stored = [repository.stored_model(fleet.store, name) for fleet in fleets]
        return _Look(Registry(spec.tracking_uri if spec else None), spec, thorough).status(fleets, stored)


def status_of_all(target: Target, *, thorough: bool = False) -> list[Status]:
    """The status of every model in the repositories, and of those that a server has and none of them, sorted by name.

    Each server is asked once what it has; the rest, that is how each model was loaded, is asked side by side.

    Raises:
        RepositoryError: the first repository cannot be listed.

    """
    look = _Look(Registry(None), None, thorough)
    with _looked(target) as fleets, ThreadPoolExecutor(_AT_ONCE) as pool:
        first, *others = [{each.name: each for each in repository.survey(fleet.store)} for fleet in fleets]
        served = {name for fleet in fleets for server in fleet.servers for name in server.models if not is_candidate(name)}
        names = sorted({*first, *served, *(name for found in others for name in found)})
        rows = [[found.get(name, StoredModel(name, (), ())) for found in (first, *others)] for name in names]
        return list(pool.map(lambda stored: look.status(fleets, stored), rows))


def server_status(client: TritonClient, model: str, where: str) -> ServerStatus:
    """What one server has of a model; `where` is the repository that it serves from."""
    server = _asked(client)
    return server.status(model, where)


@dataclass(frozen=True)
class _Server:
    """A server with its index; None where it does not answer, and `problem` says why."""

    client: TritonClient
    index: Mapping[str, list[LoadedModel]] | None
    problem: str | None = None

    def status(self, model: str, where: str) -> ServerStatus:
        if self.index is None:
            return ServerStatus(server=str(self.client.address), ready=None, problem=self.problem, repository=where)
        versions = ready(self.index.get(model, [])).get(model, ())
        return ServerStatus(server=str(self.client.address), ready=versions, repository=where)

    @property
    def models(self) -> set[str]:
        """The names of the models that answer."""
        return {name for name, rows in (self.index or {}).items() if ready(rows)}

    def rows(self, model: str) -> Sequence[LoadedModel]:
        """The index of one model."""
        return (self.index or {}).get(model, [])


@dataclass(frozen=True)
class _Fleet:
    """A repository, and its servers as they were found."""

    store: Repository
    servers: tuple[_Server, ...]


def _asked(client: TritonClient) -> _Server:
    index: dict[str, list[LoadedModel]] = {}
    try:
        for row in client.index():
            index.setdefault(row.name, []).append(row)
    except ServerError as error:
        return _Server(client, None, str(error))
    return _Server(client, index)


@contextlib.contextmanager
def _looked(target: Target) -> Iterator[tuple[_Fleet, ...]]:
    """Every server of the target, asked what it has."""
    with target.connected() as fleets, ThreadPoolExecutor(_AT_ONCE) as pool:
        yield tuple(_Fleet(fleet.store, tuple(pool.map(_asked, fleet.servers.clients))) for fleet in fleets)


@dataclass(frozen=True)
class _Look:
    """How models are looked at."""

    registry: Registry
    spec: Spec | None
    thorough: bool

    def status(self, fleets: Sequence[_Fleet], stored: Sequence[StoredModel]) -> Status:
        """The status of a model, of what each of the repositories stores of it."""
        first, name = stored[0], stored[0].name
        release = first.releases[-1] if first.releases else None
        others = None if release else _foreign(name, fleets[0].store)
        problems = [*others.problems] if others else [first.problem] if first.problem else []
        serving = release.versions if release else others.serving if others else ()
        current = release.version if release else serving[-1] if serving else None
        servers = tuple(server.status(name, str(fleet.store)) for fleet in fleets for server in fleet.servers)
        problems += dict.fromkeys(row.problem for row in servers if row.problem)
        for fleet, found in zip(fleets, stored, strict=True):
            problems += self._drift(fleet, found, serving if found is first else _serving(found))
        problems += drift.between([(str(fleet.store), found) for fleet, found in zip(fleets, stored, strict=True)])
        told = self._registered(name, fleets[0].store, release, current, others)
        return Status(
            name=name,
            model=told.uri,
            registered=told.version,
            stored=current,
            versions=others.versions if others else first.versions,
            servers=servers,
            verdict=told.verdict,
            verdict_version=told.verdict_version,
            problems=(*problems, *told.problems),
            since=release.at if release else None,
            by=release.by if release else None,
        )

    def _drift(self, fleet: _Fleet, stored: StoredModel, serving: tuple[int, ...]) -> list[str]:
        """What each server has otherwise than the repository says, and what is wrong with the files that serve."""
        problems = []
        for server in fleet.servers:
            if server.index is not None:
                problems += drift.served(server.client, server.rows(stored.name), stored, serving)
        if stored.releases:
            for version in serving:
                problems += drift.damaged(fleet.store, stored.name, version, thorough=self.thorough)
        return problems

    def _registered(
        self, name: str, store: Repository, release: Release | None, current: int | None, others: ForeignModel | None
    ) -> drift.Registered:
        """What MLflow knows of it; a registry that does not answer is a problem of the model."""
        told = drift.Registered(uri=self.spec.model if self.spec else None)
        try:
            asked = told.uri
            if asked is None:
                told.uri, asked = _source(name, store, current, others)
            if asked:
                drift.registered(told, asked, self.registry, self.spec, release)
                if last := Verdicts(self.registry, name).last(told.name):
                    told.verdict, told.verdict_version = last.why or last.verdict, last.version
        except DeployError as error:
            told.problems.append(str(error))
        return told


def _serving(stored: StoredModel) -> tuple[int, ...]:
    return stored.releases[-1].versions if stored.releases else ()


def _foreign(name: str, store: Repository) -> ForeignModel | None:
    """The model as others left it; None where it is ours, where it is not there, and where the repository does not answer."""
    with contextlib.suppress(DeployError):
        return repository.foreign(store, name)
    return None


def _source(name: str, store: Repository, current: int | None, others: ForeignModel | None) -> tuple[str | None, str | None]:
    """What the stored version was made of; and the same once more where the registry can be asked about it."""
    manifest = store.manifest(name, current) if current is not None and others is None else None
    if manifest is not None and manifest.source is not None:
        return manifest.source.uri, manifest.source.uri
    noted = others.mlflow_uri if others else manifest.mlflow_uri if manifest else None
    return noted, noted if noted and noted.startswith(("models:/", "runs:/")) else None
