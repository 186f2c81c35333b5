"""What attempts leave that were killed and never run again, and how to tell it from what is still needed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_triton.repository.base import Repository
from airflow_triton.repository.layout import CANDIDATE_FILE, NOTE_FILE
from airflow_triton.repository.manifest import now
from airflow_triton.repository.places import etag_of

SERVABLE_DAYS = 7
"""How long the files of a converted model wait for the rest of their deployment: an approval may take days."""


class CandidateNote(BaseModel):
    """`candidate.json` in a candidate's folder: the etag of the model's config.pbtxt that it was staged on (None: there was none)."""

    model_config = ConfigDict(frozen=True)

    before: str | None
    at: str = Field(default_factory=now)


class ServableNote(BaseModel):
    """`note.json` beside the files of a converted model: since when they wait."""

    model_config = ConfigDict(frozen=True)

    at: str = Field(default_factory=now)


def stale_candidates(repository: Repository, model: str) -> list[str]:
    """The candidates of a model that can never be promoted: something was released since they were staged.

    The notes are read before config.pbtxt: a candidate that was staged on a newer release than the one that is read is not among
    them, as there is none.
    """
    notes = {}
    for name in repository.candidates(model):
        stored = repository.read(repository.model_place(name) / CANDIDATE_FILE)
        try:
            notes[name] = CandidateNote.model_validate_json(stored.text) if stored else None
        except ValidationError:
            notes[name] = None
    current = etag_of(repository.read_config(model))
    return [name for name, note in notes.items() if note is not None and note.before != current]


def old_servables(repository: Repository, model: str, *, days: float = SERVABLE_DAYS) -> list[str]:
    """The ids of converted models that have waited for longer than `days`."""
    limit = datetime.now(timezone.utc) - timedelta(days=days)
    old = []
    for servable_id in repository.servables(model):
        stored = repository.read(repository.servable_place(model, servable_id) / NOTE_FILE)
        try:
            note = ServableNote.model_validate_json(stored.text) if stored else None
        except ValidationError:
            note = None
        if note is not None and datetime.fromisoformat(note.at) < limit:
            old.append(servable_id)
    return old


def sweep(repository: Repository, model: str, *, days: float = SERVABLE_DAYS) -> None:
    """Remove the files of converted models that nobody came back for."""
    for servable_id in old_servables(repository, model, days=days):
        repository.remove(repository.servable_place(model, servable_id))
