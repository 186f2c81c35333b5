"""The model repository, of every kind: what is published, committed, reverted and pruned, also by many at once, and killed on a disk."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore
from stores import SeaweedFS

from airflow_triton import model_config
from airflow_triton import repository as core
from airflow_triton.errors import ConflictError, DeployError, RepositoryError
from airflow_triton.registry import ModelSource
from airflow_triton.repository import LocalRepository, Manifest, Release, Repository, StoredConfig
from airflow_triton.repository.layout import LAYOUT, check_layout
from airflow_triton.repository.manifest import FileDigest
from airflow_triton.repository.object_store import Connection, Deadlines, ObjectRepository, StoreAddress
from airflow_triton.repository.object_store.connect import connect
from airflow_triton.repository.object_store.probe import Abilities
from airflow_triton.repository.object_store.repository import MARKER
from airflow_triton.repository.places import Item
from airflow_triton.repository.release import MOST_RELEASES
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


def _config(batch: int = 8) -> str:
    return model_config.render(model_config.build(SERVABLE, name=MODEL, overrides={"max_batch_size": batch}))


def _release(version: int, how: str = "promote", batch: int = 8, servable_id: str | None = None) -> Release:
    made_of = servable_id or f"servable-model {version}"
    return Release(id=f"id-{version}-{batch}", version=version, servable_id=made_of, how=how, config=_config(batch))  # type: ignore[arg-type]


def _files(folder: Path, content: bytes) -> Path:
    """A converted model: a file, and another one in a folder; always new files, for those of before may be linked elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model.onnx").mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx" / "model.onnx").write_bytes(content)
    (folder / "labels.txt").write_text("a\nb\n")
    return folder


def _manifest(files: Path, servable_id: str, version: int = 1) -> Manifest:
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
    return Manifest(servable_id=servable_id, source=source, servable=SERVABLE, files=core.digest_files(files), config=_config())


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
        files = _files(self.folder / "converted" / identity, content)
        manifest = _manifest(files, identity, version)
        core.store_version(self.store, model, version, core.items_in(files, manifest.files), manifest)

    def let_serve(self, version: int, *, how: str = "promote", batch: int = 8, model: str = MODEL) -> StoredConfig:
        """Commit a release over what is there."""
        stored = self.store.manifest(model, version)
        release = _release(version, how, batch, stored.servable_id if stored else None)
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


