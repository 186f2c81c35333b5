"""The calls of the pipeline that bring a ready model into a repository, without MLflow and without a server."""

from __future__ import annotations

from pathlib import Path

from airflow_triton import repository as repo
from airflow_triton.convert.ready import files as triton_files
from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.repository import Item, Manifest, Release, Repository
from airflow_triton.repository.layout import CANDIDATE_FILE, CONFIG_FILE
from airflow_triton.servable import SERVABLE_FILE

MODEL, CANDIDATE = "m", "m--candidate-1-000000000000"


def bring(store: Repository, model: Path, identity: str) -> Manifest:
    """Recognise the folder, digest its files, and bring them into the repository, whole, where no Triton looks."""
    with store.new_staging() as staging:
        folder = VersionFolder(staging / "files", shared=store.on_disk)
        found = triton_files.model_folder(model)
        triton_files.take(found, triton_files.newest(found), folder)
        files = folder.files()
        items = [Item(file, folder.path / file.path).named(file.sha256) for file in files]
        place = store.servable_place(MODEL, identity)
        store.put(place, items, first={"note.json": "{}"}, last={SERVABLE_FILE: "{}"})
    return Manifest(servable_id=identity, files=files, config=(model / CONFIG_FILE).read_text())


def stage(store: Repository, manifest: Manifest) -> None:
    """Let the candidate appear."""
    place = store.model_place(CANDIDATE)
    items = [item.under(1) for item in _items(store, manifest)]
    store.put(place, items, first={CANDIDATE_FILE: "{}"}, last={CONFIG_FILE: manifest.config})


def promote(store: Repository, manifest: Manifest, version: int) -> None:
    """Candidate to live: the version appears, config.pbtxt names it."""
    release = Release(id=manifest.servable_id, version=version, servable_id=manifest.servable_id, how="promote", config=manifest.config)
    repo.publish(store, MODEL, _items(store, manifest), manifest, release, expected=store.read_config(MODEL))


def again(store: Repository, manifest: Manifest, version: int) -> None:
    """What a deployment asks of the repository whose model has not changed."""
    assert repo.releases(store, MODEL)[-1].id == manifest.servable_id
    assert store.damage(MODEL, version, thorough=False) == []


def _items(store: Repository, manifest: Manifest) -> list[Item]:
    return store.items(store.servable_place(MODEL, manifest.servable_id), manifest.files, by_digest=True)
