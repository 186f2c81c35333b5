"""Where a model goes: its repository and its servers, from the command, the spec or the environment, in this order."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from airflow_triton.errors import SpecError
from airflow_triton.registry import Registry
from airflow_triton.repository import Repository, open_repository
from airflow_triton.rollout.control import Mode
from airflow_triton.rollout.pipeline import Progress, Rollout
from airflow_triton.rollout.serving import Servers
from airflow_triton.server import ServerAddress
from airflow_triton.spec import Spec, is_url

REPOSITORY_VARIABLE = "TRITON_MODEL_REPO"
SERVER_VARIABLE = "TRITON_URL"


class Connections(Protocol):
    """What the ids of Airflow's connections mean."""

    def server(self, conn_id: str) -> ServerAddress:
        """The server of a connection of type `triton`."""

    def session(self, conn_id: str) -> tuple[Any, str | None]:
        """The boto3 session of a connection of type `aws`, and the endpoint that it names, if any."""


@dataclass(frozen=True)
class Target:
    """A model repository and the servers that serve from it."""

    store: Repository
    addresses: tuple[ServerAddress, ...]


def find_target(
    spec: Spec | None = None,
    *,
    repository: str | None = None,
    servers: Sequence[str] = (),
    connections: Connections | None = None,
    control_mode: Mode | None = None,
) -> Target:
    """The repository and the servers: as given, else the spec's, else `TRITON_MODEL_REPO` and `TRITON_URL` in the environment.

    `connections` turns connection ids into addresses; without it, servers must be URLs. The servers' control mode is the given one, else
    the spec's, else each connection's, else EXPLICIT.

    Raises:
        SpecError: there is no repository or no server anywhere, or a connection id and no Airflow to look it up in.

    """
    store = find_repository(spec, repository=repository, connections=connections)
    addresses = find_addresses(spec, servers=servers, connections=connections)
    if not addresses:
        raise SpecError(f"no Triton server: looked at --server, the spec's `servers` and {SERVER_VARIABLE}")
    mode = control_mode or (spec.control_mode if spec else None)
    return Target(store, tuple(replace(address, control_mode=mode) for address in addresses) if mode else addresses)


def find_repository(spec: Spec | None = None, *, repository: str | None = None, connections: Connections | None = None) -> Repository:
    """The repository: as given, else the spec's, else `TRITON_MODEL_REPO` in the environment; SpecError where there is none."""
    place = repository or (spec.repository if spec else None) or os.environ.get(REPOSITORY_VARIABLE)
    if not place:
        raise SpecError(f"no model repository: looked at --repository, the spec's `repository` and {REPOSITORY_VARIABLE}")
    return open_repository(place, lookup=connections.session if connections else None)


def find_addresses(
    spec: Spec | None = None, *, servers: Sequence[str] = (), connections: Connections | None = None
) -> tuple[ServerAddress, ...]:
    """The servers: as given, else the spec's, else `TRITON_URL` in the environment; none where none of them names one."""
    names = tuple(servers) or (spec.servers if spec else None) or tuple(filter(None, os.environ.get(SERVER_VARIABLE, "").split(",")))
    return tuple(_address(name.strip(), connections) for name in names)


def _address(server: str, connections: Connections | None) -> ServerAddress:
    if is_url(server):
        return ServerAddress.parse(server)
    if connections is None:
        raise SpecError(
            f"`{server}` is an Airflow connection id, and there is no Airflow here to look it up in: "
            f"name the server by its URL (--server http://host:8000, or {SERVER_VARIABLE})"
        )
    return connections.server(server)


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