def _told(call: Callable[[], object], kind: type[DeployError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# --- storing a version


def test_a_version_is_stored_with_its_manifest(kept: Kept) -> None:
    """All files, folders included, and the manifest; whole by its own digests, and not yet serving."""
    kept.put(3)

    assert sorted(path for path in kept.tree() if kept.tree()[path] is not None) == [
        "resnet/3/deployment.json",
        "resnet/3/labels.txt",
        "resnet/3/model.onnx/model.onnx",
    ]
    assert kept.store.damage(MODEL, 3) == []
    assert kept.store.versions(MODEL) == [3]
    assert core.releases(kept.store, MODEL) == []
    assert kept.leftovers() == []


def test_storing_the_same_version_again_changes_nothing(kept: Kept) -> None:
    """The second call writes no file again."""
    kept.deploy(1)
    before = kept.stamps()

    kept.put(1)

    assert kept.stamps() == before


@pytest.mark.parametrize("half_done", ["no manifest", "other files", "damaged"])
def test_what_a_dead_attempt_left_is_replaced(kept: Kept, half_done: str) -> None:
    """A folder that no release names gives way: without a manifest, of another conversion, or damaged."""
    kept.deploy(1)
    kept.put(2, b"other" if half_done == "other files" else None)
    if half_done == "no manifest":
        kept.delete("resnet/2/deployment.json")
    if half_done == "damaged":
        kept.delete("resnet/2/labels.txt")

    kept.put(2)

    assert kept.files()["resnet/2/model.onnx/model.onnx"] == b"model 2"
    assert kept.store.damage(MODEL, 2) == []
    assert kept.leftovers() == []


@pytest.mark.parametrize("later", [False, True], ids=["serves", "served"])
def test_a_released_version_never_changes(kept: Kept, later: bool) -> None:  # noqa: FBT001
    """Other files for a version that serves, or did, are a conflict, and nothing changes."""
    kept.deploy(1, *([2] if later else []))
    before = kept.tree()

    told = _told(lambda: kept.put(1, b"another conversion"), ConflictError)

    assert "version 1 of `resnet`" in told
    assert kept.where(1) in told
    assert kept.tree() == before
    assert kept.leftovers() == []


def test_a_pruned_version_can_be_stored_again(kept: Kept) -> None:
    """The journal remembers a version that is no longer there: it may come back, and serve."""
    kept.deploy(1, 2, 3)
    assert core.prune(kept.store, MODEL, keep=1) == [1]

    kept.deploy(1)

    assert kept.store.damage(MODEL, 1) == []
    assert core.releases(kept.store, MODEL)[-1].version == 1


def test_a_damaged_released_version_is_mended_by_the_same_files(kept: Kept) -> None:
    """What a disk lost comes back with the very same files; the release stays as it was."""
    kept.deploy(1)
    before = kept.tree()
    kept.write("resnet/1/labels.txt", "cut")

    kept.put(1)

    assert kept.tree() == before


def test_only_one_of_two_who_store_the_same_version_replaces_it(kept: Kept) -> None:
    """While another one holds the model's lock, a version is not replaced under it: releases and files are read and changed together."""
    kept.put(1)
    files = _files(kept.folder / "other", b"other")
    manifest = _manifest(files, "other")
    arguments = (kept.store, MODEL, 1, core.items_in(files, manifest.files), manifest)
    replacing = threading.Thread(target=core.store_version, args=arguments, daemon=True)
    with kept.store.locked(MODEL):
        replacing.start()
        replacing.join(0.3)
        held = kept.store.manifest(MODEL, 1)
    replacing.join(10)

    assert held is not None
    assert held.servable_id == "servable-model 1"
    assert kept.store.manifest(MODEL, 1).servable_id == "other"  # type: ignore[union-attr]


# --- the commit


def test_a_commit_makes_one_version_serve(kept: Kept) -> None:
    """config.pbtxt names exactly the released version, and starts with the banner that says whose it is."""
    kept.put(7)
    stored = kept.let_serve(7)

    text = kept.config().decode()
    assert text == stored.text
    assert kept.store.read_config(MODEL) == stored
    assert model_config.versions(model_config.parse(text)) == (7,)
    assert text.startswith("# Written by airflow-provider-triton. Change the spec and apply it")
    assert kept.leftovers() == []


@pytest.mark.parametrize("stale", ["none", "older"])
def test_a_stale_commit_is_a_conflict(kept: Kept, stale: str) -> None:
    """Whoever expects another config.pbtxt than there is gets a ConflictError; the file stays byte for byte."""
    kept.deploy(1)
    expected = kept.store.read_config(MODEL) if stale == "older" else None
    kept.deploy(2)
    kept.put(3)
    before = kept.config()

    told = _told(lambda: core.commit(kept.store, MODEL, _release(3), expected=expected), ConflictError)

    assert kept.where() in told
    assert kept.config() == before
    assert kept.leftovers() == []


def test_a_commit_over_a_model_that_went_away_is_a_conflict(kept: Kept) -> None:
    """Expecting a config.pbtxt where there is none any more writes none."""
    kept.deploy(1)
    expected = kept.store.read_config(MODEL)
    kept.delete("resnet/config.pbtxt")

    _told(lambda: core.commit(kept.store, MODEL, _release(1), expected=expected), ConflictError)

    assert kept.store.read_config(MODEL) is None


def test_a_version_that_is_not_stored_cannot_be_committed(kept: Kept) -> None:
    """No release names files that are not there; nothing is written."""
    kept.deploy(1)
    before = kept.tree()

    told = _told(lambda: kept.let_serve(2), ConflictError)

    assert kept.where(2) in told
    assert kept.tree() == before


def test_a_version_that_was_replaced_cannot_be_committed(kept: Kept) -> None:
    """A release is of the files that were validated: where someone else stored others meanwhile, nothing is written."""
    kept.deploy(1)
    kept.put(2)
    kept.put(2, b"someone else's")
    before = kept.tree()

    told = _told(lambda: core.commit(kept.store, MODEL, _release(2), expected=kept.store.read_config(MODEL)), ConflictError)

    assert "replaced" in told
    assert kept.tree() == before


def _race(kept: Kept, numbers: range) -> list[str]:
    """Each number is committed by a publisher of its own, at once, over the same config.pbtxt; what each was told."""
    start = threading.Barrier(len(numbers))

    def commit(number: int) -> str:
        mine = kept.again().store
        expected = mine.read_config(MODEL)
        start.wait(30)
        try:
            core.commit(mine, MODEL, _release(number), expected=expected)
        except ConflictError:
            return "lost"
        return "won"

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(commit, numbers))


def test_one_of_eight_wins_a_race(kept: Kept) -> None:
    """All commit over the same config.pbtxt: one wins, seven get a ConflictError, and the file is the winner's, whole."""
    kept.deploy(1)
    numbers = range(11, 19)
    for number in numbers:
        kept.put(number)

    results = _race(kept, numbers)

    assert sorted(results) == ["lost"] * 7 + ["won"]
    assert [release.version for release in core.releases(kept.store, MODEL)] == [1, numbers[results.index("won")]]
    assert kept.leftovers() == []


def test_two_threads_wait_for_each_other(kept: Kept) -> None:
    """The lock of one model has one holder at a time; the lock of another model is free meanwhile."""
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with kept.store.locked(MODEL):
            order.append("second")

    waiting = threading.Thread(target=second)
    with kept.store.locked(MODEL):
        waiting.start()
        entered.wait(10)
        with kept.store.locked("resnet50"):
            order.append("other model")
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)

    assert order == ["other model", "first", "second"]


