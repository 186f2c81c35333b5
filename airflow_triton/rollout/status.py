"""What is declared, registered, stored and served, side by side, for one model and each of its servers."""

from __future__ import annotations

import contextlib

from pydantic import BaseModel, ConfigDict

from airflow_triton import repository
from airflow_triton.errors import DeployError
from airflow_triton.registry import Registry
from airflow_triton.repository import ForeignModel, Release
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.target import Target
from airflow_triton.rollout.verdicts import Verdicts
from airflow_triton.spec import Spec


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
    problems: list[str] = []
    registry = Registry(spec.tracking_uri if spec else None)
    others = _foreign(name, target)
    serving: tuple[int, ...]
    if others is None:
        releases, versions = _stored(name, target, problems)
        serving = (releases[-1].version,) if releases else ()
    else:
        problems += others.problems
        versions, serving = others.versions, others.serving
    current = serving[-1] if serving else None
    with Servers.connected(target.addresses) as servers:
        served = tuple(_served(name, servers))
    problems += [row.problem for row in served if row.problem]
    problems += [
        f"{row.server} serves {list(row.ready) or 'nothing'}, stored is {' and '.join(map(str, serving))}"
        for row in served
        if row.ready is not None and current is not None and row.ready != serving
    ]
    registered = verdict = verdict_version = None
    uri = asked = spec.model if spec else None
    try:
        if uri is None:
            uri, asked = _source(name, target, current, others)
        if asked:
            source = registry.resolve(asked)
            registered = source.version
            if last := Verdicts(registry, name).last(source.name):
                verdict, verdict_version = last.why or last.verdict, last.version
    except DeployError as error:
        problems.append(str(error))
    return Status(
        name=name,
        model=uri,
        registered=registered,
        stored=current,
        versions=versions,
        servers=served,
        verdict=verdict,
        verdict_version=verdict_version,
        problems=tuple(problems),
    )


def _stored(name: str, target: Target, problems: list[str]) -> tuple[list[Release], tuple[int, ...]]:
    try:
        return repository.releases(target.store, name), tuple(target.store.versions(name))
    except DeployError as error:
        problems.append(str(error))
        return [], ()


def _served(name: str, servers: Servers) -> list[ServerStatus]:
    rows = []
    for client in servers.clients:
        try:
            rows.append(ServerStatus(server=str(client.address), ready=client.ready_versions(name)))
        except DeployError as error:
            rows.append(ServerStatus(server=str(client.address), ready=None, problem=str(error)))
    return rows


def _foreign(name: str, target: Target) -> ForeignModel | None:
    """The model as others left it; None where it is ours, where it is not there, and where the repository does not answer."""
    with contextlib.suppress(DeployError):
        return repository.foreign(target.store, name)
    return None


def _source(name: str, target: Target, current: int | None, others: ForeignModel | None) -> tuple[str | None, str | None]:
    """What the stored version was made of; and the same once more where the registry can be asked about it."""
    manifest = target.store.manifest(name, current) if current is not None and others is None else None
    if manifest is not None and manifest.source is not None:
        return manifest.source.uri, manifest.source.uri
    noted = others.mlflow_uri if others else manifest.mlflow_uri if manifest else None
    return noted, noted if noted and noted.startswith(("models:/", "runs:/")) else None
