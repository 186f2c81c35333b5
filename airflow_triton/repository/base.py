"""What every model repository can do, on disk and on an object store.

A kind of repository brings the few verbs that are marked abstract. Whatever follows from them is here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from airflow_triton.errors import ConflictError, RepositoryError
from airflow_triton.repository.layout import (
    CONFIG_FILE,
    MANIFEST_FILE,
    candidates_of,
    check_model_name,
    is_candidate,
)
from airflow_triton.repository.manifest import FileDigest, Manifest
from airflow_triton.repository.places import Item, Origin, Place, StoredConfig, StoredFile, StoredObject, Upload, etag_of
from airflow_triton.servable import SERVABLE_FILE

MODELS, WORK = Place("models", ""), Place("work", "")
SERVABLES = WORK / "servables"


class Repository(ABC):
    """A model repository that a Triton serves from, and the work area beside it.

    Guarantee, for every kind: a folder that `put` answered for is complete; `swap_config` writes if config.pbtxt is still what the
    caller saw, and no reader ever sees half of it; nothing here touches what it was not pointed at. Whatever cannot be read or
    written raises RepositoryError, RepositoryUnreachableError where trying again may help.
    """

    on_disk = False
    """Whether it is a folder: what is put there appears at once, and files in its staging need no upload to become what Triton opens."""

    @abstractmethod
    def __str__(self) -> str:
        """The repository as its user writes it, without credentials."""

    @abstractmethod
    def where(self, place: Place) -> str:
        """A place as its user would look it up; for messages."""

    @abstractmethod
    def check_exists(self) -> None:
        """Raise RepositoryError unless the repository is there, and is one that can be trusted with a release."""

    @abstractmethod
    def make(self) -> None:
        """Make an empty repository, for a Triton to start on; what is there already stays as it is."""

    @abstractmethod
    def folders(self, place: Place) -> list[str]:
        """The names of the folders in a folder, sorted; none where it does not exist."""

    @abstractmethod
    def files(self, place: Place) -> list[StoredFile]:
        """Every file below a folder, in the order of the paths; none where it does not exist."""

    @abstractmethod
    def read(self, place: Place) -> StoredConfig | None:
        """The text of one small file, with its etag; None where there is none."""

    @abstractmethod
    def sha256(self, place: Place) -> str:
        """The SHA-256 of a file's content, read in pieces: memory stays flat."""

    @abstractmethod
    def origin(self, place: Place) -> Origin:
        """A stored file as the origin of another one."""

    @abstractmethod
    def fetch(self, origin: Origin, into: Path) -> None:
        """Bring one stored file to this machine."""

    def lying_at(self, uri: str) -> dict[str, StoredObject]:  # noqa: ARG002 a disk has no such place
        """The objects below an address in the same store, by their paths: what the store can copy by itself. Else nothing."""
        return {}

    @abstractmethod
    def put(
        self,
        place: Place,
        items: Sequence[Item],
        *,
        first: Mapping[str, str] | None = None,
        last: Mapping[str, str] | None = None,
        replace: bool = False,
    ) -> bool:
        """Let a complete folder appear: files, and small texts that go before them or after them.

        On disk it appears whole, in one atomic step. In a store it grows: `first`, the items but the last one, the last one,
        `last`; a file that is there already with the same SHA-256 is not sent again. Without `replace`, a folder that is there
        (in a store: that has its `last` texts) stays as it is and the answer is false; with it, whatever else lies there goes.
        """

    @abstractmethod
    def remove(self, place: Place) -> None:
        """Remove a folder; nothing happens where there is none. In a store the notes about it (`first`) go at the very end."""

    @abstractmethod
    def new_staging(self) -> AbstractContextManager[Path]:
        """A new, empty folder on this machine, for files that are to be put; gone at the end of the `with` block."""

    def ownerless_staging(self) -> list[Place]:
        """The staging folders in the repository whose process is dead. Nothing is made, not even a lock."""
        return []

    def unfinished_uploads(self) -> list[Upload]:
        """The uploads that are neither finished nor given up; nobody sees them, and they are paid for."""
        return []

    @abstractmethod
    def locked(self, model: str) -> AbstractContextManager[None]:
        """Hold the model's lock among all publishers; RepositoryError if it does not become free in time."""

    @abstractmethod
    def _swap(self, place: Place, text: str | None, *, expected: str | None) -> str | None:
        """Replace a file, under the lock, if its etag is `expected`; ConflictError otherwise. None removes it."""

    # --- where things lie

    def model_place(self, model: str) -> Place:
        """Where the model lies, or would lie."""
        return MODELS / check_model_name(model)

    def version_place(self, model: str, version: int) -> Place:
        """Where a version lies, or would lie."""
        return self.model_place(model) / int(version)

    def config_place(self, model: str) -> Place:
        """Where the model's config.pbtxt lies, or would lie."""
        return self.model_place(model) / CONFIG_FILE

    def servable_place(self, model: str, servable_id: str) -> Place:
        """Where the files of a converted model wait until they are promoted. Each is named by its SHA-256."""
        return SERVABLES / check_model_name(model) / check_model_name(servable_id)

    def items(self, place: Place, files: Iterable[FileDigest], *, by_digest: bool = False) -> list[Item]:
        """Files that lie in a folder (`by_digest`: each named by its SHA-256), to be put somewhere else."""
        return [Item(file, self.origin(place / (file.sha256 if by_digest else file.path))) for file in files]

    # --- what is there

    def models(self) -> list[str]:
        """The names of all models, candidates left out."""
        return [name for name in self.folders(MODELS) if not is_candidate(name)]

    def candidates(self, model: str) -> list[str]:
        """The names of the candidates of a model."""
        return candidates_of(model, self.folders(MODELS))

    def servables(self, model: str) -> list[str]:
        """The ids of the converted models that wait for the rest of their deployment."""
        return self.folders(SERVABLES / check_model_name(model))

    def versions(self, model: str) -> list[int]:
        """The version numbers that have a folder, in rising order."""
        return _numbers(self.folders(self.model_place(model)))

    def all_versions(self) -> dict[str, list[int]]:
        """The version numbers of every model, candidates left out."""
        return {model: _numbers(self.folders(MODELS / model)) for model in self.models()}

    def read_config(self, model: str) -> StoredConfig | None:
        """The model's config.pbtxt; None where it has none."""
        return self.read(self.config_place(model))

    def servable(self, model: str, servable_id: str) -> str | None:
        """The description of a converted model that waits in the work area, complete; None where there is none."""
        stored = self.read(self.servable_place(model, servable_id) / SERVABLE_FILE)
        return stored.text if stored else None

    def manifest(self, model: str, version: int) -> Manifest | None:
        """The manifest of a stored version; None where the version, or its manifest, is not there."""
        place = self.version_place(model, version) / MANIFEST_FILE
        stored = self.read(place)
        return Manifest.parse(stored.text, self.where(place)) if stored else None

    def damage(self, model: str, version: int, *, thorough: bool = True) -> list[str]:
        """What is wrong with a stored version, by its manifest; empty where it is whole.

        `thorough` reads every byte and compares digests; without it, the presence and the size of each file are compared.
        """
        place = self.version_place(model, version)
        manifest = self.manifest(model, version)
        if manifest is None:
            return [f"{self.where(place)} has no {MANIFEST_FILE}"]
        sizes = {file.path: file.size for file in self.files(place)}
        problems = []
        for file in manifest.files:
            where, size = self.where(place / file.path), sizes.get(file.path)
            if size is None:
                problems.append(f"{where} is missing")
            elif size != file.size:
                problems.append(f"{where} has {size} bytes instead of {file.size}")
            elif thorough and self.sha256(place / file.path) != file.sha256:
                problems.append(f"{where} has another content than its manifest says")
        return problems

    # --- the commit

    def swap_config(self, model: str, text: str | None, *, expected: str | None, names: tuple[int, str] | None = None) -> str | None:
        """Replace config.pbtxt in one atomic step, if it still has the etag `expected` (None: if there still is none).

        `text` None removes it; `names` is the version that the text lets serve, and the id of its servable: it must be stored, and be
        made of that. Answers the new etag. No reader ever sees half of it.

        Raises:
            ConflictError: config.pbtxt has changed, or the version is gone; nothing was written.

        """
        with self.locked(model):
            if etag_of(self.read_config(model)) != expected:
                raise self._overtaken(self.config_place(model))
            if names is not None:
                self._check_stored(model, *names)
            return self._swap(self.config_place(model), text, expected=expected)

    def swap_held(self, place: Place, text: str | None, *, expected: str | None) -> str | None:
        """Replace a small file of a model in one atomic step, if it has the etag `expected`; the caller holds the model's lock.

        `expected` None adds it; `text` None removes it. ConflictError where it is another by now; nothing was written.
        """
        return self._swap(place, text, expected=expected)

    def _overtaken(self, place: Place) -> ConflictError:
        return ConflictError(f"someone else changed {self.where(place)} meanwhile; theirs stays, nothing of this deployment was published")

    def _check_stored(self, model: str, version: int, servable_id: str) -> None:
        manifest = self.manifest(model, version)
        if manifest is None or not manifest.is_of(servable_id):
            what = "removed" if manifest is None else "replaced"
            where = self.where(self.version_place(model, version))
            raise ConflictError(f"someone else {what} {where} meanwhile; nothing was published")


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(int(name) for name in names if name.isdecimal())


def decoded(content: bytes, where: str) -> str:
    """The text of a small file; RepositoryError where it is none."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{where} cannot be read: {error}") from None
