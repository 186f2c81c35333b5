"""What is declared, registered, stored and served, side by side, for one model and each of its servers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict

from airflow_triton import repository
from airflow_triton.errors import DeployError
from airflow_triton.registry import Registry
from airflow_triton.repository import ForeignModel, Repository, StoredModel
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.target import Target
from airflow_triton.rollout.verdicts import Verdicts
from airflow_triton.server import ready
from airflow_triton.spec import Spec

_AT_ONCE = 8
"""Models that are looked at at a time."""
_Served = Mapping[str, "Mapping[str, tuple[int, ...]] | DeployError"]
"""The versions of each model that are ready on each server, or why that is not known."""


class ServerStatus(BaseModel):
    """One server: the versions that are ready there, or why that is not known."""

    model_config = ConfigDict(frozen=True)

    server: str
    ready: tuple[int, ...] | None
    problem: str | None = None


class Status(BaseModel):
    """One model. None means unknown or not there; `problems` tells which, and every drift, in words."""

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


def status(name: str, target: Target, *, spec: Spec | None = None) -> Status:
    """Look everywhere and touch nothing. What does not answer is told in `problems`; it never raises for it.

    A model that others put there is told as its own version policy has it; `stored` is the highest version that serves by it.

    The registered model is the spec's or, without a spec, the one that the stored version was made of.
    """
    stored = repository.stored_model(target.store, name)
    return _status(stored, target.store, _served(target), Registry(spec.tracking_uri if spec else None), spec)


def status_of_all(target: Target) -> list[Status]:
    """The status of every model in the repository, sorted by name: each server is asked once, and the rest side by side.

    Raises:
        RepositoryError: the repository cannot be listed.

    """
    stored, served, registry = repository.survey(target.store), _served(target), Registry(None)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda each: _status(each, target.store, served, registry, None), stored))


def _status(stored: StoredModel, store: Repository, served: _Served, registry: Registry, spec: Spec | None) -> Status:
    others = None if stored.releases else _foreign(stored.name, store)
    problems: list[str] = []
    serving: tuple[int, ...] = (stored.releases[-1].version,) if stored.releases else ()
    versions = stored.versions
    if others is not None:
        problems += others.problems
        versions, serving = others.versions, others.serving
    elif stored.problem:
        problems.append(stored.problem)
    current = serving[-1] if serving else None
    servers = tuple(_server(name, rows, stored.name) for name, rows in served.items())
    problems += [row.problem for row in servers if row.problem]
    problems += [
        f"{row.server} serves {list(row.ready) or 'nothing'}, stored is {' and '.join(map(str, serving))}"
        for row in servers
        if row.ready is not None and current is not None and row.ready != serving
    ]
    registered = verdict = verdict_version = None
    uri = asked = spec.model if spec else None
    try:
        if uri is None:
            uri, asked = _source(stored.name, store, current, others)
        if asked:
            source = registry.resolve(asked)
            registered = source.version
            if last := Verdicts(registry, stored.name).last(source.name):
                verdict, verdict_version = last.why or last.verdict, last.version
    except DeployError as error:
        problems.append(str(error))
    return Status(
        name=stored.name,
        model=uri,
        registered=registered,
        stored=current,
        versions=versions,
        servers=servers,
        verdict=verdict,
        verdict_version=verdict_version,
        problems=tuple(problems),
    )


def _served(target: Target) -> _Served:
    rows: dict[str, dict[str, tuple[int, ...]] | DeployError] = {}
    with Servers.connected(target.addresses) as servers:
        for client in servers.clients:
            try:
                rows[str(client.address)] = ready(client.index())
            except DeployError as error:
                rows[str(client.address)] = error
    return rows


def _server(name: str, rows: Mapping[str, tuple[int, ...]] | DeployError, model: str) -> ServerStatus:
    if isinstance(rows, DeployError):
        return ServerStatus(server=name, ready=None, problem=str(rows))
    return ServerStatus(server=name, ready=rows.get(model, ()))


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