# --- going back


def test_a_revert_restores_the_file_byte_for_byte(kept: Kept) -> None:
    """config.pbtxt after a revert is what it was before the commit."""
    kept.deploy(1)
    before = kept.store.read_config(MODEL)
    kept.put(2)
    committed = kept.let_serve(2, batch=16)

    core.revert(kept.store, MODEL, committed=committed, before=before)

    assert before is not None
    assert kept.config() == before.text.encode()


@pytest.mark.parametrize("first", [True, False], ids=["first release", "second release"])
def test_a_revert_leaves_a_later_release_alone(kept: Kept, first: bool) -> None:  # noqa: FBT001
    """Someone else released after our commit: a ConflictError, and theirs serves on with its files."""
    kept.deploy(*([] if first else [1]))
    before = kept.store.read_config(MODEL)
    kept.put(2)
    committed = kept.let_serve(2)
    kept.deploy(3)
    theirs = kept.tree()

    _told(lambda: core.revert(kept.store, MODEL, committed=committed, before=before), ConflictError)

    assert kept.tree() == theirs


def test_a_reverted_first_release_leaves_no_trace(kept: Kept) -> None:
    """No config, no version, no folder of the model."""
    kept.put(1)
    committed = kept.let_serve(1)

    core.revert(kept.store, MODEL, committed=committed, before=None)

    assert kept.tree() == {}
    assert kept.leftovers() == []


# --- pruning


@pytest.mark.parametrize(
    ("served", "keep", "left"),
    [
        ([1, 2, 3, 4], 0, [4]),
        ([1, 2, 3, 4], 2, [2, 3, 4]),
        ([1, 2, 3, 4], 9, [1, 2, 3, 4]),
        ([1, 2, 3, 1], 1, [1, 3]),
        ([1, 2, 3, 2, 3, 2], 1, [2, 3]),
        ([4, 3, 2], 1, [2, 3]),
        ([1, 2, 1, 2, 3], 1, [2, 3]),
    ],
    ids=[
        "only the one",
        "two more",
        "more than there are",
        "after a rollback",
        "to and fro",
        "older versions on purpose",
        "distinct versions",
    ],
)
def test_prune_keeps_what_serves_and_the_last_that_did(kept: Kept, served: list[int], keep: int, left: list[int]) -> None:
    """Kept are the serving version and the `keep` before it, in the order in which they served and not of their numbers."""
    for version in served:
        kept.put(version)
        kept.let_serve(version)
    gone = [version for version in sorted(set(served)) if version not in left]

    assert core.prune(kept.store, MODEL, keep=keep) == gone
    assert kept.store.versions(MODEL) == left
    assert core.prune(kept.store, MODEL, keep=keep) == []
    assert kept.leftovers() == []


def test_prune_leaves_versions_alone_that_are_not_ours(kept: Kept) -> None:
    """A version without our manifest, and another model, stay as they are."""
    kept.deploy(1, 2)
    kept.write("resnet/99/model.onnx", b"by hand")
    kept.write("foreign/1/model.onnx", b"by hand")

    assert core.prune(kept.store, MODEL, keep=0) == [1]

    assert kept.files("resnet/99/") == {"resnet/99/model.onnx": b"by hand"}
    assert kept.files("foreign/") == {"foreign/1/model.onnx": b"by hand"}


def test_models_with_a_common_beginning_do_not_disturb_each_other(kept: Kept) -> None:
    """Pruning, reverting and removing `resnet` leaves `resnet50` byte for byte."""
    kept.deploy(1, 2, model="resnet50")
    other = kept.tree()
    kept.deploy(1, 2)

    core.prune(kept.store, MODEL, keep=0)
    committed = kept.store.read_config(MODEL)
    assert committed is not None
    core.revert(kept.store, MODEL, committed=committed, before=None)

    assert kept.tree() == other
    assert kept.store.models() == ["resnet50"]


