"""How a version comes to serve, step by step, so that a crash between any two of them leaves what served serving.

1. `store_version`: the version's folder appears, complete, with its manifest. Triton does not look at it: config.pbtxt does not
   name it.
2. `commit`: config.pbtxt changes in one atomic compare-and-swap. This is the release. (`publish` is both; on a disk, the first version
   of a model appears together with its config.pbtxt, for without one Triton may guess what to do with a version.)
3. `revert`: where the server refuses the release, config.pbtxt becomes, byte for byte, what it was.
4. `prune`: versions that neither serve nor are kept for rollback go.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from airflow_triton.errors import ConflictError, RepositoryError
from airflow_triton.repository import release as journal
from airflow_triton.repository.base import Repository
from airflow_triton.repository.layout import CONFIG_FILE, MANIFEST_FILE
from airflow_triton.repository.manifest import Manifest
from airflow_triton.repository.places import Item, StoredConfig, etag_of
from airflow_triton.repository.release import Release


def releases(repository: Repository, model: str, stored: StoredConfig | None = None) -> list[Release]:
    """The model's releases, the one that serves last; empty where the model is not stored.

    `stored` spares reading config.pbtxt again.

    Raises:
        RepositoryError: the model is stored, but was not published by this package, or its journal is damaged.

    """
    stored = stored or repository.read_config(model)
    where = repository.where(repository.config_place(model))
    if stored is None:
        foreign = [version for version in repository.versions(model) if repository.manifest(model, version) is None]
        if foreign:
            raise RepositoryError(
                f"`{model}` in {repository} was not published by airflow-provider-triton (versions {foreign} have no {MANIFEST_FILE}): "
                f"choose another name, move it away, or take it over: airflow-triton adopt {model}"
            )
        return []
    found = journal.parse(stored.text, where)
    if not found:
        raise RepositoryError(
            f"`{model}` in {repository} was not published by airflow-provider-triton ({where} has no journal): "
            f"choose another name, move it away, or take it over: airflow-triton adopt {model}"
        )
    return found


def store_version(repository: Repository, model: str, version: int, items: Sequence[Item], manifest: Manifest) -> None:
    """Let the version's folder appear, complete with its manifest; do nothing where the very same version is stored.

    A folder that a dead attempt left (no release names it) is replaced; so is one that was released and has lost files, by the files
    that its manifest names. "The same" is the manifest's word and the sizes of the files; `fsck` compares every byte.

    Raises:
        ConflictError: the version is stored with other files and has served. Stored versions never change.

    """
    if _is_stored(repository, model, version, manifest):
        return
    with repository.locked(model):
        if _is_stored(repository, model, version, manifest):
            return  # someone else stored the very same meanwhile
        _refuse_change(repository, model, version, manifest)
        repository.put(repository.version_place(model, version), items, first={MANIFEST_FILE: _text(manifest)}, replace=True)


def _text(manifest: Manifest) -> str:
    return manifest.model_dump_json(indent=1) + "\n"


def _is_stored(repository: Repository, model: str, version: int, manifest: Manifest) -> bool:
    stored = repository.manifest(model, version)
    same = stored is not None and stored.servable_id == manifest.servable_id
    return same and not repository.damage(model, version, thorough=False)


def _refuse_change(repository: Repository, model: str, version: int, manifest: Manifest) -> None:
    """Raise ConflictError where the version has served and lies there with other files than those of `manifest`."""
    found = releases(repository, model)
    if version not in repository.versions(model):
        return
    stored = repository.manifest(model, version)
    if not any(release.version == version for release in found):
        if any(release.mlflow_version is None for release in found):
            _refuse_foreign(repository, model, version, stored)
        return
    if stored is None or stored.files != manifest.files:
        raise ConflictError(
            f"version {version} of `{model}` is stored in {repository.where(repository.version_place(model, version))} with other files "
            "(another conversion of it was released), and stored versions never change: register the model as a new version, or go back "
            "to the conversion options of before"
        )


def _refuse_foreign(repository: Repository, model: str, version: int, stored: Manifest | None) -> None:
    """Raise ConflictError where files lie in a version, of a model that was taken over, that are not ours: ours have a manifest."""
    place = repository.version_place(model, version)
    if stored is None and repository.files(place):
        raise ConflictError(
            f"{repository.where(place)} holds files that airflow-provider-triton did not put there (it has no {MANIFEST_FILE}): move them "
            "away first, or register the model as a new version"
        )


def publish(
    repository: Repository, model: str, items: Sequence[Item], manifest: Manifest, release: Release, *, expected: StoredConfig | None
) -> StoredConfig:
    """Store a version, if it is not, and let `release` serve it, if config.pbtxt is still `expected` (None: if there still is none).

    Raises:
        ConflictError: as `store_version` and `commit` say; what served still serves.

    """
    if expected is None and repository.on_disk and not repository.files(repository.model_place(model)):
        text = journal.render([release])
        note = {f"{release.version}/{MANIFEST_FILE}": _text(manifest)}
        versioned = [item.under(release.version) for item in items]
        with repository.locked(model):
            if repository.put(repository.model_place(model), versioned, first=note, last={CONFIG_FILE: text}):
                return repository.read_config(model) or StoredConfig(text, "")
    store_version(repository, model, release.version, items, manifest)
    return commit(repository, model, release, expected=expected)


def commit(repository: Repository, model: str, release: Release, *, expected: StoredConfig | None) -> StoredConfig:
    """Make `release` the one that serves, if config.pbtxt is still `expected` (None: if there still is none).

    Raises:
        ConflictError: someone else released, or replaced the version's files, meanwhile; nothing was written.

    """
    before = releases(repository, model, expected) if expected else []
    text = journal.render([*before, release])
    etag = repository.swap_config(model, text, expected=etag_of(expected), names=(release.version, release.servable_id))
    return StoredConfig(text, str(etag))


def revert(repository: Repository, model: str, *, committed: StoredConfig, before: StoredConfig | None) -> None:
    """Put config.pbtxt back to what it was `before` a commit.

    Raises:
        ConflictError: someone else released after that commit; theirs stays.

    """
    if before is None and repository.on_disk and _is_ours_alone(repository, model):
        with repository.locked(model):
            if etag_of(repository.read_config(model)) == committed.etag:
                repository.remove(repository.model_place(model))  # at once, as it came: no version is left without config.pbtxt
                return
    repository.swap_config(model, before.text if before else None, expected=committed.etag)
    if before is None:
        prune(repository, model, keep=0)


def _is_ours_alone(repository: Repository, model: str) -> bool:
    """Whether nothing lies in the model's folder but config.pbtxt and versions with a manifest of ours."""
    ours = {str(version) for version in repository.versions(model) if repository.manifest(model, version) is not None}
    found = {file.path.partition("/")[0] for file in repository.files(repository.model_place(model))}
    return found <= {CONFIG_FILE, *ours}


