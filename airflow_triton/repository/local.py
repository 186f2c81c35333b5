"""A model repository in a folder.

Folders appear and vanish by rename within one file system, so that a reader sees all of one or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from airflow_triton.errors import RepositoryError
from airflow_triton.repository.base import WORK, Repository, decoded
from airflow_triton.repository.layout import check_model_name, is_candidate
from airflow_triton.repository.local_files import copy, is_held, link_or_copy, sync_folder, sync_tree, told, write_durably
from airflow_triton.repository.manifest import sha256
from airflow_triton.repository.places import Item, Origin, Place, StoredConfig, StoredFile, etag_of

_LOCK_SECONDS = 30.0
_HELD = ".lock"
"""What the file beside a staging folder ends with; its owner holds it locked."""


class LocalRepository(Repository):
    """A folder that a Triton serves from; made on the first write.

    A Triton that polls it (`polled`) takes a file for another one when its ctime is another, which a further hard link, or one less,
    changes; it then loads the model again. So released files have no second name there, and a release copies them.

    Raises RepositoryError where the folder cannot be used: not a folder, not writable, or a mount point of its own (the work
    area must lie on the same file system, beside it).
    """

    on_disk = True

    def __init__(self, root: str | Path, *, polled: bool = False) -> None:
        self.root = Path(root).expanduser().absolute()
        self.polled = polled
        self.work = self.root.parent / f".{self.root.name}.airflow-triton"

    def __str__(self) -> str:
        return str(self.root)

    def path(self, place: Place) -> Path:
        """A place as a path."""
        return (self.root if place.area == "models" else self.work) / place.path

    def where(self, place: Place) -> str:
        """See Repository."""
        return str(self.path(place))

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

    def make(self) -> None:
        """See Repository."""
        with told(f"{self.root} cannot be made"):
            self.root.mkdir(parents=True, exist_ok=True)

    # --- reading

    def folders(self, place: Place) -> list[str]:
        """See Repository."""
        path = self.path(place)
        try:
            return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read: {error}") from None

    def files(self, place: Place) -> list[StoredFile]:
        """See Repository."""
        folder = self.path(place)
        with told(f"{folder} cannot be read"):
            found = sorted(path for path in folder.rglob("*") if path.is_file())
            return [StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size) for path in found]

    def read(self, place: Place) -> StoredConfig | None:
        """See Repository."""
        path = self.path(place)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read: {error}") from None
        return StoredConfig(decoded(content, str(path)), _etag(content))

    def sha256(self, place: Place) -> str:
        """See Repository."""
        with told(f"{self.path(place)} cannot be read"):
            return sha256(self.path(place))

    def origin(self, place: Place) -> Origin:
        """See Repository."""
        return self.path(place)

    def fetch(self, origin: Origin, into: Path) -> None:
        """See Repository. A hard link where that can be: stored files never change."""
        source = _on_disk(origin)
        with told(f"{source} cannot be copied to {into}"):
            (copy if self.polled else link_or_copy)(source, into)

    # --- writing

    def new_staging(self) -> contextlib.AbstractContextManager[Path]:
        """A new, empty folder on the repository's file system that no Triton sees; gone at the end of the `with` block.

        What processes that were killed left there goes first.
        """
        self.prepare()
        return self._staging()

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        folder = self.work / "staging" / uuid.uuid4().hex
        lock = FileLock(folder.with_suffix(_HELD))  # held from before the folder appears until it is gone
        try:
            with told(f"the work area {self.work} cannot be written"):
                self._sweep()
                lock.acquire(timeout=_LOCK_SECONDS)
                folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock.is_locked:
                folder.with_suffix(_HELD).unlink(missing_ok=True)
            lock.release()

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

    def ownerless_staging(self) -> list[Place]:
        """See Repository."""
        staging = WORK / "staging"
        places = [staging / name for name in self.folders(staging)]
        free = [place for place in places if not is_held(self.path(place).with_suffix(_HELD))]
        return [place for place in free if self.path(place).is_dir()]  # not one whose owner removed it meanwhile

    def put(
        self,
        place: Place,
        items: Sequence[Item],
        *,
        first: Mapping[str, str] | None = None,
        last: Mapping[str, str] | None = None,
        replace: bool = False,
    ) -> bool:
        """See Repository. Every file is on the disk before the folder appears."""
        target = self.path(place)
        with self.new_staging() as staged, told(f"{target} cannot be put in place"):
            for item in items:
                self._put_item(item, staged / item.file.path, released=place.area == "models" and not is_candidate(place.path))
            for name, text in {**(first or {}), **(last or {})}.items():
                (staged / name).write_text(text)
            sync_tree(staged)
            if replace:
                self.remove(place)
            if not _appear(staged, target):
                return False
            sync_folder(target.parent)
        return True

    def _put_item(self, item: Item, target: Path, *, released: bool) -> None:
        source = _on_disk(item.origin)
        target.parent.mkdir(parents=True, exist_ok=True)
        converted, stored = source.is_relative_to(self.work), source.is_relative_to(self.root)
        if (converted or stored) and not (self.polled and (released or stored)):
            return link_or_copy(source, target)  # it is ours, and never changes
        if copy(source, target) != item.file.sha256:
            raise RepositoryError(f"{source} changed while it was being published; nothing was")
        return None

    def remove(self, place: Place) -> None:
        """See Repository. It vanishes in one atomic step, and is deleted then."""
        folder = self.path(place)
        with self.new_staging() as grave:
            try:
                folder.rename(grave / folder.name)
            except FileNotFoundError:
                pass  # an earlier attempt may have got as far as this
            except OSError as error:
                raise RepositoryError(f"{folder} cannot be removed: {error}") from None
            if "/" in place.path:
                with contextlib.suppress(OSError):  # a model's folder goes with the last that was in it
                    folder.parent.rmdir()
            shutil.rmtree(grave)

    @contextlib.contextmanager
    def locked(self, model: str) -> Iterator[None]:
        """See Repository. The lock is the kernel's: it goes with the process that holds it."""
        self.prepare()
        lock = FileLock(self.work / "locks" / f"{check_model_name(model)}.lock")
        try:
            with told(f"{lock.lock_file} cannot be locked"):
                lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise RepositoryError(f"{lock.lock_file} has been held for {_LOCK_SECONDS:g} s: another process is stuck") from None
        try:
            yield
        finally:
            lock.release()

    def _swap(self, place: Place, text: str | None, *, expected: str | None) -> str | None:
        path = self.path(place)
        if etag_of(self.read(place)) != expected:
            raise self._overtaken(place)
        with self.new_staging() as staged, told(f"{path} cannot be written"):
            if text is None:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
                return None
            write_durably(staged / path.name, text.encode())
            path.parent.mkdir(exist_ok=True)
            (staged / path.name).replace(path)
            sync_folder(path.parent)
            return _etag(text.encode())


def _appear(staged: Path, target: Path) -> bool:
    """Rename a folder into place; false where one lies there already."""
    while True:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.rename(target)
        except FileNotFoundError:
            if not staged.exists():
                raise
            continue  # someone removed the parent, as nothing was in it
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True


def _on_disk(origin: Origin) -> Path:
    if not isinstance(origin, Path):
        raise RepositoryError(f"{origin.key} lies in an object store, and this repository on a disk")
    return origin


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
