"""The folder that converters fill: every file arrives whole, with the digest of what was written."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_triton.convert.version_folder import VersionFolder
from airflow_triton.errors import RepositoryError
from airflow_triton.repository import digest_files
from airflow_triton.repository.local_files import copy

LARGE = os.urandom((20 << 20) + 7)
"""More than two of the pieces that a copy is made of."""


def refused(_: int, __: int, ___: int) -> int:
    """What a kernel answers that cannot copy between the two file systems."""
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=len)
@pytest.mark.parametrize("kernel", [os.copy_file_range, refused, lambda *_: 0], ids=["kernel", "refused", "says-the-file-is-empty"])
def test_a_copy_has_the_content_and_answers_its_digest(
    tmp_path: Path, content: bytes, kernel: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the kernel copies or we do; the copy is another file, with the access mode of a new one."""
    monkeypatch.setattr(os, "copy_file_range", kernel)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "source").chmod(0o600)

    assert copy(tmp_path / "source", tmp_path / "target") == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "target").read_bytes() == content
    assert (tmp_path / "target").stat().st_nlink == 1
    assert (tmp_path / "target").stat().st_mode & 0o044


def test_every_way_in_gives_the_digest_of_what_lies_there(tmp_path: Path) -> None:
    """Written, written again, copied, linked, and put there by somebody else."""
    (tmp_path / "open").write_bytes(b"open")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "private").write_bytes(b"private")
    (tmp_path / "private").chmod(0o600)
    folder = VersionFolder(tmp_path / "1")

    folder.write("deep/written", b"first")
    folder.write("deep/written", b"second")
    folder.copy(tmp_path / "open", "copied")
    folder.link(tmp_path / "open", "linked")
    folder.link(tmp_path / "private", "not-linked")
    (folder.path / "theirs").write_bytes(b"theirs")

    assert folder.files() == digest_files(folder.path)
    assert {path: (folder.path / path).stat().st_nlink for path in ("copied", "linked", "not-linked")} == {
        "copied": 1,
        "linked": 2,
        "not-linked": 1,
    }


def test_a_copy_is_not_read_again_for_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known is not read once more."""
    from airflow_triton.repository import manifest

    read: list[Any] = []
    monkeypatch.setattr(manifest, "sha256", lambda path: read.append(path.name) or "0" * 64)
    folder = VersionFolder(tmp_path / "1")
    (tmp_path / "source").write_bytes(b"source")
    folder.copy(tmp_path / "source", "copied")
    folder.write("written", b"written")
    (folder.path / "theirs").write_bytes(b"theirs")

    folder.files()

    assert read == ["theirs"]


def test_a_converter_cannot_leave_what_no_store_takes(tmp_path: Path) -> None:
    """Two names that differ only in case are one in some stores."""
    folder = VersionFolder(tmp_path / "1")
    folder.write("Model", b"1")
    folder.write("model", b"2")

    with pytest.raises(RepositoryError, match="differ only in case: Model and model"):
        folder.files()
