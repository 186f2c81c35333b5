"""The manifest of a stored version: what it is, where it came from, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_triton.errors import RepositoryError
from airflow_triton.registry import ModelSource
from airflow_triton.repository.layout import LAYOUT, MANIFEST_FILE, check_layout
from airflow_triton.repository.places import StoredObject
from airflow_triton.servable import Servable


def now() -> str:
    """This moment, UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class FileDigest(BaseModel):
    """One file of a version: its path below the version's folder, its size in bytes and the SHA-256 of its content."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    sha256: str


class Probe(BaseModel):
    """One small request with the answer that the validated candidate gave, to ask a live model whether it is the same."""

    model_config = ConfigDict(frozen=True)

    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]


ADOPTED = "adopted-"
"""How the servable ids of versions start that this package did not make, but took over."""


def adopted_id(files: Iterable[FileDigest]) -> str:
    """The servable id of files of unknown origin: their names and their content."""
    rows = json.dumps(["files", *([file.path, file.sha256] for file in files)])
    return f"{ADOPTED}{hashlib.sha256(rows.encode()).hexdigest()[:32]}"


class Manifest(BaseModel):
    """`deployment.json` in a version's folder, written with the version and never changed after.

    `servable_id` says what the files were made of (source, conversion and its tools): equal ids mean that nothing has to be
    converted again. `config` is the config.pbtxt, without version policy, that the version was validated with. Of a version
    that was taken over, neither `source` nor `servable` is known; `mlflow_uri` is what NVIDIA's plugin noted. `by`, `verdict` and
    `figures` are of the validation that it was stored after, as in the journal; manifests of before have none of them.
    """

    model_config = ConfigDict(frozen=True)

    layout: int = LAYOUT
    servable_id: str
    source: ModelSource | None = None
    servable: Servable | None = None
    files: tuple[FileDigest, ...]
    config: str
    probe: Probe | None = None
    mlflow_uri: str | None = None
    by: str | None = None
    verdict: str | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    created_at: str = Field(default_factory=now)

    def is_of(self, servable_id: str) -> bool:
        """Whether the files are those of that servable: made of the same, or the very files that were taken over under that id."""
        return servable_id in (self.servable_id, adopted_id(self.files))

    @classmethod
    def parse(cls, text: str, where: str) -> Manifest:
        """Read a manifest's text; `where` names it in errors."""
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            raise RepositoryError(f"{where} is damaged: {error.errors()[0]['msg']}") from None
        check_layout(manifest.layout, where)
        return manifest


def digest_files(folder: Path, *, known: Mapping[str, str] | None = None) -> tuple[FileDigest, ...]:
    """Every file below `folder`, the manifest left out, in the order of their paths; `known` are digests that need no reading."""
    known = known or {}
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return tuple(
        FileDigest(path=name, size=path.stat().st_size, sha256=known.get(name) or sha256(path))
        for name, path in paths.items()
        if name != MANIFEST_FILE
    )


def same_files(folder: Path, objects: Mapping[str, StoredObject], files: Iterable[FileDigest]) -> dict[str, StoredObject]:
    """Those of `objects`, of which `folder` is a copy, that have the content of one of `files`: by its SHA-256."""
    wanted = {file.sha256: file.size for file in files}
    same = {}
    for name, stored in objects.items():
        path = folder / name
        if path.is_file() and path.stat().st_size in wanted.values() and (digest := sha256(path)) in wanted:
            same[digest] = stored
    return same


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, read in pieces: memory stays flat."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
