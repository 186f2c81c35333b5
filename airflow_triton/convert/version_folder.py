"""The folder of one version while a converter fills it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from airflow_triton.repository.content import check_files
from airflow_triton.repository.local_files import copy, naming
from airflow_triton.repository.manifest import FileDigest, digest_files

_READABLE = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class VersionFolder:
    """A folder whose files are digested as they are written, so that nothing has to be read for it once more.

    `shared`: whether these very files are what Triton will open. It is often someone else, and MLflow writes files that only their
    owner may read: they are copied then, and brought to the disk.
    """

    def __init__(self, path: Path, *, shared: bool = True) -> None:
        self.path = path
        self._shared = shared
        self._digests: dict[str, str] = {}

    def write(self, name: str, content: bytes) -> Path:
        """Write a file, or write it anew; answer where it lies."""
        path = self._place(name)
        path.unlink(missing_ok=True)
        with naming(path):
            path.write_bytes(content)
        self._digests[name] = hashlib.sha256(content).hexdigest()
        return path

    def copy(self, source: Path, name: str) -> Path:
        """Copy a file; answer where the copy lies."""
        path = self._place(name)
        self._digests[name] = copy(source, path, durable=self._shared)
        return path

    def link(self, source: Path, name: str) -> Path:
        """Give a file that nobody changes in place a second name here; copy it where that cannot be, or would keep users out."""
        if not self._shared or source.stat().st_mode & _READABLE == _READABLE:
            path = self._place(name)
            try:
                os.link(source, path)
            except OSError:  # another file system, or one without hard links
                pass
            else:
                return path
        return self.copy(source, name)

    def files(self) -> tuple[FileDigest, ...]:
        """Every file with its digest.

        Raises:
            RepositoryError: there is no file, or one that cannot be published (`repository.content.check_files`).

        """
        check_files(self.path)
        return digest_files(self.path, known=self._digests)

    def _place(self, name: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
