"""Where a model goes: its repository and its servers, from the command, the spec or the environment, in this order."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from airflow_triton.errors import SpecError
from airflow_triton.registry import Registry
from airflow_triton.repository import Repository, open_repository
from airflow_triton.rollout.control import Mode
from airflow_triton.rollout.pipeline import Progress, Rollout
from airflow_triton.rollout.promotion import Fleet
from airflow_triton.rollout.serving import Servers
from airflow_triton.server import ServerAddress
from airflow_triton.server.environment import address_of
from airflow_triton.spec import Replica, Spec, is_url

if TYPE_CHECKING:
    from airflow_triton.repository.object_store.connect import SessionLookup

REPOSITORY_VARIABLE = "TRITON_MODEL_REPO"
SERVER_VARIABLE = "TRITON_URL"
_BARE = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]+")
"""`host:8000` in TRITON_URL is a server's HTTP address, as NVIDIA's MLflow plugin has it."""


class Connections(Protocol):
    """What the ids of Airflow's connections mean."""

    def server(self, conn_id: str) -> ServerAddress:
        """The server of a connection of type `triton`."""

    def session(self, conn_id: str) -> tuple[Any, str | None]:
        """The boto3 session of a connection of type `aws`, and the endpoint that it names, if any."""


@dataclass(frozen=True)
class Group:
    """A model repository and the servers that serve from it."""

    store: Repository
    addresses: tuple[ServerAddress, ...]


@dataclass(frozen=True)
class Target:
    """Where a model goes: a model repository with the servers that serve from it, and further ones.

    `store` is where the model is converted and whose history is told; `addresses` are its servers. `others` are the servers with
    repositories of their own. `wave` is the number of replicas that are brought to another version at a time.
    `lookup` turns the id of an Airflow connection into a boto3 session (None: there is no Airflow here).
    """

    store: Repository
    addresses: tuple[ServerAddress, ...]
    others: tuple[Group, ...] = ()
    wave: int = 1
    lookup: SessionLookup | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every repository with its servers, the first one first."""
        return (Group(self.store, self.addresses), *self.others)

    @contextlib.contextmanager
    def connected(self) -> Iterator[tuple[Fleet, ...]]:
        """The fleet of each group, names that stand for several servers resolved; the clients are closed at the end."""
        with contextlib.ExitStack() as stack:
            yield tuple(
                Fleet(group.store, stack.enter_context(Servers.connected(group.addresses, wave=self.wave))) for group in self.groups
            )


def find_target(
    spec: Spec | None = None,
    *,
    repository: str | None = None,
    servers: Sequence[str] = (),
    connections: Connections | None = None,
    control_mode: Mode | None = None,
) -> Target:
    """The repository and the servers: as given, else the spec's, else `TRITON_MODEL_REPO` and `TRITON_URL` in the environment.

    Servers with a repository of their own are the spec's alone: given `servers` serve from the one repository.

    `connections` turns connection ids into addresses; without it, servers must be URLs. The servers' control mode is the given one, else
    the spec's, else each connection's, else EXPLICIT.

    Raises:
        SpecError: there is no repository or no server anywhere, or a connection id and no Airflow to look it up in; or a repository is
            given, no servers are, and those of the spec have repositories of their own.

    """
    named = _named(spec, servers)
    if not named:
        find_repository(spec, repository=repository, connections=connections)  # what is missing first is said first
        raise SpecError(f"no Triton server: looked at --server, the spec's `servers` and {SERVER_VARIABLE}")
    if repository and any(isinstance(each, Replica) for each in named):
        raise SpecError(
            "--repository names one repository, and servers of the spec have repositories of their own: "
            "say which server as well (--server), or leave it out"
        )
    mode = control_mode or (spec.control_mode if spec else None)
    places: dict[str | None, list[ServerAddress]] = {}
    for each in named:
        place, server = (each.repository, each.server) if isinstance(each, Replica) else (None, each)
        address = _address(server, connections)
        places.setdefault(place, []).append(replace(address, control_mode=mode) if mode else address)
    first, *others = [_group(place or repository, spec, connections, found) for place, found in places.items()]
    return Target(
        first.store,
        first.addresses,
        tuple(others),
        wave=spec.promote.wave if spec else 1,
        lookup=connections.session if connections else None,
    )


def find_repository(spec: Spec | None = None, *, repository: str | None = None, connections: Connections | None = None) -> Repository:
    """The repository: as given, else the spec's, else `TRITON_MODEL_REPO` in the environment; SpecError where there is none.

    Of servers with repositories of their own it is that of the first server, as in `find_target`.
    """
    first = _named(spec, ())[:1] if spec and not repository else ()
    return _store(repository or next((each.repository for each in first if isinstance(each, Replica)), None), spec, connections)


def _group(place: str | None, spec: Spec | None, connections: Connections | None, addresses: Sequence[ServerAddress]) -> Group:
    polled = any(address.control_mode == "poll" for address in addresses)
    return Group(_store(place, spec, connections, polled=polled), tuple(addresses))


def _store(place: str | None, spec: Spec | None, connections: Connections | None, *, polled: bool = False) -> Repository:
    place = place or (spec.repository if spec else None) or os.environ.get(REPOSITORY_VARIABLE)
    if not place:
        raise SpecError(f"no model repository: looked at --repository, the spec's `repository` and {REPOSITORY_VARIABLE}")
    return open_repository(place, lookup=connections.session if connections else None, polled=polled)


def find_addresses(
    spec: Spec | None = None, *, servers: Sequence[str] = (), connections: Connections | None = None
) -> tuple[ServerAddress, ...]:
    """All servers: as given, else the spec's, else `TRITON_URL` in the environment; none where none of them names one."""
    return tuple(_address(server, connections) for server in find_servers(spec, servers=servers))


def find_servers(spec: Spec | None = None, *, servers: Sequence[str] = ()) -> tuple[str, ...]:
    """The servers of `find_addresses` as they are named: connection ids and URLs."""
    return tuple(each.server if isinstance(each, Replica) else each for each in _named(spec, servers))


def _named(spec: Spec | None, servers: Sequence[str]) -> tuple[str | Replica, ...]:
    """The servers as they are named: given, by the spec, in the environment."""
    declared = tuple(server.strip() for server in servers) or (spec.servers if spec else None)
    found = filter(None, map(str.strip, os.environ.get(SERVER_VARIABLE, "").split(",")))
    return declared or tuple(f"http://{server}" if _BARE.fullmatch(server) else server for server in found)


def _address(server: str, connections: Connections | None) -> ServerAddress:
    if is_url(server):
        return address_of(server)
    if connections is None:
        raise SpecError(
            f"`{server}` is an Airflow connection id, and there is no Airflow here to look it up in: "
            f"name the server by its URL (--server http://host:8000, or {SERVER_VARIABLE})"
        )
    return connections.server(server)


@contextlib.contextmanager
def opened(
    spec: Spec,
    target: Target,
    *,
    progress: Progress = lambda _: None,
    copies: Path | None = None,
    approved_by: str | None = None,
) -> Iterator[Rollout]:
    """A rollout of `spec`, with connections and a workspace that are gone at the end. For the keywords see `Rollout`."""
    with tempfile.TemporaryDirectory(prefix="airflow-triton-") as workspace, target.connected() as (first, *others):
        yield Rollout(
            spec,
            store=first.store,
            servers=first.servers,
            others=others,
            registry=Registry(spec.tracking_uri),
            workspace=Path(workspace),
            progress=progress,
            lookup=target.lookup,
            copies=copies,
            approved_by=approved_by,
        )
