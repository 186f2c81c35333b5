"""Back to what served before: the exact files and the exact configuration, checked before and after."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airflow_triton import repository
from airflow_triton.errors import RepositoryError
from airflow_triton.registry import Registry
from airflow_triton.repository import Manifest, Release, Repository, StoredConfig
from airflow_triton.repository.manifest import now
from airflow_triton.rollout.author import author
from airflow_triton.rollout.promotion import Fleet, Part, bring_back, let_serve
from airflow_triton.rollout.records import Outcome
from airflow_triton.rollout.serving import Servers
from airflow_triton.rollout.verdicts import Verdicts


def rollback(
    model: str,
    *,
    store: Repository,
    servers: Servers,
    registry: Registry,
    to: int | None = None,
    others: Sequence[Fleet] = (),
    progress: Callable[[str], None] = lambda _: None,
    by: str | None = None,
) -> Outcome:
    """Let the release before the current one serve again, or the last release of version `to` (which may lie ahead).

    The files are compared with their digests first; then config.pbtxt is swapped, every server loads it and is asked once. Where the
    version is still loaded on every server it is the other way round: it serves at once, and a damage that is found then is a warning.
    MLflow need not answer: where it does not, the alias stays and the outcome warns.

    It is the release of `store` that is gone back to. The `others`, with repositories of their own, go to the same one, or stay with it.
    A rollback that was cut off before every server had followed it is finished by the next one that names no version. `by` is who goes
    back (None: see `author`).

    Raises:
        RepositoryError: there is no such release, or its files are gone or damaged; nothing was changed.
        ConflictError: someone else released meanwhile.
        ServerError: a server did not take it; what served still serves.

    """
    fleets = (Fleet(store, servers), *others)
    before = store.read_config(model)
    found = repository.releases(store, model, before)
    if to is None and found and found[-1].how == "rollback" and _is_unfinished(model, fleets, found[-1]):
        to = found[-1].version  # an earlier rollback was cut off before every server had followed it: finish that one
    target, manifest = _target(model, found, to, store)
    current = found[-1]
    progress(f"rollback: `{model}` from version {current.version} to {target.version}")
    ways = [_Way(model, fleets[0], before, found, target, manifest), *(_way(model, fleet, target) for fleet in others)]
    for way in ways:
        way.check()
    changing = [way for way in ways if way.fleet is fleets[0] or not way.is_there]

    def told(line: str) -> None:
        progress(f"rollback: {line}")

    unread = [way for way in changing if way.is_loaded]
    let_serve(model, [way.part(author(by)) for way in changing], told=told)
    for way in ways:
        if way not in changing:
            bring_back(way.fleet, model, target.version, told=told)
    warnings = [*servers.control.warnings(target.version), *(warning for way in unread for warning in way.damage())]
    if manifest.source is None or target.mlflow_version is None:
        warnings.append(f"version {target.version} was taken over, not deployed from MLflow: the alias and the tags there stay as they are")
    else:
        verdicts = Verdicts(registry, model)
        previous = current.mlflow_version
        where = [address for fleet in fleets for address in fleet.servers.addresses]
        warnings += verdicts.serving(
            manifest.source.name, target.version, alias=target.alias, previous=previous, by=author(by), servers=where
        )
    for warning in warnings:
        progress(f"warning: {warning}")
    return Outcome(name=model, action="rolled back", version=target.version, previous=current.version, warnings=tuple(warnings))


@dataclass(frozen=True)
class _Way:
    """The way of one fleet back to `target`, a release of its own journal `found`."""

    model: str
    fleet: Fleet
    before: StoredConfig | None
    found: Sequence[Release]
    target: Release
    manifest: Manifest

    @property
    def is_there(self) -> bool:
        """Whether that is what is released there already."""
        return self.found[-1].is_same_as(self.target)

    @functools.cached_property
    def is_loaded(self) -> bool:
        """Whether every server has the version loaded as it was released, and follows without a restart."""
        servers, current = self.fleet.servers, self.found[-1]
        if not servers.control.takes_candidates or self.target.version not in current.versions or current.config != self.target.config:
            return False
        return all(self.target.version in client.ready_versions(self.model) for client in servers.clients)

    def check(self) -> None:
        """Raise unless the servers answer, and the files are as they were published (their sizes, where they are loaded)."""
        self.fleet.servers.check(repository.mode_probe(self.model))
        if problems := self.fleet.store.damage(self.model, self.target.version, thorough=not self.is_loaded):
            raise RepositoryError(
                f"version {self.target.version} of `{self.model}` in {self.fleet.store} cannot serve again: {'; '.join(problems)}"
            )

    def damage(self) -> list[str]:
        """What is wrong with the files of a version that serves from memory."""
        problems = self.fleet.store.damage(self.model, self.target.version)
        return [f"version {self.target.version} serves, but could not be loaded again: {problem}" for problem in problems]

    def part(self, by: str) -> Part:
        """What is to be done; `by` is who does it."""
        store, target, current = self.fleet.store, self.target, self.found[-1]
        most = max(len(current.loaded), len(target.loaded))
        loaded = repository.still_loaded(
            store, self.model, self.found, target.version, target.config, most=most, thorough=not self.is_loaded
        )
        release = target.model_copy(update={"how": "rollback", "at": now(), "by": by, "loaded": loaded})
        probe = self.manifest.probe if self.manifest.servable_id == release.servable_id else None  # it is asked as it was validated
        commit = functools.partial(repository.commit, store, self.model, release, expected=self.before)
        return Part(self.fleet, release, self.before, probe, commit)


def _way(model: str, fleet: Fleet, target: Release) -> _Way:
    """The way of a fleet with a repository of its own to the release that the first one goes back to."""
    before = fleet.store.read_config(model)
    found = repository.releases(fleet.store, model, before)
    for release in reversed(found):
        manifest = fleet.store.manifest(model, release.version) if release.is_same_as(target) else None
        if manifest is not None and manifest.is_of(release.servable_id):
            return _Way(model, fleet, before, found, release, manifest)
    raise RepositoryError(
        f"`{model}` cannot go back to version {target.version} everywhere: {fleet.store} has not released it with the same files and "
        f"configuration, or they are gone (stored are {fleet.store.versions(model)}); nothing was changed"
    )


def _is_unfinished(model: str, fleets: Sequence[Fleet], last: Release) -> bool:
    """Whether a fleet has another release than the first one's last, or a server of one does not serve it."""
    for fleet in fleets:
        found = repository.releases(fleet.store, model)
        if not found or not found[-1].is_same_as(last) or fleet.servers.lacking(model, found[-1].versions):
            return True
    return False


def _target(model: str, found: Sequence[Release], to: int | None, store: Repository) -> tuple[Release, Manifest]:
    """The release to go back to, and the manifest of its files, which must still be stored."""
    if not found:
        raise RepositoryError(f"`{model}` has no releases: there is nothing to go back to")
    current = found[-1]
    for release in reversed(found):
        if release.version == to or (to is None and not release.is_same_as(current)):
            manifest = store.manifest(model, release.version)
            if manifest is not None and manifest.is_of(release.servable_id):
                return release, manifest
    told = f"version {to}" if to is not None else f"anything before version {current.version}"
    raise RepositoryError(
        f"`{model}` cannot go back to {told}: released were {sorted({release.version for release in found})}, "
        f"stored are {store.versions(model)} (`promote.keep` says how many stay)"
    )
