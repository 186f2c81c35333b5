"""How a model leaves a repository: whose it is, a note that says that it is being deleted, the removal, and the note's own end.

The note lies in the work area from before the first server lets go of the model until nothing of it is left. So a deletion that was cut
off anywhere is finished by the next one, which knows from the note what the files that remain belong to, and what MLflow is to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from airflow_triton import model_config
from airflow_triton.errors import ConflictError, DeployError, ModelConfigError, RepositoryError
from airflow_triton.repository import release as journal
from airflow_triton.repository.adoption import foreign
from airflow_triton.repository.base import SERVABLES, WORK, Repository
from airflow_triton.repository.layout import NOTE_FILE, check_model_name
from airflow_triton.repository.manifest import now
from airflow_triton.repository.places import Place, StoredConfig, etag_of
from airflow_triton.repository.release import Release
from airflow_triton.repository.transaction import releases

DELETIONS = WORK / "deletions"
_AT_ONCE = 32


class DeletionNote(BaseModel):
    """`note.json` of a model that is being deleted.

    `before` is the etag of its config.pbtxt, `folders` are the names of the folders that it had. `told` is what MLflow was told of its
    deployments: for each registered model the aliases, each with the versions that it was set to.
    """

    model_config = ConfigDict(frozen=True)

    before: str | None
    folders: tuple[str, ...]
    told: dict[str, dict[str, tuple[int, ...]]] = Field(default_factory=dict)
    by: str | None = None
    at: str = Field(default_factory=now)


@dataclass(frozen=True)
class Claim:
    """What there is of a model that may be deleted, and all of it is.

    `releases` are ours, in their order; of a deployment of NVIDIA's plugin (`theirs`) there are none. `folders` are those of the model,
    `strangers` those of them that neither this package nor the plugin put there, such as older versions of a model that was taken over.
    `note` is that of a deletion that was cut off.
    """

    model: str
    etag: str | None
    releases: tuple[Release, ...]
    theirs: bool
    folders: tuple[str, ...]
    strangers: tuple[str, ...]
    candidates: tuple[str, ...]
    servables: tuple[str, ...]
    note: DeletionNote | None

    @property
    def is_stored(self) -> bool:
        """Whether the model itself is there."""
        return self.etag is not None or bool(self.folders)

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to delete."""
        return not (self.is_stored or self.candidates or self.servables or self.note)


def claim(repository: Repository, model: str) -> Claim:
    """What of the model is there to be deleted. Changes nothing.

    Raises:
        RepositoryError: others put the model there (and not NVIDIA's MLflow plugin), its journal is damaged or was edited by hand, or an
            ensemble of the repository has it as a step.

    """
    stored = repository.read_config(check_model_name(model))
    folders = tuple(repository.folders(repository.model_place(model)))
    note = _note(repository, model)
    found, theirs = _owned(repository, model, stored, folders, note)
    strangers = () if theirs else tuple(name for name in folders if _is_strange(repository, model, name))
    if stored is not None and (users := _ensembles_with(repository, model)):
        raise RepositoryError(
            f"`{model}` is a step of the ensemble {', '.join(f'`{user}`' for user in users)} in {repository}, which could not answer "
            "without it: delete that first, or deploy it without this step"
        )
    return Claim(
        model=model,
        etag=etag_of(stored),
        releases=tuple(found),
        theirs=theirs,
        folders=folders,
        strangers=strangers,
        candidates=tuple(repository.candidates(model)),
        servables=tuple(repository.servables(model)),
        note=note,
    )


