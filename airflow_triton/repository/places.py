"""What a repository is made of: places, the files that lie there, and where the bytes of a new file come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from airflow_triton.repository.manifest import FileDigest


@dataclass(frozen=True)
class Place:
    """A folder or a file: of the models that Triton sees, or of the work area that it does not."""

    area: Literal["models", "work"]
    path: str

    def __truediv__(self, name: str | int) -> Place:
        return Place(self.area, f"{self.path}/{name}" if self.path else str(name))


@dataclass(frozen=True)
class StoredFile:
    """A file that lies in a repository: its path below the folder that was asked for, and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class StoredObject:
    """An object in a store, where the bytes of a new one come from without crossing this machine.

    `bucket` None is the repository's own; with `etag` the copy is refused where the object is another by now.
    """

    key: str
    bucket: str | None = None
    etag: str | None = None


Origin: TypeAlias = "Path | StoredObject"


@dataclass(frozen=True)
class Item:
    """A file to be put: what it is to be (path, size, SHA-256), and where its bytes are."""

    file: FileDigest
    origin: Origin

    def named(self, path: str) -> Item:
        """The same file under another path."""
        return Item(self.file.model_copy(update={"path": path}), self.origin)

    def under(self, folder: str | int) -> Item:
        """The same file in a folder."""
        return self.named(f"{folder}/{self.file.path}")


@dataclass(frozen=True)
class Upload:
    """An upload in parts that is under way, or was broken off: where its file would lie, and when it began."""

    place: Place
    since: str


@dataclass(frozen=True)
class StoredConfig:
    """The text of a config.pbtxt, and the tag that `Repository.swap_config` compares."""

    text: str
    etag: str


def etag_of(stored: StoredConfig | None) -> str | None:
    """The etag of a config.pbtxt; None where there is none."""
    return stored.etag if stored else None


def items_in(folder: Path, files: Iterable[FileDigest]) -> list[Item]:
    """Files in a folder on this machine, to be put."""
    return [Item(file, folder / file.path) for file in files]