def kept_versions(found: Sequence[Release], keep: int) -> list[int]:
    """The version that serves, then the `keep` versions that served before it, the most recent first."""
    newest_first = list(dict.fromkeys(release.version for release in reversed(found)))
    return newest_first[: keep + 1]


def superfluous(repository: Repository, model: str, found: Sequence[Release], *, keep: int) -> list[int]:
    """The stored versions of ours that neither serve by the releases `found` nor are among the last `keep` that did."""
    kept = {*kept_versions(found, keep), *(found[-1].versions if found else ())}
    return [version for version in repository.versions(model) if version not in kept and repository.manifest(model, version) is not None]


def still_loaded(
    repository: Repository, model: str, found: Sequence[Release], version: int, config: str, *, most: int, thorough: bool = True
) -> tuple[int, ...]:
    """Which versions may stay loaded when `version` comes to serve with `config`, in rising order: `most` of them, the last that served.

    Only such as are loaded now (config.pbtxt names them), so that nothing is loaded for it; lower numbers than `version`, for the highest
    one answers the requests that name none; released with the very same configuration, for all share one config.pbtxt; and whose files
    are whole, for a server loads all of them or none (Triton's rule): `thorough` compares their digests, else their sizes are compared.
    """
    last = {release.version: release for release in found}
    newest_first = dict.fromkeys(release.version for release in reversed(found))
    fit = [number for number in newest_first if number in found[-1].versions and number < version and last[number].config == config]
    whole = (number for number in fit if _is_whole(repository, model, last[number], thorough=thorough))
    return tuple(sorted(islice(whole, most)))


def _is_whole(repository: Repository, model: str, release: Release, *, thorough: bool) -> bool:
    manifest = repository.manifest(model, release.version)
    return manifest is not None and manifest.is_of(release.servable_id) and not repository.damage(model, release.version, thorough=thorough)


def prune(repository: Repository, model: str, *, keep: int) -> list[int]:
    """Remove the versions of ours that neither serve nor are among the last `keep` that did; answer their numbers.

    A version without our manifest is never touched.
    """
    with repository.locked(model):
        stored = repository.read_config(model)
        found = releases(repository, model, stored)
        gone = superfluous(repository, model, found, keep=keep)
        for version in gone:
            repository.remove(repository.version_place(model, version))
    return gone
