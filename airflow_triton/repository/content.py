"""What may be published: plain files below one folder, under names that every file system and object store keeps apart."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from airflow_triton.errors import RepositoryError

_SPECIAL = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def shown(path: str | Path) -> str:
    """A path for a message: what cannot be printed is escaped, so that to show it never fails."""
    return repr(os.fspath(path))[1:-1]


def check_files(folder: Path) -> tuple[str, ...]:
    """The files below `folder`, as sorted paths with `/`, each of them safe to publish.

    Guarantee: every path is a readable, regular file, and no two of them are one and the same name to a store that ignores case
    or normalises Unicode. A symbolic link that stays in the folder is followed: its target's content counts, under the link's
    name. Folders without files are left out, for no object store keeps one (a SavedModel's empty `assets/`, for example).

    Raises:
        RepositoryError: naming the very file: a link that leaves the folder, is broken or goes in circles; a fifo, socket or
            device; an unreadable file; a name that `check_relative` refuses, or two that collide; or no file at all.

    """
    if not folder.is_dir():
        raise RepositoryError(f"{shown(folder)} is no folder; the folder of a model is needed")
    root = Path(os.path.realpath(folder))
    files = tuple(sorted(_walk(root, "", (root,))))
    if not files:
        raise RepositoryError(f"{shown(folder)} is empty: there is no file in it that could be published")
    return files


def check_relative(path: str) -> str:
    """Answer `path` if it leads to a place below the folder that it is relative to, whatever lies there; purely by its text.

    Raises:
        RepositoryError: it is absolute or empty, has `.`, `..` or empty parts, or a name in it cannot be published.

    """
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise RepositoryError(f"{shown(path)!r} is no path below its folder: it must be relative, without `.`, `..` and empty parts")
    for part in path.split("/"):
        _check_name(part, path)
    return path


def _walk(folder: Path, below: str, above: tuple[Path, ...]) -> Iterator[str]:
    """The files of one folder, then of those in it; `above` are the real paths of the folders that led here."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise RepositoryError(f"{shown(folder)} cannot be read: {error.strerror}") from None
    for name in names:
        _check_name(name, f"{below}{name}")
    _refuse_collisions(folder, names)
    for name in names:
        path = folder / name
        real = _real(path, above[0])
        mode = real.stat().st_mode
        if stat.S_ISDIR(mode):
            if real in above:
                raise RepositoryError(f"{shown(path)} is a link to a folder above it, which goes in circles; remove the link")
            yield from _walk(path, f"{below}{name}/", (*above, real))
            continue
        _check_readable(path, mode)
        yield f"{below}{name}"


def _check_name(name: str, path: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise RepositoryError(f"{shown(path)}: the name is not UTF-8; rename the file") from None
    if bad := [character for character in name if character == "\\" or unicodedata.category(character) in ("Cc", "Zl", "Zp")]:
        what = "a backslash" if bad[0] == "\\" else f"the control character {bad[0]!r}"
        raise RepositoryError(f"{shown(path)}: the name has {what} in it, which not every store takes; rename the file")


def _refuse_collisions(folder: Path, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        normal = unicodedata.normalize("NFC", name)
        other = seen.setdefault(unicodedata.normalize("NFC", normal.casefold()), name)
        if other is not name:
            same = unicodedata.normalize("NFC", other) == normal
            # ascii() tells apart what looks the same on a screen.
            what = f"are one name in Unicode (NFC): {other!a} and {name!a}" if same else f"differ only in case: {other} and {name}"
            raise RepositoryError(f"{shown(folder)}: two names {what}; some stores take them for one, so rename one of them")


def _real(path: Path, root: Path) -> Path:
    """Where the path leads when its links are followed; refused where that is nowhere, or out of `root`."""
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        if not path.is_symlink():
            raise RepositoryError(f"{shown(path)} cannot be read: {error.strerror}") from None
        what = "goes in circles" if error.errno == errno.ELOOP else "is broken"
        raise RepositoryError(
            f"{shown(path)} is a link to {shown(path.readlink())} that {what}; remove it, or put the file there"
        ) from None
    if not real.is_relative_to(root):
        raise RepositoryError(f"{shown(path)} is a link that leaves the folder, to {shown(real)}; put the file itself there (`cp -L`)")
    return real


def _check_readable(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise RepositoryError(f"{shown(path)} is {_SPECIAL.get(stat.S_IFMT(mode), 'no file')}; only plain files can be published")
    try:
        path.open("rb").close()
    except OSError as error:
        raise RepositoryError(f"{shown(path)} cannot be read: {error.strerror}") from None
