"""What is stored, of one model or of all of them at once: one listing, and the small files read side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from airflow_triton.errors import DeployError
from airflow_triton.repository.base import Repository
from airflow_triton.repository.release import Release
from airflow_triton.repository.transaction import releases

AT_ONCE = 32
"""Files that are read at a time: a store answers each after a while, and all of them at once as fast as one."""


@dataclass(frozen=True)
class StoredModel:
    """A model as it is stored: its versions in rising order, its releases with the one that serves last.

    Of a model that others put there, of one that is not there and of one that cannot be read there are no releases, and `problem`
    says why where there is something to say.
    """

    name: str
    versions: tuple[int, ...]
    releases: tuple[Release, ...]
    problem: str | None = None


def survey(repository: Repository) -> list[StoredModel]:
    """Every model of the repository, candidates left out, sorted by name; a model that cannot be read hides no other one.

    Raises:
        RepositoryError: the repository itself cannot be listed.

    """
    listed = sorted(repository.all_versions().items())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda row: _stored(repository, *row), listed))


def stored_model(repository: Repository, model: str) -> StoredModel:
    """One model; what cannot be read is its `problem`."""
    try:
        versions = repository.versions(model)
    except DeployError as error:
        return StoredModel(model, (), (), str(error))
    return _stored(repository, model, versions)


def _stored(repository: Repository, model: str, versions: Sequence[int]) -> StoredModel:
    try:
        return StoredModel(model, tuple(versions), tuple(releases(repository, model)))
    except DeployError as error:
        return StoredModel(model, tuple(versions), (), str(error))
