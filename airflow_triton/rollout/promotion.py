"""A release that reaches every server of every repository, or none: one repository after the other, and back if one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airflow_triton import repository
from airflow_triton.errors import ConflictError, DeployError
from airflow_triton.repository import Probe, Release, Repository, StoredConfig
from airflow_triton.rollout.serving import Servers


@dataclass(frozen=True)
class Fleet:
    """A repository, and the servers that serve from it."""

    store: Repository
    servers: Servers


@dataclass(frozen=True)
class Part:
    """What a release is to one fleet: `commit` writes it, if config.pbtxt is still what it was `before`."""

    fleet: Fleet
    release: Release
    before: StoredConfig | None
    probe: Probe | None
    commit: Callable[[], StoredConfig]

    def served(self, model: str) -> Release | None:
        """What served before."""
        return repository.releases(self.fleet.store, model, self.before)[-1] if self.before else None


def all_servers(fleets: Sequence[Fleet]) -> Servers:
    """The servers of several fleets, as one; SpecError where they are in several control modes."""
    if len(fleets) == 1:
        return fleets[0].servers
    return Servers([client for fleet in fleets for client in fleet.servers.clients])


def bring_back(fleet: Fleet, model: str, version: int, *, told: Callable[[str], None]) -> bool:
    """Bring those servers of a fleet to the release that is stored that do not serve it; answer whether there were any.

    Raises:
        ConflictError: it is not the release of `version` any more.
        ServerError: a server does not take it.

    """
    found = repository.releases(fleet.store, model)
    if not found or found[-1].version != version:
        raise ConflictError(f"someone else released `{model}` in {fleet.store} meanwhile; theirs serves")
    current = found[-1]
    lacking = fleet.servers.among(fleet.servers.lacking(model, current.versions))
    # Where the version served before with another configuration, its number does not tell which of them a server has: each
    # loads it again, which does nothing where nothing has changed.
    again = any(release.version == version and not release.is_same_as(current) for release in found)
    if again or lacking.clients:
        manifest = fleet.store.manifest(model, version)
        probe = manifest.probe if manifest else None
        (fleet.servers if again else lacking).serve(model, current.versions, probe, config=current.config, told=told)
    return bool(lacking.clients)


def let_serve(model: str, parts: Sequence[Part], *, told: Callable[[str], None]) -> None:
    """Commit each part's release and let its servers serve it, part by part.

    Whatever fails, every config.pbtxt is again what it was before, byte for byte, and every server that answers serves it. What could
    not be put back is in the error. `told` gets a line for each of several replicas.

    Raises:
        ConflictError: a config.pbtxt is not what it was before any more; theirs stays.
        ServerError: a server did not take it.

    """
    taken: list[_Taken] = []
    try:
        for part in parts:
            before = part.served(model)
            changed = before is not None and before.version == part.release.version and before.config != part.release.config
            seen = part.fleet.servers.look(model, part.release.version, replaced=before.config if before and changed else None)
            taken.append(_Taken(part, before, part.commit()))
            part.fleet.servers.serve(model, part.release.versions, part.probe, config=part.release.config, before=seen, told=told)
    except BaseException as error:
        if not taken:
            raise
        problems = [problem for each in reversed(taken) for problem in each.put_back(model)]
        if isinstance(error, DeployError):
            back = "what served before serves again" if taken[-1].part.before else "nothing of it is left"
            raise type(error)("; ".join([f"{error}; {back}", *problems])) from None
        raise


@dataclass(frozen=True)
class _Taken:
    """A part whose release is written; `served` is what served before."""

    part: Part
    served: Release | None
    committed: StoredConfig

    def put_back(self, model: str) -> list[str]:
        """Undo the part; answer what did not work."""
        store = self.part.fleet.store
        try:
            repository.revert(store, model, committed=self.committed, before=self.part.before)
        except DeployError as error:
            return [f"`{model}` in {store} could not be put back: {error}"]
        return self.part.fleet.servers.follow(model, self.served)
