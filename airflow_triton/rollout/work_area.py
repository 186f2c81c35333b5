"""What the steps leave for each other in the repository's work area."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from airflow_triton.repository import Item, Repository, ServableNote
from airflow_triton.repository.layout import NOTE_FILE
from airflow_triton.servable import SERVABLE_FILE


def leave(store: Repository, model: str, identity: str, items: Iterable[Item], record: BaseModel) -> None:
    """Leave files, each named by its SHA-256, and the record that describes them; the first of several that do so wins."""
    store.put(
        store.servable_place(model, identity),
        [item.named(item.file.sha256) for item in items],
        first={NOTE_FILE: ServableNote().model_dump_json()},
        last={SERVABLE_FILE: record.model_dump_json(indent=1)},
    )