# --- what is wrong with what is stored


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (None, "is missing"),
        (b"model", "has 5 bytes instead of 7"),
        (b"madel 1", "has another content than its manifest says"),
    ],
    ids=["missing", "truncated", "altered"],
)
def test_damage_names_the_file(kept: Kept, harm: bytes | None, told: str) -> None:
    """A missing, truncated or altered file of a version is named, with what is wrong."""
    kept.put(1)
    assert kept.store.damage(MODEL, 1) == []

    if harm is None:
        kept.delete("resnet/1/model.onnx/model.onnx")
    else:
        kept.write("resnet/1/model.onnx/model.onnx", harm)

    assert kept.store.damage(MODEL, 1) == [f"{kept.where(1, 'model.onnx/model.onnx')} {told}"]


def test_a_version_without_manifest_is_damaged(kept: Kept) -> None:
    """Nothing can be said of its files, so it is not whole."""
    assert kept.store.damage(MODEL, 5) == [f"{kept.where(5)} has no deployment.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"layout": 1}', b"\xff\xfe".decode("latin-1")],
    ids=["empty", "no JSON", "no mapping", "incomplete", "something else"],
)
def test_a_damaged_manifest_is_an_error(kept: Kept, text: str) -> None:
    """It is never taken for a version that is not ours: RepositoryError that names the file."""
    kept.put(1)
    kept.write("resnet/1/deployment.json", text.encode("latin-1"))

    assert kept.where(1, "deployment.json") in _told(lambda: kept.store.manifest(MODEL, 1), RepositoryError)


def test_a_newer_manifest_is_refused(kept: Kept) -> None:
    """What a newer release wrote is not guessed at."""
    kept.put(1)
    path = "resnet/1/deployment.json"
    kept.write(path, json.dumps({**json.loads(kept.files()[path]), "layout": LAYOUT + 1}))

    told = _told(lambda: kept.store.manifest(MODEL, 1), RepositoryError)

    assert kept.where(1, "deployment.json") in told
    assert "upgrade airflow-provider-triton" in told


@pytest.mark.parametrize("found", [LAYOUT + 1, None, "1", 1.0], ids=["newer", "none", "text", "fraction"])
def test_a_layout_that_is_not_known_is_refused(found: object) -> None:
    """Only whole numbers up to today's are known."""
    assert "config.pbtxt" in _told(lambda: check_layout(found, "config.pbtxt"), RepositoryError)


# --- the journal


def test_the_journal_survives_its_way_through_the_file(kept: Kept) -> None:
    """Every release comes back as it was committed, those with another config, how and alias, too."""
    made = [
        Release(
            id="a",
            version=1,
            servable_id="servable-model 1",
            how="promote",
            config=_config(4),
            alias="champion",
            at="2026-01-01T00:00:00+00:00",
        ),
        Release(id="b", version=2, servable_id="servable-model 2", how="promote", config=_config(8), alias=None),
        Release(id="c", version=1, servable_id="servable-model 1", how="rollback", config=_config(4), alias="é\u2028 # \n"),
        Release(id="d", version=2, servable_id="servable-model 2", how="promote", config=_config(16)),
    ]
    kept.put(1)
    kept.put(2)

    for release in made:
        core.commit(kept.store, MODEL, release, expected=kept.store.read_config(MODEL))
        assert model_config.parse(kept.config().decode()).max_batch_size == model_config.parse(release.config).max_batch_size

    assert core.releases(kept.store, MODEL) == made


def test_the_journal_forgets_the_oldest(kept: Kept) -> None:
    """It keeps the last 20 releases, in their order."""
    kept.put(1)
    for number in range(MOST_RELEASES + 3):
        kept.let_serve(1, batch=number + 1)

    assert [release.id for release in core.releases(kept.store, MODEL)] == [f"id-1-{number + 1}" for number in range(3, MOST_RELEASES + 3)]


