"""Repositories of every kind, and what the tests do with them: on a disk, in memory, in a real object store."""

from __future__ import annotations

import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore
from stores import SeaweedFS

from airflow_triton import model_config
from airflow_triton import repository as core
from airflow_triton.errors import DeployError
from airflow_triton.registry import ModelSource
from airflow_triton.repository import LocalRepository, Manifest, Release, Repository, StoredConfig
from airflow_triton.repository.object_store import Connection, Deadlines, ObjectRepository, StoreAddress
from airflow_triton.repository.object_store.connect import connect
from airflow_triton.repository.object_store.probe import Abilities
from airflow_triton.repository.object_store.repository import MARKER
from airflow_triton.servable import Servable, TensorSpec

MODEL = "resnet"
JOURNAL = "# airflow-triton-journal: "
TENSOR = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
SERVABLE = Servable(
    backend="onnxruntime",
    default_model_filename="model.onnx",
    inputs=(TENSOR,),
    outputs=(TENSOR,),
    batching=True,
    flavor="onnx",
    converter="as-is",
)


def config_text(batch: int = 8) -> str:
    """A config.pbtxt, without a version policy."""
    return model_config.render(model_config.build(SERVABLE, name=MODEL, overrides={"max_batch_size": batch}))


def release_of(version: int, how: str = "promote", batch: int = 8, servable_id: str | None = None) -> Release:
    """A release of what `Kept.put` stores as this version."""
    made_of = servable_id or f"servable-model {version}"
    return Release(id=f"id-{version}-{batch}", version=version, servable_id=made_of, how=how, config=config_text(batch))  # type: ignore[arg-type]


def converted(folder: Path, content: bytes) -> Path:
    """A converted model: a file, and another one in a folder; always new files, for those of before may be linked elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model.onnx").mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx" / "model.onnx").write_bytes(content)
    (folder / "labels.txt").write_text("a\nb\n")
    return folder


def manifest_of(files: Path, servable_id: str, version: int = 1) -> Manifest:
    """The manifest of a converted model."""
    source = ModelSource(
        uri=f"models:/m/{version}",
        name="m",
        version=version,
        run_id=None,
        artifacts="file:///a",
        flavors=("onnx",),
        has_input_example=False,
        digest="d",
    )
    digests = core.digest_files(files)
    at = "2026-11-01T00:00:00+00:00"  # two manifests of the same are the same, whenever they are made
    return Manifest(servable_id=servable_id, source=source, servable=SERVABLE, files=digests, config=config_text(), created_at=at)


class Kept(ABC):
    """A repository of some kind, what the tests do with it, and what they do behind its back. `folder` is the tests' own."""

    store: Repository

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def write(self, path: str, content: bytes | str) -> None:
        """Put a file into the repository, past it."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Take a file, or a folder, from the repository, past it."""

    @abstractmethod
    def tree(self) -> dict[str, bytes | None]:
        """Everything in the repository: paths with the content of files, None for folders (where there is such a thing)."""

    @abstractmethod
    def stamps(self) -> dict[str, object]:
        """What changes when a file is written again, even with the same content."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """What an attempt should have cleared away: staging folders; locks and unfinished uploads."""

    @abstractmethod
    def again(self) -> Kept:
        """The same repository, as another publisher opens it."""

    def put(self, version: int, content: bytes | None = None, model: str = MODEL, servable_id: str | None = None) -> None:
        """Store a version whose content, if it is not given, is its number."""
        content = b"model %d" % version if content is None else content
        identity = servable_id or f"servable-{content.decode()}"
        files = converted(self.folder / "converted" / identity, content)
        manifest = manifest_of(files, identity, version)
        core.store_version(self.store, model, version, core.items_in(files, manifest.files), manifest)

    def publish(self, version: int, *, expected: StoredConfig | None = None) -> StoredConfig:
        """Store a version and commit it over what was seen, in one go."""
        files = converted(self.folder / "converted" / str(version), b"model %d" % version)
        manifest = manifest_of(files, f"servable-model {version}", version)
        items = core.items_in(files, manifest.files)
        return core.publish(self.store, MODEL, items, manifest, release_of(version), expected=expected)

    def let_serve(self, version: int, *, how: str = "promote", batch: int = 8, model: str = MODEL) -> StoredConfig:
        """Commit a release over what is there."""
        stored = self.store.manifest(model, version)
        release = release_of(version, how, batch, stored.servable_id if stored else None)
        return core.commit(self.store, model, release, expected=self.store.read_config(model))

    def deploy(self, *versions: int, model: str = MODEL) -> None:
        """Store and commit one version after the other."""
        for version in versions:
            self.put(version, model=model)
            self.let_serve(version, model=model)

    def files(self, beginning: str = "") -> dict[str, bytes]:
        """Those files whose path begins so, with their content."""
        return {path: content for path, content in self.tree().items() if content is not None and path.startswith(beginning)}

    def config(self, model: str = MODEL) -> bytes:
        """The model's config.pbtxt, byte for byte."""
        return self.files()[f"{model}/config.pbtxt"]

    def where(self, version: int | None = None, path: str = "") -> str:
        """How messages name a version of the model, or a file of it; without a version, its config.pbtxt."""
        place = self.store.config_place(MODEL) if version is None else self.store.version_place(MODEL, version)
        return self.store.where(place / path if path else place)


