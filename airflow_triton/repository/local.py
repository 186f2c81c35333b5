"""A model repository in a folder.

The verbs are those of an object store (put, swap under a condition, remove), made atomic by rename within one file system.
Whatever is removed is first renamed away, so that a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import errno
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
_HELD = ".lock"
"""What the file beside a staging folder ends with; its owner holds it locked."""


@dataclass(frozen=True)
class StoredConfig:
    """The text of a config.pbtxt, and the tag that `swap_config` compares."""

    text: str
    etag: str


def etag_of(stored: StoredConfig | None) -> str | None:
    """The etag of a config.pbtxt; None where there is none."""
    return stored.etag if stored else None


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

    def check_exists(self) -> None:
        """Raise RepositoryError unless the folder is there: one that is not mounted must not be made anew beside its mount."""
        if not self.root.is_dir():
            raise RepositoryError(
                f"there is no model repository {self.root}: make the folder that Triton serves from (--model-repository), or mount it here"
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

    def new_staging(self) -> contextlib.AbstractContextManager[Path]:
        """A new, empty folder on the repository's file system that no Triton sees; gone at the end of the `with` block.

        What processes that were killed left there goes first.
        """
        self.prepare()
        return self._staging()

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        self._sweep()
        folder = self.work / "staging" / uuid.uuid4().hex
        with FileLock(folder.with_suffix(_HELD)).acquire(timeout=_LOCK_SECONDS):  # before the folder appears, and until it is gone
            try:
                folder.mkdir()
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_suffix(_HELD).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove the staging folders of processes that are dead.

        Each is held by a lock on the file beside it, from before it appears until it is gone, and the kernel releases the lock of
        a process that dies, also for other hosts that share the file system. So a folder whose lock is free has no owner.
        """
        staging = self.work / "staging"
        for name in sorted({path.stem for path in staging.iterdir()}):
            lock = (staging / name).with_suffix(_HELD)
            with contextlib.suppress(Timeout), FileLock(lock).acquire(timeout=0):
                shutil.rmtree(staging / name, ignore_errors=True)
                lock.unlink(missing_ok=True)

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

    def swap_config(self, model: str, text: str | None, *, expected: str | None, names: tuple[int, str] | None = None) -> str | None:
        """Replace config.pbtxt in one atomic step, if it still has the etag `expected` (None: if there still is none).

        `text` None removes it; `names` is the version that the text lets serve, and the id of its servable: it must be stored, and be
        made of that. Answers the new etag. No reader ever sees half of it.

        Raises:
            ConflictError: config.pbtxt has changed, or the version is gone; nothing was written.

        """
        path = self.model_folder(model) / CONFIG_FILE
        with self.locked(model):
            if etag_of(self.read_config(model)) != expected:
                raise ConflictError(f"someone else changed {path} meanwhile; theirs stays, nothing of this deployment was published")
            if names is not None:
                self._check_stored(model, *names)
            if text is None:
                path.unlink(missing_ok=True)
                return None
            with self.new_staging() as staged:
                _write_durably(staged / CONFIG_FILE, text.encode())
                path.parent.mkdir(exist_ok=True)
                (staged / CONFIG_FILE).replace(path)
            _sync_folder(path.parent)
            return _etag(text.encode())

    def _check_stored(self, model: str, version: int, servable_id: str) -> None:
        manifest = self.manifest(model, version)
        if manifest is None or manifest.servable_id != servable_id:
            what = "removed" if manifest is None else "replaced"
            raise ConflictError(f"someone else {what} {self.version_folder(model, version)} meanwhile; nothing was published")

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

    def put_folder(self, staged: Path, target: Path) -> bool:
        """Move a complete folder to `target` in one atomic step; false, and nothing happens, where a folder lies there already.

        Every file is on the disk before the folder appears.
        """
        sync_tree(staged)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise RepositoryError(f"{target} cannot be put in place: {error}") from None
        _sync_folder(target.parent)
        return True

    def remove_folder(self, folder: Path) -> None:
        """Let a folder vanish in one atomic step, then delete it; nothing happens where there is none."""
        with self.new_staging() as grave:
            try:
                folder.rename(grave / folder.name)
            except FileNotFoundError:
                return
            except OSError as error:
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
