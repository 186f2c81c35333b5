"""Deployments as `list` and `get` tell them: those of this package, and those of NVIDIA's MLflow plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow_triton import repository
from airflow_triton.errors import DeployError, ServerError
from airflow_triton.repository import Repository, StoredModel
from airflow_triton.repository.layout import CONFIG_FILE, MANIFEST_FILE
from airflow_triton.rollout import Status, Target
from airflow_triton.server import TritonClient, ready

_AT_ONCE = 32
Served = Mapping[str, tuple[int, ...]]
"""The versions of every model that are ready on a server."""


def listed(target: Target) -> list[dict[str, Any]]:
    """Every deployment in the target's repositories, sorted by name; models that others put there are none.

    `state` is READY where every server has just the versions that are released, UNAVAILABLE where none has any of them, PARTLY between
    the two, and UNKNOWN where a server does not answer (`problems` says why).

    Raises:
        RepositoryError: the first repository cannot be listed.

    """
    with target.connected() as fleets, ThreadPoolExecutor(_AT_ONCE) as pool:
        found: dict[str, tuple[Repository, StoredModel, list[_Server]]] = {}
        for fleet in fleets:
            servers = list(pool.map(_asked, fleet.servers.clients))
            for model in repository.survey(fleet.store):
                found.setdefault(model.name, (fleet.store, model, []))[2].extend(servers)
        rows = pool.map(lambda name: _row(*found[name]), sorted(found))
        return [row for row in rows if row is not None]


def one(name: str, target: Target, looked: Status) -> dict[str, Any] | None:
    """One deployment with everything that is known of it; None where there is none of this name."""
    with target.connected() as fleets:
        servers = [_asked(client) for fleet in fleets for client in fleet.servers.clients]
        row = _row(fleets[0].store, repository.stored_model(fleets[0].store, name), servers)
    return None if row is None else {**looked.model_dump(mode="json"), **row, "problems": list(looked.problems)}


class _Server:
    """A server and what it has ready; None where it does not answer."""

    def __init__(self, where: str, models: Served | None, problem: str | None) -> None:
        self.where = where
        self.models = models
        self.problem = problem


def _asked(client: TritonClient) -> _Server:
    try:
        return _Server(str(client.address), ready(client.index()), None)
    except ServerError as error:
        return _Server(str(client.address), None, str(error))


def _row(store: Repository, model: StoredModel, servers: Sequence[_Server]) -> dict[str, Any] | None:
    if model.releases:
        return _ours(store, model, servers)
    return _theirs(store, model, servers) if model.versions or model.problem else None


def _ours(store: Repository, model: StoredModel, servers: Sequence[_Server]) -> dict[str, Any]:
    release = model.releases[-1]
    flavor, uri = _made_of(store, model.name, release.version)
    return {
        "name": model.name,
        "flavor": flavor or "triton",
        "version": release.version,
        **_state(model.name, release.versions, servers),
        "mlflow_model_uri": release.source or uri,
        "triton_model_path": _path(store, model.name),
        "versions": list(model.versions),
        "since": release.at,
        "by": release.by,
        "verdict": release.verdict,
    }


def _theirs(store: Repository, model: StoredModel, servers: Sequence[_Server]) -> dict[str, Any] | None:
    """A deployment of NVIDIA's plugin, with what that noted; None where others put the model there. Of ours, what is wrong with it."""
    name, problem, found = model.name, model.problem, None
    try:
        found = repository.foreign(store, name)
    except DeployError as error:
        problem = str(error)
    if found is None:
        return {"name": name, "flavor": "unknown", "state": "UNKNOWN", "problems": [problem]} if problem else None
    if found.mlflow_uri is None:
        return None
    return {
        "name": name,
        "flavor": str(found.meta.get("flavor") or "triton"),
        "version": found.serving[-1] if found.serving else None,
        **_state(name, found.serving, servers),
        "mlflow_model_uri": found.mlflow_uri,
        "triton_model_path": str(found.meta.get("triton_model_path") or _path(store, name)),
        "versions": list(found.versions),
        "by": "NVIDIA's MLflow plugin",
    }


def _state(name: str, versions: tuple[int, ...], servers: Sequence[_Server]) -> dict[str, Any]:
    has = {server.where: None if server.models is None else server.models.get(name, ()) for server in servers}
    known = [found for found in has.values() if found is not None]
    if len(known) < len(has):
        state = "UNKNOWN"
    elif all(found == versions for found in known):
        state = "READY"
    else:
        state = "PARTLY" if any(set(found) & set(versions) for found in known) else "UNAVAILABLE"
    served = {where: None if found is None else list(found) for where, found in has.items()}
    return {"state": state, "servers": served, "problems": [server.problem for server in servers if server.problem]}


def _path(store: Repository, name: str) -> str:
    return store.where(repository.base.MODELS / name / CONFIG_FILE).removesuffix(f"/{CONFIG_FILE}")


def _made_of(store: Repository, name: str, version: int) -> tuple[str | None, str | None]:
    """The flavor and the MLflow model of a stored version, as far as its manifest says so; without a look at the rest of it."""
    try:
        stored = store.read(repository.base.MODELS / name / version / MANIFEST_FILE)
        manifest = json.loads(stored.text) if stored else {}
    except (DeployError, ValueError):
        return None, None
    source, servable = manifest.get("source") or {}, manifest.get("servable") or {}
    uri = f"models:/{source['name']}/{source['version']}" if source else manifest.get("mlflow_uri")
    return servable.get("flavor"), uri
