"""What attempts leave that were killed and never run again, and how to tell it from what is still needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.base import MODELS, Repository
from airflow_triton.repository.layout import CANDIDATE_FILE, NOTE_FILE
from airflow_triton.repository.manifest import now
from airflow_triton.repository.places import Place, etag_of

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


@dataclass(frozen=True)
class Waiting:
    """Something of a deployment that is not finished: its folder's name, and since when it lies there, by its own note.

    `stale`: nobody will come back for it, and the next clean-up of its model removes it. None: it has no note that can be read, so
    only the deployment that left it removes it.
    """

    name: str
    since: str | None
    stale: bool | None


_Note = TypeVar("_Note", bound=BaseModel)


def _note(repository: Repository, place: Place, kind: type[_Note]) -> _Note | None:
    """A note; None where there is none that can be read."""
    try:
        stored = repository.read(place)
        return kind.model_validate_json(stored.text) if stored else None
    except ValidationError:
        return None
    except RepositoryError as error:
        if error.transient:
            raise
        return None


def waiting_candidates(repository: Repository, model: str) -> list[Waiting]:
    """Every candidate of a model. Stale is one that can never be promoted: something was released since it was staged.

    The notes are read before config.pbtxt: a candidate that was staged on a newer release than the one that is read is not stale, as
    there is none.
    """
    notes = {name: _note(repository, MODELS / name / CANDIDATE_FILE, CandidateNote) for name in repository.candidates(model)}
    current = etag_of(repository.read_config(model))
    return [Waiting(name, note.at if note else None, note.before != current if note else None) for name, note in notes.items()]


def stale_candidates(repository: Repository, model: str) -> list[str]:
    """The candidates of a model that can never be promoted."""
    return [each.name for each in waiting_candidates(repository, model) if each.stale]


def waiting_servables(repository: Repository, model: str, *, days: float = SERVABLE_DAYS) -> list[Waiting]:
    """The converted models that wait for the rest of their deployment. Stale is one that has done so for longer than `days`."""
    limit = datetime.now(timezone.utc) - timedelta(days=days)
    found = []
    for servable_id in repository.servables(model):
        note = _note(repository, repository.servable_place(model, servable_id) / NOTE_FILE, ServableNote)
        since = _moment(note.at) if note else None
        found.append(Waiting(servable_id, note.at if note and since else None, since < limit if since else None))
    return found


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def old_servables(repository: Repository, model: str, *, days: float = SERVABLE_DAYS) -> list[str]:
    """The ids of converted models that have waited for longer than `days`."""
    return [each.name for each in waiting_servables(repository, model, days=days) if each.stale]


def sweep(repository: Repository, model: str, *, days: float = SERVABLE_DAYS) -> None:
    """Remove the files of converted models that nobody came back for."""
    for servable_id in old_servables(repository, model, days=days):
        repository.remove(repository.servable_place(model, servable_id))
