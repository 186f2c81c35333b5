"""How a version comes to serve, step by step, so that a crash between any two of them leaves what served serving.

1. `store_version`: the version's folder appears, complete, with its manifest. Triton does not look at it: config.pbtxt does not
   name it.
2. `commit`: config.pbtxt changes in one atomic compare-and-swap. This is the release.
3. `revert`: where the server refuses the release, config.pbtxt becomes, byte for byte, what it was.
4. `prune`: versions that neither serve nor are kept for rollback go.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from airflow_triton.errors import ConflictError, RepositoryError
from airflow_triton.repository import release as journal
from airflow_triton.repository.layout import CONFIG_FILE, MANIFEST_FILE
from airflow_triton.repository.local import LocalRepository, StoredConfig, etag_of, link_tree, sync_tree
from airflow_triton.repository.manifest import Manifest
from airflow_triton.repository.release import Release


def releases(repository: LocalRepository, model: str, stored: StoredConfig | None = None) -> list[Release]:
    """The model's releases, the one that serves last; empty where the model is not stored.

    `stored` spares reading config.pbtxt again.

    Raises:
        RepositoryError: the model is stored, but was not published by this package, or its journal is damaged.

    """
    stored = stored or repository.read_config(model)
    where = repository.model_folder(model) / CONFIG_FILE
    if stored is None:
        foreign = [version for version in repository.versions(model) if repository.manifest(model, version) is None]
        if foreign:
            raise RepositoryError(
                f"`{model}` in {repository} was not published by airflow-provider-triton (versions {foreign} have no {MANIFEST_FILE}): "
                "choose another name, or move it away first"
            )
        return []
    found = journal.parse(stored.text, str(where))
    if not found:
        raise RepositoryError(
            f"`{model}` in {repository} was not published by airflow-provider-triton ({where} has no journal): "
            "choose another name, or move it away first"
        )
    return found


def store_version(repository: LocalRepository, model: str, version: int, files: Path, manifest: Manifest) -> None:
    """Let the version's folder appear, complete with its manifest; do nothing where the very same version is stored.

    `files` is a folder of complete files; they are linked, not moved. A folder that a dead attempt left (no release names it) is
    replaced; so is one that was released and is damaged, by the files that its manifest names.

    Raises:
        ConflictError: the version is stored with other files and has served. Stored versions never change.

    """
    seen = repository.manifest(model, version)
    if seen is not None and seen.servable_id == manifest.servable_id and not repository.damage(model, version):
        return
    _refuse_change(repository, model, version, manifest)
    with repository.new_staging() as staged:
        link_tree(files, staged, leave_out=frozenset({MANIFEST_FILE}))
        (staged / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n")
        sync_tree(staged)  # it may take long, and nobody has to wait for it
        with repository.locked(model):
            found = repository.manifest(model, version)
            if found is not None and found != seen and found.servable_id == manifest.servable_id:
                return  # someone else stored the very same meanwhile
            _refuse_change(repository, model, version, manifest)
            repository.remove_folder(repository.version_folder(model, version))
            repository.put_folder(staged, repository.version_folder(model, version))


def _refuse_change(repository: LocalRepository, model: str, version: int, manifest: Manifest) -> None:
    """Raise ConflictError where the version has served and lies there with other files than those of `manifest`."""
    released = any(release.version == version for release in releases(repository, model))
    if not released or version not in repository.versions(model):
        return
    stored = repository.manifest(model, version)
    if stored is None or stored.files != manifest.files:
        raise ConflictError(
            f"version {version} of `{model}` is stored in {repository.version_folder(model, version)} with other files (another "
            "conversion of it was released), and stored versions never change: register the model as a new version, or go back to the "
            "conversion options of before"
        )


def commit(repository: LocalRepository, model: str, release: Release, *, expected: StoredConfig | None) -> StoredConfig:
    """Make `release` the one that serves, if config.pbtxt is still `expected` (None: if there still is none).

    Raises:
        ConflictError: someone else released, or replaced the version's files, meanwhile; nothing was written.

    """
    before = releases(repository, model, expected) if expected else []
    text = journal.render([*before, release])
    etag = repository.swap_config(model, text, expected=etag_of(expected), names=(release.version, release.servable_id))
    return StoredConfig(text, str(etag))


def revert(repository: LocalRepository, model: str, *, committed: StoredConfig, before: StoredConfig | None) -> None:
    """Put config.pbtxt back to what it was `before` a commit.

    Raises:
        ConflictError: someone else released after that commit; theirs stays.

    """
    repository.swap_config(model, before.text if before else None, expected=committed.etag)
    if before is None:
        prune(repository, model, keep=0)


def kept_versions(found: Sequence[Release], keep: int) -> list[int]:
    """The version that serves, then the `keep` versions that served before it, the most recent first."""
    newest_first = list(dict.fromkeys(release.version for release in reversed(found)))
    return newest_first[: keep + 1]


def prune(repository: LocalRepository, model: str, *, keep: int) -> list[int]:
    """Remove the versions of ours that neither serve nor are among the last `keep` that did; answer their numbers.

    A version without our manifest is never touched.
    """
    with repository.locked(model):
        stored = repository.read_config(model)
        found = releases(repository, model, stored)
        kept = kept_versions(found, keep)
        gone = [
            version for version in repository.versions(model) if version not in kept and repository.manifest(model, version) is not None
        ]
        for version in gone:
            repository.remove_folder(repository.version_folder(model, version))
        if stored is None:
            repository.remove_model_if_empty(model)
    return gone
