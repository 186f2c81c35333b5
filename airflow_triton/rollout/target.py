"""Where a model goes: its repository and its servers, from the command, the spec or the environment, in this order."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_triton.errors import SpecError
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository
from airflow_triton.rollout.pipeline import Progress, Rollout
from airflow_triton.rollout.serving import Servers
from airflow_triton.server import ServerAddress
from airflow_triton.spec import Spec, is_url

REPOSITORY_VARIABLE = "TRITON_MODEL_REPO"
SERVER_VARIABLE = "TRITON_URL"

Lookup = Callable[[str], ServerAddress]
"""From the id of an Airflow connection to the server that it means."""


@dataclass(frozen=True)
class Target:
    """A model repository and the servers that serve from it."""

    store: LocalRepository
    addresses: tuple[ServerAddress, ...]


def find_target(
    spec: Spec | None = None, *, repository: str | None = None, servers: Sequence[str] = (), lookup: Lookup | None = None
) -> Target:
    """The repository and the servers: as given, else the spec's, else `TRITON_MODEL_REPO` and `TRITON_URL` in the environment.

    `lookup` turns connection ids into addresses; without it, servers must be URLs.

    Raises:
        SpecError: there is no repository or no server anywhere, or a connection id and no Airflow to look it up in.

    """
    store = find_repository(spec, repository=repository)
    names = tuple(servers) or (spec.servers if spec else None) or tuple(filter(None, os.environ.get(SERVER_VARIABLE, "").split(",")))
    if not names:
        raise SpecError(f"no Triton server: looked at --server, the spec's `servers` and {SERVER_VARIABLE}")
    return Target(store, tuple(_address(name.strip(), lookup) for name in names))


def find_repository(spec: Spec | None = None, *, repository: str | None = None) -> LocalRepository:
    """The repository: as given, else the spec's, else `TRITON_MODEL_REPO` in the environment; SpecError where there is none."""
    place = repository or (spec.repository if spec else None) or os.environ.get(REPOSITORY_VARIABLE)
    if not place:
        raise SpecError(f"no model repository: looked at --repository, the spec's `repository` and {REPOSITORY_VARIABLE}")
    if "://" in place:
        raise SpecError(f"the model repository `{place}` is on an object store, which is not available yet: use a folder")
    return LocalRepository(place)


def _address(server: str, lookup: Lookup | None) -> ServerAddress:
    if is_url(server):
        return ServerAddress.parse(server)
    if lookup is None:
        raise SpecError(
            f"`{server}` is an Airflow connection id, and there is no Airflow here to look it up in: "
            f"name the server by its URL (--server http://host:8000, or {SERVER_VARIABLE})"
        )
    return lookup(server)


@contextlib.contextmanager
def opened(spec: Spec, target: Target, *, progress: Progress = lambda _: None) -> Iterator[Rollout]:
    """A rollout of `spec`, with connections and a workspace that are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as workspace, Servers.connected(target.addresses) as servers:
        yield Rollout(
            spec,
            store=target.store,
            servers=servers,
            registry=Registry(spec.tracking_uri),
            workspace=Path(workspace),
            progress=progress,
        )
