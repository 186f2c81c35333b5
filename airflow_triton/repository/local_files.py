"""Files on a disk: copied or linked, and brought to the disk before anything names them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from airflow_triton.errors import RepositoryError

_PIECE = 8 << 20
_READ = 1 << 20
_NO_COPY_IN_KERNEL = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into a RepositoryError that says what was being done."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise RepositoryError(f"{what}: {error.strerror or error}") from None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let what the operating system refuses of an open file say which file that is: a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; where the file system has no hard links, copy it."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        copy(source, target)


def copy(source: Path, target: Path, *, durable: bool = True) -> str:
    """Copy a file that someone else may change later; answer the SHA-256 of the new file, which is on the disk then (if `durable`).

    Where the file system can, the two share their blocks. Copying, digesting what was written and bringing it to the disk
    overlap: a thread digests what the kernel has copied.
    """
    digest, at = hashlib.sha256(), 0
    with (
        naming(target),
        source.open("rb", buffering=0) as reading,
        target.open("xb+", buffering=0) as writing,
        ThreadPoolExecutor(1) as digesting,
    ):
        pieces = []
        while count := _copy_piece(reading, writing):
            pieces.append(digesting.submit(_digest_piece, digest, writing.fileno(), at, count))
            at += count
        if durable:
            os.fsync(writing.fileno())
        for piece in pieces:
            piece.result()
    return digest.hexdigest()


def _copy_piece(reading: FileIO, writing: FileIO) -> int:
    """Copy the next bytes, by the kernel where it can, and answer how many."""
    if hasattr(os, "copy_file_range"):
        try:
            if count := os.copy_file_range(reading.fileno(), writing.fileno(), _PIECE):
                return count
        except OSError as error:
            if error.errno not in _NO_COPY_IN_KERNEL:
                raise
    piece = memoryview(reading.read(_READ))
    written = 0
    while written < len(piece):
        written += writing.write(piece[written:])
    return written


def _digest_piece(digest: hashlib._Hash, descriptor: int, at: int, count: int) -> None:
    end = at + count
    while at < end:
        piece = os.pread(descriptor, min(_READ, end - at), at)
        if not piece:
            raise OSError(errno.EIO, "the file became shorter while it was being written")
        digest.update(piece)
        at += len(piece)


def is_held(lock: Path) -> bool:
    """Whether a process holds a file lock, or we may not know."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


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