def _owned(
    repository: Repository, model: str, stored: StoredConfig | None, folders: Sequence[str], note: DeletionNote | None
) -> tuple[list[Release], bool]:
    """The releases of a model of ours, and whether it is NVIDIA's plugin's instead; RepositoryError where it is neither."""
    if note is not None and etag_of(stored) in (None, note.before) and set(folders) <= set(note.folders):
        if stored is None:
            return [], False
        if not journal.has_journal(stored.text):
            return [], True
    others = foreign(repository, model)
    if others is None:
        return releases(repository, model, stored), False
    if others.mlflow_uri is not None:
        return [], True
    raise RepositoryError(
        f"`{model}` in {repository} was not published by airflow-provider-triton, nor by NVIDIA's MLflow plugin, so it is not deleted: "
        f"remove it by hand, or take it over first: airflow-triton adopt {model}"
    )


def _is_strange(repository: Repository, model: str, folder: str) -> bool:
    """Whether a folder of a model of ours is no version of ours."""
    try:
        return not folder.isdecimal() or repository.manifest(model, int(folder)) is None
    except RepositoryError as error:
        if error.transient:
            raise
        return False  # it has a manifest, which is damaged


def _ensembles_with(repository: Repository, model: str) -> list[str]:
    """The models of the repository that are ensembles with this one as a step. A config that cannot be read is nobody's ensemble."""

    def uses(name: str) -> bool:
        try:
            stored = repository.read_config(name)
            if stored is None or "ensemble_scheduling" not in stored.text or model not in stored.text:
                return False
            config = model_config.parse(stored.text)
        except (ModelConfigError, RepositoryError) as error:
            if error.transient:
                raise
            return False
        return any(step.model_name == model for step in config.ensemble_scheduling.step)

    names = [name for name in repository.models() if name != model and _is_name(name)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [name for name, used in zip(names, pool.map(uses, names), strict=True) if used]


def _is_name(name: str) -> bool:
    try:
        check_model_name(name)
    except RepositoryError:
        return False
    return True


def _place(model: str) -> Place:
    return DELETIONS / check_model_name(model)


def _note(repository: Repository, model: str) -> DeletionNote | None:
    stored = repository.read(_place(model) / NOTE_FILE)
    try:
        return DeletionNote.model_validate_json(stored.text) if stored else None
    except ValueError:
        return None  # it was cut off while it was written: nothing was removed yet


def deletions(repository: Repository) -> list[str]:
    """The names of the models whose deletion was begun and has not ended."""
    return repository.folders(DELETIONS)


def begin(repository: Repository, claimed: Claim, note: DeletionNote) -> None:
    """Note that the model is being deleted, if it is still as it was claimed.

    Raises:
        ConflictError: someone else released meanwhile; nothing was noted.

    """
    with repository.locked(claimed.model):
        _refuse_other(repository, claimed)
        repository.put(_place(claimed.model), [], first={NOTE_FILE: note.model_dump_json(indent=1) + "\n"}, replace=True)


def give_up(repository: Repository, claimed: Claim) -> None:
    """Take the note back, where nothing was removed; that of an earlier deletion stays."""
    if claimed.note is None:
        repository.remove(_place(claimed.model))


def remove(repository: Repository, claimed: Claim) -> None:
    """Remove the model: config.pbtxt and every folder. On disk it vanishes in one step; in a store a note says what is going.

    Raises:
        ConflictError: someone else released meanwhile; nothing was removed.

    """
    with repository.locked(claimed.model):
        _refuse_other(repository, claimed)
        repository.remove(repository.model_place(claimed.model))


def _refuse_other(repository: Repository, claimed: Claim) -> None:
    if etag_of(repository.read_config(claimed.model)) != claimed.etag:
        raise ConflictError(f"someone else released `{claimed.model}` in {repository} meanwhile; theirs serves, nothing was deleted")


def remove_waiting(repository: Repository, model: str) -> list[str]:
    """Remove what was converted and waits in the work area; answer what did not work."""
    problems = []
    for servable_id in repository.servables(model):
        try:
            repository.remove(repository.servable_place(model, servable_id))
        except DeployError as error:
            problems.append(str(error))
    if not problems:
        repository.remove(SERVABLES / check_model_name(model))
    return problems


def end(repository: Repository, model: str) -> None:
    """Nothing is left of the model: remove the note."""
    repository.remove(_place(model))