def _journal(text: str, change: Callable[[dict[str, object]], object]) -> str:
    head, _, line = text.partition(JOURNAL)
    journal = json.loads(line)
    return f"{head}{JOURNAL}{json.dumps(change(journal))}\n"


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda text: text.replace("versions: 2", "versions: 1"), "was edited by hand"),
        (lambda text: text.replace("versions: 2", "versions: [1, 2]"), "was edited by hand"),
        (lambda text: text.replace("specific", "latest").replace("versions: 2", "num_versions: 2"), "was edited by hand"),
        (lambda text: text[: text.index(JOURNAL) + len(JOURNAL) + 30], "its journal is damaged"),
        (lambda text: _journal(text, lambda _: []), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {"layout": journal["layout"]}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": 5}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": [[]]}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": [{"config": None}]}), "its journal is damaged"),
        (lambda text: _journal(text, lambda journal: {**journal, "releases": []}), "its journal says nothing"),
        (lambda text: _journal(text, lambda journal: {**journal, "layout": LAYOUT + 1}), "upgrade airflow-provider-triton"),
        (lambda text: text.replace("max_batch_size: 8", "max_batch_size: eight"), "max_batch_size"),
        (lambda text: text.encode("utf-16").decode("latin-1"), "cannot be read"),
    ],
    ids=[
        "another version",
        "two versions",
        "another policy",
        "cut off",
        "a list",
        "no releases",
        "a number",
        "an empty row",
        "a row without version",
        "an empty journal",
        "newer layout",
        "no config",
        "no text",
    ],
)
def test_a_config_that_we_did_not_write_so_is_refused(kept: Kept, alter: Callable[[str], str], told: str) -> None:
    """Edited by hand, damaged or newer: RepositoryError that names the file; a commit over it is refused, and it stays as it is."""
    kept.deploy(1, 2)
    text = alter(kept.config().decode())
    kept.write("resnet/config.pbtxt", text.encode("latin-1"))
    before = kept.config()

    for call in (lambda: core.releases(kept.store, MODEL), lambda: kept.let_serve(1), lambda: core.prune(kept.store, MODEL, keep=0)):
        message = _told(call, RepositoryError)
        assert told in message
        assert kept.where() in message
    assert kept.config() == before
    assert kept.store.versions(MODEL) == [1, 2]


# --- models of other people


@pytest.mark.parametrize("config", [True, False], ids=["config without journal", "versions without manifest"])
def test_a_foreign_model_is_listed_and_left_alone(kept: Kept, config: bool) -> None:  # noqa: FBT001
    """A model that we did not publish is listed with its versions; releases, storing, committing and pruning refuse it."""
    kept.write("resnet/4/model.onnx", b"by hand")
    if config:
        kept.write("resnet/config.pbtxt", 'backend: "onnxruntime"\n')
    before = kept.tree()

    for call in (
        lambda: core.releases(kept.store, MODEL),
        lambda: kept.put(4),
        lambda: kept.put(5),
        lambda: core.prune(kept.store, MODEL, keep=0),
    ):
        message = _told(call, RepositoryError)
        assert "was not published by airflow-provider-triton" in message
        assert MODEL in message

    assert kept.store.models() == [MODEL]
    assert kept.store.versions(MODEL) == [4]
    assert kept.tree() == before
    assert kept.leftovers() == []


def test_candidates_are_no_models(kept: Kept) -> None:
    """A candidate lies in the repository, and is not listed; neither are files and what is no version."""
    kept.deploy(1)
    kept.write(f"{core.candidate_name(MODEL, 2, '0123456789abcdef')}/candidate.json", "{}")
    kept.write("notes.txt", "")
    kept.write("resnet/labels/1.txt", "")

    assert kept.store.models() == [MODEL]
    assert kept.store.versions(MODEL) == [1]


# --- names


@given(
    name=st.one_of(
        st.text(), st.from_regex(r"[./\\A-Za-z0-9_-]{1,9}"), st.sampled_from(["..", ".", "/", "a/../..", "a\0", "a\n", "-", "~"])
    )
)
def test_no_name_leaves_the_repository(name: str) -> None:
    """A name is refused, or it is one folder directly below the root, visible, and needs no quoting in a URL."""
    store = LocalRepository("/srv/models")
    try:
        folder = store.path(store.model_place(name))
    except RepositoryError:
        return

    assert Path(os.path.normpath(folder)).parent == store.root
    assert not folder.name.startswith(".")
    assert folder.name == name
    assert all(character.isascii() and (character.isalnum() or character in "_-.") for character in name)


@pytest.mark.parametrize("name", ["resnet", "resnet50", "a", "A.b_c-d", "1", "_x", "-x"])
def test_ordinary_names_are_accepted(name: str) -> None:
    """Letters, digits, `_`, `-` and `.`."""
    assert core.check_model_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a..b", "a/b", "../a", "a b", "é", "a\n", "a\0"])
