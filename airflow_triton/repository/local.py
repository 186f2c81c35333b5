"""A model repository in a folder.

The verbs are those of an object store (put, swap under a condition, remove), made atomic by rename within one file system.
Whatever is removed is first renamed away, so that a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from airflow_triton.errors import ConflictError, RepositoryError
from airflow_triton.repository.layout import CONFIG_FILE, MANIFEST_FILE, check_model_name, is_candidate
from airflow_triton.repository.manifest import Manifest, sha256

_LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class StoredConfig:
    """The text of a config.pbtxt, and the tag that `swap_config` compares."""

    text: str
    etag: str


class LocalRepository:
    """A folder that a Triton serves from; made on the first write.

    Raises RepositoryError where the folder cannot be used: not a folder, not writable, or a mount point of its own (the work
    area must lie on the same file system, beside it).
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.work = self.root.parent / f".{self.root.name}.airflow-triton"

    def __str__(self) -> str:
        return str(self.root)

    def prepare(self) -> None:
        """Make the repository and its work area, or say why that cannot be."""
        try:
            for folder in (self.root, self.work / "locks", self.work / "staging", self.work / "servables"):
                folder.mkdir(parents=True, exist_ok=True)
            same = self.root.stat().st_dev == self.work.stat().st_dev
        except OSError as error:
            raise RepositoryError(f"the model repository {self.root} cannot be used: {error}") from None
        if not same:
            raise RepositoryError(
                f"the model repository {self.root} is a mount point: its work area {self.work} would lie on another file system, "
                f"where nothing can be renamed into place; use a folder below the mount, such as {self.root / 'models'}"
            )

    def model_folder(self, model: str) -> Path:
        """Where the model lies, or would lie."""
        return self.root / check_model_name(model)

    def version_folder(self, model: str, version: int) -> Path:
        """Where a version lies, or would lie."""
        return self.model_folder(model) / str(int(version))

    def servable_folder(self, servable_id: str) -> Path:
        """Where the files of a converted model wait until they are promoted."""
        return self.work / "servables" / check_model_name(servable_id)

    def new_staging(self) -> Path:
        """A new, empty folder on the repository's file system that no Triton sees."""
        self.prepare()
        folder = self.work / "staging" / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def models(self) -> list[str]:
        """The names of all models, candidates left out."""
        return sorted(name for name in _folders(self.root) if not is_candidate(name))

    def versions(self, model: str) -> list[int]:
        """The version numbers that have a folder, in rising order."""
        return sorted(int(name) for name in _folders(self.model_folder(model)) if name.isdecimal())

    def manifest(self, model: str, version: int) -> Manifest | None:
        """The manifest of a stored version; None where the version, or its manifest, is not there."""
        return Manifest.read(self.version_folder(model, version))

    def damage(self, model: str, version: int) -> list[str]:
        """What is wrong with a stored version, by its manifest's digests; empty where it is whole. Reads every byte."""
        manifest = self.manifest(model, version)
        if manifest is None:
            return [f"{self.version_folder(model, version)} has no {MANIFEST_FILE}"]
        problems = []
        for file in manifest.files:
            path = self.version_folder(model, version) / file.path
            if not path.is_file():
                problems.append(f"{path} is missing")
            elif path.stat().st_size != file.size:
                problems.append(f"{path} has {path.stat().st_size} bytes instead of {file.size}")
            elif sha256(path) != file.sha256:
                problems.append(f"{path} has another content than its manifest says")
        return problems

    def read_config(self, model: str) -> StoredConfig | None:
        """The model's config.pbtxt; None where it has none."""
        path = self.model_folder(model) / CONFIG_FILE
        try:
            content = path.read_bytes()
            return StoredConfig(content.decode(), _etag(content))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(f"{path} cannot be read: {error}") from None

    def swap_config(self, model: str, text: str | None, *, expected: str | None, names: int | None = None) -> str | None:
        """Replace config.pbtxt in one atomic step, if it still has the etag `expected` (None: if there still is none).

        `text` None removes it; `names` is the version that the text lets serve, which must be stored. Answers the new etag. No
        reader ever sees half of it.

        Raises:
            ConflictError: config.pbtxt has changed, or the version is gone; nothing was written.

        """
        self.prepare()
        path = self.model_folder(model) / CONFIG_FILE
        with self.locked(model):
            current = self.read_config(model)
            if (current.etag if current else None) != expected:
                raise ConflictError(f"someone else changed {path} meanwhile; theirs stays, nothing of this deployment was published")
            if names is not None and self.manifest(model, names) is None:
                raise ConflictError(f"someone else removed {self.version_folder(model, names)} meanwhile; nothing was published")
            if text is None:
                path.unlink(missing_ok=True)
                return None
            staged = self.work / "staging" / uuid.uuid4().hex
            _write_durably(staged, text.encode())
            path.parent.mkdir(exist_ok=True)
            staged.replace(path)
            _sync_folder(path.parent)
            return _etag(text.encode())

    @contextlib.contextmanager
    def locked(self, model: str) -> Iterator[None]:
        """Hold the model's lock among all processes on this file system; RepositoryError if it is not free within 30 s."""
        self.prepare()
        lock = FileLock(self.work / "locks" / f"{check_model_name(model)}.lock")
        try:
            with lock.acquire(timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise RepositoryError(f"{lock.lock_file} has been held for {_LOCK_SECONDS:g} s: another process is stuck") from None

    def put_folder(self, staged: Path, target: Path) -> None:
        """Move a complete folder to `target` in one atomic step; RepositoryError if something lies there.

        Every file is on the disk before the folder appears.
        """
        sync_tree(staged)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(target)
        except OSError as error:
            raise RepositoryError(f"{target} cannot be put in place: {error}") from None
        _sync_folder(target.parent)

    def remove_folder(self, folder: Path) -> None:
        """Let a folder vanish in one atomic step, then delete it; nothing happens where there is none."""
        grave = self.new_staging()
        try:
            folder.rename(grave / folder.name)
        except FileNotFoundError:
            grave.rmdir()
            return
        except OSError as error:
            grave.rmdir()
            raise RepositoryError(f"{folder} cannot be removed: {error}") from None
        shutil.rmtree(grave)

    def remove_model_if_empty(self, model: str) -> None:
        """Remove the model's folder where nothing is left in it."""
        with contextlib.suppress(OSError):
            self.model_folder(model).rmdir()


def link_tree(source: Path, target: Path, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Copy a folder by hard links, so that no byte is copied; by copying where the file system has none.

    `leave_out` names files in the top folder of `source` that stay behind.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if relative.as_posix() in leave_out:
            continue
        if path.is_dir():
            (target / relative).mkdir(exist_ok=True)
            continue
        try:
            os.link(path, target / relative)
        except OSError:
            shutil.copyfile(path, target / relative)


def sync_tree(folder: Path) -> None:
    """Bring everything below a folder to the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _sync_folder(path)
        else:
            _sync_file(path)
    _sync_folder(folder)


def _folders(path: Path) -> list[str]:
    """The names of the folders in a folder; none where it does not exist."""
    try:
        return [entry.name for entry in path.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read: {error}") from None


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
