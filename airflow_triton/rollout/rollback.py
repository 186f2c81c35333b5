"""Back to what served before: the exact files and the exact configuration, checked before and after."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from airflow_triton import repository
from airflow_triton.errors import RepositoryError
from airflow_triton.registry import Registry
from airflow_triton.repository import Manifest, Release, Repository
from airflow_triton.repository.manifest import now
from airflow_triton.rollout.records import Outcome
from airflow_triton.rollout.serving import Servers, let_serve
from airflow_triton.rollout.verdicts import Verdicts


def rollback(
    model: str,
    *,
    store: Repository,
    servers: Servers,
    registry: Registry,
    to: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Let the release before the current one serve again, or the last release of version `to` (which may lie ahead).

    The files are compared with their digests first; then config.pbtxt is swapped, every server loads it and is asked once. MLflow
    need not answer: where it does not, the alias stays and the outcome warns. A rollback that was cut off before every server
    had followed it is finished by the next one that names no version.

    Raises:
        RepositoryError: there is no such release, or its files are gone or damaged; nothing was changed.
        ConflictError: someone else released meanwhile.
        ServerError: a server did not take it; what served still serves.

    """
    before = store.read_config(model)
    found = repository.releases(store, model, before)
    if to is None and found and found[-1].how == "rollback" and servers.lacking(model, found[-1].version):
        to = found[-1].version  # an earlier rollback was cut off before every server had followed it: finish that one
    target, manifest = _target(model, found, to, store)
    progress(f"rollback: `{model}` from version {found[-1].version} to {target.version}")
    if problems := store.damage(model, target.version):
        raise RepositoryError(f"version {target.version} of `{model}` cannot serve again: {'; '.join(problems)}")
    servers.check(repository.mode_probe(model))
    current = found[-1]
    release = target.model_copy(update={"how": "rollback", "at": now()})
    probe = manifest.probe if manifest.servable_id == release.servable_id else None  # it is asked as it was validated
    commit = functools.partial(repository.commit, store, model, release, expected=before)
    let_serve(store, servers, model, release, before=before, probe=probe, commit=commit)
    if manifest.source is None or release.mlflow_version is None:
        warnings = [f"version {target.version} was taken over, not deployed from MLflow: the alias and the tags there stay as they are"]
    else:
        verdicts = Verdicts(registry, model)
        warnings = verdicts.serving(manifest.source.name, target.version, alias=target.alias, previous=current.mlflow_version)
    warnings = [*servers.control.warnings(target.version), *warnings]
    for warning in warnings:
        progress(f"warning: {warning}")
    return Outcome(name=model, action="rolled back", version=target.version, previous=current.version, warnings=tuple(warnings))


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