def test_other_names_are_refused_by_every_verb(kept: Kept, name: str) -> None:
    """Before anything is written."""
    for call in (
        lambda: core.check_model_name(name),
        lambda: kept.store.versions(name),
        lambda: kept.store.read_config(name),
        lambda: core.releases(kept.store, name),
        lambda: kept.put(1, model=name),
        lambda: core.prune(kept.store, name, keep=0),
        lambda: core.candidate_name(name, 1, "id"),
        lambda: core.mode_probe(name),
    ):
        _told(call, RepositoryError)
    assert kept.tree() == {}


# --- fsck


def _fsck(kept: Kept) -> dict[tuple[str, int | None], tuple[str, bool]]:
    return {(each.model, each.version): (each.role, not each.problems) for each in core.fsck(kept.store)}


def test_fsck_tells_damaged_from_whole_and_whom_it_hurts(kept: Kept) -> None:
    """Each version has its role and its state; foreign models are named, not judged; nothing changes."""
    kept.deploy(1, 2)
    kept.put(3)
    kept.deploy(1, model="other")
    kept.write("theirs/1/model.onnx", b"theirs")
    whole = {
        ("other", 1): ("serves", True),
        (MODEL, 1): ("kept", True),
        (MODEL, 2): ("serves", True),
        (MODEL, 3): ("unused", True),
        ("theirs", None): ("foreign", True),
    }
    assert _fsck(kept) == whole

    kept.delete("resnet/2/labels.txt")
    kept.write("resnet/1/deployment.json", "{")
    before = kept.tree()

    assert _fsck(kept) == {**whole, (MODEL, 1): ("kept", False), (MODEL, 2): ("serves", False)}
    assert kept.tree() == before


def test_fsck_finds_a_served_version_that_is_gone(kept: Kept) -> None:
    """A release whose version has no folder any more is a damage of what serves; a damaged journal is one of the model."""
    kept.deploy(1)
    kept.delete("resnet/1")
    assert _fsck(kept) == {(MODEL, 1): ("serves", False)}

    kept.deploy(1, model="other")
    kept.write("other/config.pbtxt", kept.config("other").replace(b'"releases"', b'"released"'))
    assert _fsck(kept)["other", None] == ("serves", False)


# --- the verbs


def _item(kept: Kept, path: str, content: bytes) -> Item:
    source = kept.folder / "sources" / uuid.uuid4().hex
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(content)
    return Item(FileDigest(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest()), source)


def test_put_leaves_what_is_there_unless_it_may_replace(kept: Kept) -> None:
    """Without `replace` the second folder is refused and the first stays whole; with it, whatever else lay there is gone."""
    place = kept.store.version_place(MODEL, 1)
    assert kept.store.put(place, [_item(kept, "a", b"a"), _item(kept, "b/c", b"c")], first={"f": "f"}, last={"l": "l"})
    first = {"resnet/1/a": b"a", "resnet/1/b/c": b"c", "resnet/1/f": b"f", "resnet/1/l": b"l"}
    assert kept.files() == first

    assert not kept.store.put(place, [_item(kept, "a", b"other")], last={"l": "other"})
    assert kept.files() == first

    assert kept.store.put(place, [_item(kept, "a", b"other")], last={"l": "new"}, replace=True)
    assert kept.files() == {"resnet/1/a": b"other", "resnet/1/l": b"new"}
    assert kept.leftovers() == []


