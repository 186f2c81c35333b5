"""From what a user writes to the repository that it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_triton.repository.base import Repository
from airflow_triton.repository.local import LocalRepository
from airflow_triton.repository.object_store import ObjectRepository, StoreAddress

if TYPE_CHECKING:
    from airflow_triton.repository.object_store.connect import SessionLookup


def open_repository(place: str, *, lookup: SessionLookup | None = None, polled: bool = False) -> Repository:
    """The repository at `place`: a folder, or an address on an object store as Triton writes it.

    Nothing is asked and nothing is written yet. `lookup` turns the id of an Airflow connection into a boto3 session. `polled` says that
    a server in POLL mode serves from it.

    Raises:
        SpecError: `place` is neither.

    """
    if "://" in place:
        return ObjectRepository(StoreAddress.parse(place), lookup=lookup)
    return LocalRepository(place, polled=polled)