class Disk(Kept):
    """A repository below a folder."""

    store: LocalRepository

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = LocalRepository(folder / "models")

    def write(self, path: str, content: bytes | str) -> None:
        """A new file: the old one may share its bytes with others."""
        file = self.store.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def delete(self, path: str) -> None:
        """See Kept."""
        found = self.store.root / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    def config_path(self, model: str = MODEL) -> Path:
        """Where the model's config.pbtxt lies."""
        return self.store.root / model / "config.pbtxt"

    def tree(self) -> dict[str, bytes | None]:
        """See Kept."""
        root = self.store.root
        return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}

    def stamps(self) -> dict[str, object]:
        """The inodes."""
        return {str(path): path.stat().st_ino for path in self.store.root.rglob("*")}

    def leftovers(self) -> list[str]:
        """See Kept."""
        return [str(path) for path in (self.store.work / "staging").iterdir()]

    def again(self) -> Disk:
        """See Kept."""
        return Disk(self.folder)


class InStore(Kept):
    """A repository in an object store, and a client of that store."""

    store: ObjectRepository

    def __init__(self, folder: Path, address: StoreAddress, connection: Connection) -> None:
        super().__init__(folder)
        self.address = address
        self.connection = connection
        self.store = ObjectRepository(address, connection=connection)
        self.store.new_times = False  # no Triton reads from it, and nobody has to wait

    def _key(self, path: str) -> str:
        return f"{self.address.prefix}/{path}"

    def _listed(self, prefix: str) -> list[Any]:
        return [row for page in obstore.list(self.connection.store, f"{prefix}/") for row in page]

    def remember(self, abilities: Abilities) -> None:
        """Let it be known what the store does: it is not asked again."""
        where = f"{self.address} {self.connection.endpoint}".strip()
        content = abilities.model_copy(update={"where": where}).model_dump_json()
        obstore.put(self.connection.store, f"{self.address.work_prefix}/store.json", content.encode())

    def write(self, path: str, content: bytes | str) -> None:
        """See Kept."""
        obstore.put(self.connection.store, self._key(path), content.encode() if isinstance(content, str) else content)

    def delete(self, path: str) -> None:
        """See Kept."""
        keys = [row["path"] for row in self._listed(self._key(path))] or [self._key(path)]
        obstore.delete(self.connection.store, keys)

    def tree(self) -> dict[str, bytes | None]:
        """See Kept; without the marker with which the prefix starts to be there for Triton."""
        found = {row["path"].removeprefix(self._key("")) for row in self._listed(self.address.prefix)} - {MARKER.path}
        return {path: bytes(obstore.get(self.connection.store, self._key(path)).bytes()) for path in sorted(found)}

    def stamps(self) -> dict[str, object]:
        """The moments at which they were written."""
        return {row["path"]: (row["e_tag"], row["last_modified"]) for row in self._listed(self.address.prefix)}

    def leftovers(self) -> list[str]:
        """See Kept."""
        known = f"{self.address.work_prefix}/store.json"
        left = [row["path"] for row in self._listed(self.address.work_prefix) if row["path"] != known]
        if self.connection.s3 is not None:
            answer = self.connection.s3.list_multipart_uploads(Bucket=self.address.bucket, Prefix=self._key(""))
            left += [upload["Key"] for upload in answer.get("Uploads", [])]
        return left

    def again(self) -> InStore:
        """See Kept."""
        return InStore(self.folder, self.address, self.connection)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """An empty repository on a disk."""
    return Disk(tmp_path)


@pytest.fixture(scope="session")
def seen_of_store(seaweed: SeaweedFS) -> tuple[Connection, Abilities]:
    """The real store, opened and asked once what it does; that takes seconds."""
    address = StoreAddress.parse(seaweed.url("models", "asked"))
    connection = connect(address, deadlines=Deadlines())
    return connection, ObjectRepository(address, connection=connection).abilities


@pytest.fixture(params=["memory", "disk", "store"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    """An empty repository, of each kind."""
    if request.param == "disk":
        return Disk(tmp_path)
    if request.param == "memory":
        return InStore(tmp_path, StoreAddress.parse("s3://bucket/models"), Connection(MemoryStore(), None))
    connection, abilities = request.getfixturevalue("seen_of_store")
    url = request.getfixturevalue("seaweed").url("models", f"{uuid.uuid4().hex}/models")
    made = InStore(tmp_path, StoreAddress.parse(url), connection)
    made.remember(abilities)
    return made


def message_of(call: Callable[[], object], kind: type[DeployError]) -> str:
    """What the error says that the call raises."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)
