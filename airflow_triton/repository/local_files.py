"""Files on a disk: copied or linked, and brought to the disk before anything names them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from airflow_triton.errors import RepositoryError

_FICLONE = 0x40049409
"""The ioctl that lets two files share their blocks (linux/fs.h), where the file system can."""
_PIECE = 1 << 20
_NO_CLONE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into a RepositoryError that says what was being done."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise RepositoryError(f"{what}: {error.strerror or error}") from None


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; where the file system has no hard links, copy it."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        copy(source, target)


def copy(source: Path, target: Path) -> str | None:
    """Copy a file that someone else may change later, and answer the SHA-256 of what was written; None where blocks are shared."""
    with source.open("rb") as reading, target.open("xb") as writing:
        try:
            fcntl.ioctl(writing, _FICLONE, reading.fileno())
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
        else:
            return None
        digest = hashlib.sha256()
        while piece := reading.read(_PIECE):
            digest.update(piece)
            writing.write(piece)
        return digest.hexdigest()


def sync_tree(folder: Path) -> None:
    """Bring everything below a folder to the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            _sync_file(path)
    sync_folder(folder)


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file and bring it to the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