def test_what_is_stored_can_be_put_elsewhere_and_fetched(kept: Kept, tmp_path: Path) -> None:
    """Its content, digest and names stay; a file of no bytes and names that URLs quote are nothing special."""
    names = ["empty", "with space", "größe/%41 #+?.txt"]
    items = [_item(kept, name, b"" if name == "empty" else name.encode()) for name in names]
    waiting = kept.store.servable_place(MODEL, "abc")
    assert kept.store.put(waiting, [item.named(item.file.sha256) for item in items], last={"servable.json": "{}"})
    assert kept.store.servables(MODEL) == ["abc"]

    place = kept.store.version_place(MODEL, 1)
    kept.store.put(place, kept.store.items(waiting, [item.file for item in items], by_digest=True))

    assert kept.files() == {f"resnet/1/{name}": b"" if name == "empty" else name.encode() for name in names}
    assert [(file.path, file.size) for file in kept.store.files(place)] == sorted((item.file.path, item.file.size) for item in items)
    for number, item in enumerate(items):
        assert kept.store.sha256(place / item.file.path) == item.file.sha256
        kept.store.fetch(kept.store.origin(place / item.file.path), tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == (b"" if item.file.path == "empty" else item.file.path.encode())


def test_a_removed_folder_is_gone_and_may_come_back(kept: Kept) -> None:
    """It is not listed any more, what has a name that begins like its own stays, and removing nothing is fine."""
    for version in (1, 10):
        kept.put(version)
    rest = kept.files("resnet/10/")

    for _ in range(2):
        kept.store.remove(kept.store.version_place(MODEL, 1))
        assert kept.store.versions(MODEL) == [10]
        assert kept.files() == rest

    kept.put(1)
    assert kept.store.versions(MODEL) == [1, 10]
    assert kept.store.damage(MODEL, 1) == []
    kept.store.remove(kept.store.model_place(MODEL))
    assert kept.store.models() == []


def test_a_config_is_swapped_only_for_the_one_that_was_seen(kept: Kept) -> None:
    """Create, update and removal each need the etag of what is there; what does not fit changes nothing."""
    first = kept.store.swap_config(MODEL, "one", expected=None)
    assert kept.store.read_config(MODEL) == StoredConfig("one", str(first))
    for text, expected in (("other", None), ("other", "stale"), (None, None), (None, "stale")):
        _told(lambda text=text, expected=expected: kept.store.swap_config(MODEL, text, expected=expected), ConflictError)  # type: ignore[misc]
    assert kept.config() == b"one"

    second = kept.store.swap_config(MODEL, "zwei: ü", expected=first)
    _told(lambda: kept.store.swap_config(MODEL, "three", expected=first), ConflictError)
    assert kept.config() == "zwei: ü".encode()

    assert kept.store.swap_config(MODEL, None, expected=second) is None
    assert kept.store.read_config(MODEL) is None
    assert kept.leftovers() == []


def test_what_is_not_there_is_answered_and_no_error(kept: Kept, tmp_path: Path) -> None:
    """Folders and files of nothing are none, a file that is not there reads as None; one that is no text is an error that names it."""
    nowhere = kept.store.version_place("nobody", 7)
    assert kept.store.folders(nowhere) == []
    assert kept.store.files(nowhere) == []
    assert kept.store.read(nowhere / "x") is None

    kept.write("resnet/config.pbtxt", b"\xff\xfe")
    assert kept.where() in _told(lambda: kept.store.read_config(MODEL), RepositoryError)


def test_staging_is_empty_and_goes(kept: Kept) -> None:
    """A folder on this machine, for the length of the block, even one that ends in an error."""
    with pytest.raises(ZeroDivisionError), kept.store.new_staging() as folder:  # noqa: PT012
        assert list(folder.iterdir()) == []
        (folder / "x").write_text("x")
        raise ZeroDivisionError
    assert not folder.exists()
    assert kept.leftovers() == []


def test_reading_makes_nothing(kept: Kept) -> None:
    """Looking at a repository that is not there leaves it not there."""
    assert kept.store.models() == []
    assert kept.store.versions(MODEL) == []
    assert kept.store.read_config(MODEL) is None
    assert kept.store.manifest(MODEL, 1) is None
    assert core.releases(kept.store, MODEL) == []
    assert kept.tree() == {}
    assert list(kept.folder.iterdir()) == []


# --- on a disk only


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Sets the umask for one test."""
    before = os.umask(0o022)
    yield lambda value: os.umask(value) and None
    os.umask(before)


@pytest.mark.parametrize(("mask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)], ids=["022", "027"])
def test_others_may_read_as_the_umask_says(disk: Disk, umask: Callable[[int], None], mask: int, folder: int, file: int) -> None:
    """Triton often runs as another user: whatever lies in the repository has the modes that the umask gives."""
    umask(mask)
    disk.deploy(1)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in disk.store.root.rglob("*") if path.is_dir()}
    assert modes | {stat.S_IMODE(disk.store.root.stat().st_mode)} == {folder}
    assert {stat.S_IMODE(path.stat().st_mode) for path in disk.store.root.rglob("*") if path.is_file()} == {file}


def test_a_repository_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """Below a file, or a file itself: RepositoryError that names the repository, from every verb that reads or writes."""
    (tmp_path / "file").write_text("")
    disk = Disk(tmp_path)
    for root in (tmp_path / "file", tmp_path / "file" / "models"):
        disk.store = LocalRepository(root)
        for call in (
            disk.store.prepare,
            lambda: disk.put(1),
            lambda: disk.let_serve(1),
            lambda: disk.store.swap_config(MODEL, "x", expected=None),
            lambda: core.prune(disk.store, MODEL, keep=0),
            disk.store.new_staging,
        ):
            assert str(root) in _told(call, RepositoryError)


def test_a_file_where_a_model_belongs_says_so(disk: Disk) -> None:
    """A file with the model's name: RepositoryError that names it, and the file stays."""
    disk.store.prepare()
    (disk.store.root / MODEL).write_text("mine")

    for call in (
        lambda: disk.put(1),
        lambda: disk.let_serve(1),
        lambda: disk.store.versions(MODEL),
        lambda: core.releases(disk.store, MODEL),
    ):
        assert str(disk.store.root / MODEL) in _told(call, RepositoryError)
    assert (disk.store.root / MODEL).read_text() == "mine"


def test_a_version_appears_whole_or_not_at_all(disk: Disk) -> None:
    """Whoever looks while versions are stored and replaced sees none, or one with its manifest and every file."""
    seen: list[int] = []
    torn: list[str] = []
    over = threading.Event()
    folder = disk.store.path(disk.store.version_place(MODEL, 1))

    def look() -> None:
        while not over.is_set():
            try:
                handle = os.open(folder, os.O_RDONLY)  # one folder, even when it is replaced meanwhile
            except FileNotFoundError:
                continue
            names = sorted(os.listdir(handle))  # noqa: PTH208 - pathlib takes no handle
            os.close(handle)
            if names:  # an empty one is being deleted, out of sight
                seen.append(1)
                if names != ["deployment.json", "labels.txt", "model.onnx"] and folder.exists() and _same_folder(folder, names):
                    torn.append(str(names))

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(40):
        disk.put(1, b"content %d" % number)
    over.set()
    watcher.join()

    assert seen
    assert torn == []


def _same_folder(folder: Path, names: list[str]) -> bool:
    try:
        return sorted(path.name for path in folder.iterdir()) == names
    except FileNotFoundError:
        return False


PRELUDE = """
import importlib.util, sys, time
from pathlib import Path
sys.path.insert(0, str(Path({here!r}).parent))
spec = importlib.util.spec_from_file_location("helpers", {here!r})
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
disk = helpers.Disk(Path(sys.argv[1]))
"""


def _child(body: str, *args: str) -> subprocess.Popen[str]:
    """A process that runs `body` with this file's helpers and `disk`, the repository below its first argument."""
    code = PRELUDE.format(here=__file__) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


RACER = """
expected = disk.store.read_config("resnet")
print("ready", flush=True)
sys.stdin.readline()
try:
    helpers.core.commit(disk.store, "resnet", helpers._release(int(sys.argv[2])), expected=expected)
    print("won")
except helpers.ConflictError:
    print("lost")
"""


def test_one_of_eight_processes_wins_a_race(disk: Disk) -> None:
    """All commit over the same config.pbtxt: one wins, seven get a ConflictError, and the file is the winner's, whole."""
    disk.deploy(1)
    numbers = range(11, 19)
    for number in numbers:
        disk.put(number)
    racers = [_child(RACER, str(disk.folder), str(number)) for number in numbers]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [racer.communicate(timeout=60)[0].strip() for racer in racers]

    assert sorted(results) == ["lost"] * 7 + ["won"]
    winner = numbers[results.index("won")]
    assert [release.version for release in core.releases(disk.store, MODEL)] == [1, winner]
    assert disk.leftovers() == []


# --- killed at any instruction

DEPLOYER = """
first = max(disk.store.versions("resnet"), default=0)
for version in range(max(first, 1), 100000):
    print(version, flush=True)
    disk.deploy(version)
    helpers.core.prune(disk.store, "resnet", keep=2)
"""
KILLS = 15


def test_a_killed_deployment_leaves_what_served_serving(disk: Disk) -> None:
    """Killed at 15 random moments: config.pbtxt names a version that is stored and whole, and the next run carries on."""
    moments = random.Random(7)
    served: list[int] = []
    for _ in range(KILLS):
        child = _child(DEPLOYER, str(disk.folder))
        assert child.stdout is not None
        for _ in range(moments.randrange(1, 4)):
            assert child.stdout.readline()
        time.sleep(moments.uniform(0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()

        found = core.releases(disk.store, MODEL)
        for version in disk.store.versions(MODEL):
            assert disk.store.damage(MODEL, version) == []
        if found:
            assert model_config.versions(model_config.parse(disk.config_path().read_text())) == (found[-1].version,)
            served.append(found[-1].version)
            assert served == sorted(served)

    assert served
    last = served[-1] + 1
    shutil.rmtree(disk.folder / "converted")
    disk.deploy(last)
    core.prune(disk.store, MODEL, keep=0)
    assert disk.store.versions(MODEL) == [last]
    assert core.releases(disk.store, MODEL)[-1].version == last
