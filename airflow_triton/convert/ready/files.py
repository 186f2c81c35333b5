"""The files of a ready Triton model: which of them make the version that is published."""

from __future__ import annotations

import os
from pathlib import Path

from airflow_triton import model_config
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import RepositoryError
from airflow_triton.repository.content import check_files, shown
from airflow_triton.repository.layout import CONFIG_FILE, MANIFEST_FILE
from airflow_triton.repository.recognise import ModelFolder, is_model, recognise

CACHES = "__pycache__"
"""Folders of Python's own, which the server writes again."""

PLACEHOLDER = "README.txt"
"""The only file of a version that has none of its own (an ensemble's): no object store keeps an empty folder."""


def model_folder(data: Path) -> ModelFolder:
    """The model's folder that was logged: `data` itself, the one such folder in it, or one made of a lone version folder.

    Raises:
        RepositoryError: it is none of them, or there are several models.

    """
    check_files(data)
    if not is_model(data):
        models = sorted(path for path in data.iterdir() if path.is_dir() and is_model(path))
        if len(models) > 1:
            raise RepositoryError(f"{shown(data)} holds the models {', '.join(shown(path.name) for path in models)}; log each by itself")
        data = models[0] if models else data
    found = recognise(data)
    if isinstance(found, ModelFolder):
        return found
    return ModelFolder(folder=data, name="", config=None, versions={1: (data, found)}, beside=())


def newest(found: ModelFolder) -> int:
    """The newest version (of those that the config's `version_policy.specific` lists); 0 for an ensemble without a version folder.

    Raises:
        RepositoryError: none of the listed versions is there.

    """
    listed = model_config.versions(found.config) if found.config is not None else None
    allowed = set(found.versions) if listed is None else set(found.versions) & set(listed)
    if found.versions and not allowed:
        raise RepositoryError(
            f"{shown(found.folder / CONFIG_FILE)} lets the versions {list(listed or ())} serve, and there are {list(found.versions)}"
        )
    return max(allowed, default=0)


def take(found: ModelFolder, number: int, into: VersionFolder) -> None:
    """Bring the files of one version, and those beside config.pbtxt, into the folder `into`.

    A file is linked where every user may read it, else copied: Triton is often someone else. Where there is none at all, one is
    written that says so (`PLACEHOLDER`).

    Raises:
        RepositoryError: two files would have one name, or one has that of our manifest.

    """
    taken: dict[str, Path] = {}
    if number:
        version = found.versions[number][0]
        files = check_files(version) if any(version.iterdir()) else ()
        taken = {file: version / file for file in files if CACHES not in file.split("/")}
    for file in found.beside:
        if file in taken:
            raise RepositoryError(
                f"{shown(found.folder / file)} lies beside {CONFIG_FILE}, and version {number} has a file of that name too; both are "
                "published in the version's folder, so rename one"
            )
        taken[file] = found.folder / file
    if MANIFEST_FILE in taken:
        raise RepositoryError(f"{shown(taken[MANIFEST_FILE])} has the name of our own manifest; remove or rename it")
    for file, source in taken.items():
        into.link(Path(os.path.realpath(source)), file)
    if not taken:
        into.write(PLACEHOLDER, b"This version has no files of its own; this one keeps its folder.\n")
