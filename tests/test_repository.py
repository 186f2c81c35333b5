"""The versioned model repository on a disk: what is published, committed, reverted and pruned, also by many at once and killed."""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_triton import model_config
from airflow_triton import repository as core
from airflow_triton.errors import ConflictError, DeployError, RepositoryError
from airflow_triton.registry import ModelSource
from airflow_triton.repository import LocalRepository, Manifest, Release, StoredConfig
from airflow_triton.repository.layout import LAYOUT, check_layout
from airflow_triton.repository.local import link_tree
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


class Disk:
    """A repository below a folder, and what the tests do with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = LocalRepository(folder / "models")

    def put(self, version: int, content: bytes | None = None, model: str = MODEL, servable_id: str | None = None) -> None:
        """Store a version whose content, if it is not given, is its number."""
        content = b"model %d" % version if content is None else content
        identity = servable_id or f"servable-{content.decode()}"
        files = _files(self.folder / "converted" / identity, content)
        core.store_version(self.store, model, version, files, _manifest(files, identity, version))

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

    def config_path(self, model: str = MODEL) -> Path:
        """Where the model's config.pbtxt lies."""
        return self.store.root / model / "config.pbtxt"

    def tree(self) -> dict[str, bytes | None]:
        """Everything in the repository: paths with the content of files, None for folders."""
        root = self.store.root
        return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}

    def leftovers(self) -> list[Path]:
        """What lies in the staging area."""
        return list((self.store.work / "staging").iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """An empty repository."""
    return Disk(tmp_path)


def _told(call: Callable[[], object], kind: type[DeployError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# --- storing a version


def test_a_version_is_stored_with_its_manifest(disk: Disk) -> None:
    """All files, folders included, and the manifest; whole by its own digests, and not yet serving."""
    disk.put(3)

    assert sorted(path for path in disk.tree() if disk.tree()[path] is not None) == [
        "resnet/3/deployment.json",
        "resnet/3/labels.txt",
        "resnet/3/model.onnx/model.onnx",
    ]
    assert disk.store.damage(MODEL, 3) == []
    assert disk.store.versions(MODEL) == [3]
    assert core.releases(disk.store, MODEL) == []
    assert disk.leftovers() == []


def test_a_version_appears_whole_or_not_at_all(disk: Disk) -> None:
    """Whoever looks while versions are stored and replaced sees none, or one with its manifest and every file."""
    seen: list[int] = []
    torn: list[str] = []
    over = threading.Event()
    folder = disk.store.version_folder(MODEL, 1)

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


def test_storing_the_same_version_again_changes_nothing(disk: Disk) -> None:
    """The second call leaves every inode as it was."""
    disk.deploy(1)
    before = {path: path.stat().st_ino for path in disk.store.root.rglob("*")}

    disk.put(1)

    assert {path: path.stat().st_ino for path in disk.store.root.rglob("*")} == before


@pytest.mark.parametrize("half_done", ["no manifest", "other files", "damaged"])
def test_what_a_dead_attempt_left_is_replaced(disk: Disk, half_done: str) -> None:
    """A folder that no release names gives way: without a manifest, of another conversion, or damaged."""
    disk.deploy(1)
    disk.put(2, b"other" if half_done == "other files" else None)
    if half_done == "no manifest":
        (disk.store.version_folder(MODEL, 2) / "deployment.json").unlink()
    if half_done == "damaged":
        (disk.store.version_folder(MODEL, 2) / "labels.txt").unlink()

    disk.put(2)

    assert (disk.store.version_folder(MODEL, 2) / "model.onnx" / "model.onnx").read_bytes() == b"model 2"
    assert disk.store.damage(MODEL, 2) == []
    assert disk.leftovers() == []


@pytest.mark.parametrize("later", [False, True], ids=["serves", "served"])
def test_a_released_version_never_changes(disk: Disk, later: bool) -> None:  # noqa: FBT001
    """Other files for a version that serves, or did, are a conflict, and nothing changes."""
    disk.deploy(1, *([2] if later else []))
    before = disk.tree()

    told = _told(lambda: disk.put(1, b"another conversion"), ConflictError)

    assert "version 1 of `resnet`" in told
    assert str(disk.store.version_folder(MODEL, 1)) in told
    assert disk.tree() == before
    assert disk.leftovers() == []


def test_a_pruned_version_can_be_stored_again(disk: Disk) -> None:
    """The journal remembers a version that is no longer there: it may come back, and serve."""
    disk.deploy(1, 2, 3)
    assert core.prune(disk.store, MODEL, keep=1) == [1]

    disk.deploy(1)

    assert disk.store.damage(MODEL, 1) == []
    assert core.releases(disk.store, MODEL)[-1].version == 1


def test_a_damaged_released_version_is_mended_by_the_same_files(disk: Disk) -> None:
    """What a disk lost comes back with the very same files; the release stays as it was."""
    disk.deploy(1)
    before = disk.tree()
    whole = disk.store.version_folder(MODEL, 1) / "labels.txt"
    whole.unlink()
    whole.write_text("lost")

    files = _files(disk.folder / "again", b"model 1")
    core.store_version(disk.store, MODEL, 1, files, disk.store.manifest(MODEL, 1))  # type: ignore[arg-type]

    assert disk.tree() == before


def test_only_one_of_two_who_store_the_same_version_replaces_it(disk: Disk) -> None:
    """While another one holds the model's lock, a version is not replaced under it: releases and files are read and changed together."""
    disk.put(1)
    files = _files(disk.folder / "other", b"other")
    replacing = threading.Thread(target=core.store_version, args=(disk.store, MODEL, 1, files, _manifest(files, "other")), daemon=True)
    with disk.store.locked(MODEL):
        replacing.start()
        replacing.join(0.3)
        held = disk.store.manifest(MODEL, 1)
    replacing.join(10)

    assert held is not None
    assert held.servable_id == "servable-model 1"
    assert disk.store.manifest(MODEL, 1).servable_id == "other"  # type: ignore[union-attr]


# --- the commit


def test_a_commit_makes_one_version_serve(disk: Disk) -> None:
    """config.pbtxt names exactly the released version, and starts with the banner that says whose it is."""
    disk.put(7)
    stored = disk.let_serve(7)

    text = disk.config_path().read_text()
    assert text == stored.text
    assert disk.store.read_config(MODEL) == stored
    assert model_config.versions(model_config.parse(text)) == (7,)
    assert text.startswith("# Written by airflow-provider-triton. Change the spec and apply it")
    assert disk.leftovers() == []


@pytest.mark.parametrize("stale", ["none", "older"])
def test_a_stale_commit_is_a_conflict(disk: Disk, stale: str) -> None:
    """Whoever expects another config.pbtxt than there is gets a ConflictError; the file stays byte for byte."""
    disk.deploy(1)
    expected = disk.store.read_config(MODEL) if stale == "older" else None
    disk.deploy(2)
    disk.put(3)
    before = disk.config_path().read_bytes()

    told = _told(lambda: core.commit(disk.store, MODEL, _release(3), expected=expected), ConflictError)

    assert str(disk.config_path()) in told
    assert disk.config_path().read_bytes() == before
    assert disk.leftovers() == []


def test_a_commit_over_a_model_that_went_away_is_a_conflict(disk: Disk) -> None:
    """Expecting a config.pbtxt where there is none any more writes none."""
    disk.deploy(1)
    expected = disk.store.read_config(MODEL)
    disk.config_path().unlink()

    _told(lambda: core.commit(disk.store, MODEL, _release(1), expected=expected), ConflictError)

    assert not disk.config_path().exists()


def test_a_version_that_is_not_stored_cannot_be_committed(disk: Disk) -> None:
    """No release names files that are not there; nothing is written."""
    disk.deploy(1)
    before = disk.tree()

    told = _told(lambda: disk.let_serve(2), ConflictError)

    assert str(disk.store.version_folder(MODEL, 2)) in told
    assert disk.tree() == before


def test_a_version_that_was_replaced_cannot_be_committed(disk: Disk) -> None:
    """A release is of the files that were validated: where someone else stored others meanwhile, nothing is written."""
    disk.deploy(1)
    disk.put(2)
    disk.put(2, b"someone else's")
    before = disk.tree()

    told = _told(lambda: core.commit(disk.store, MODEL, _release(2), expected=disk.store.read_config(MODEL)), ConflictError)

    assert "replaced" in told
    assert disk.tree() == before


PRELUDE = """
import importlib.util, sys, time
from pathlib import Path
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


def test_two_threads_wait_for_each_other(disk: Disk) -> None:
    """The lock of one model has one holder at a time; the lock of another model is free meanwhile."""
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with disk.store.locked(MODEL):
            order.append("second")

    waiting = threading.Thread(target=second)
    with disk.store.locked(MODEL):
        waiting.start()
        entered.wait(10)
        with disk.store.locked("resnet50"):
            order.append("other model")
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)

    assert order == ["other model", "first", "second"]


# --- going back


def test_a_revert_restores_the_file_byte_for_byte(disk: Disk) -> None:
    """config.pbtxt after a revert is what it was before the commit."""
    disk.deploy(1)
    before = disk.store.read_config(MODEL)
    disk.put(2)
    committed = disk.let_serve(2, batch=16)

    core.revert(disk.store, MODEL, committed=committed, before=before)

    assert before is not None
    assert disk.config_path().read_bytes() == before.text.encode()


@pytest.mark.parametrize("first", [True, False], ids=["first release", "second release"])
def test_a_revert_leaves_a_later_release_alone(disk: Disk, first: bool) -> None:  # noqa: FBT001
    """Someone else released after our commit: a ConflictError, and theirs serves on with its files."""
    disk.deploy(*([] if first else [1]))
    before = disk.store.read_config(MODEL)
    disk.put(2)
    committed = disk.let_serve(2)
    disk.deploy(3)
    theirs = disk.tree()

    _told(lambda: core.revert(disk.store, MODEL, committed=committed, before=before), ConflictError)

    assert disk.tree() == theirs


def test_a_reverted_first_release_leaves_no_trace(disk: Disk) -> None:
    """No config, no version, no folder of the model."""
    disk.put(1)
    committed = disk.let_serve(1)

    core.revert(disk.store, MODEL, committed=committed, before=None)

    assert disk.tree() == {}
    assert disk.leftovers() == []


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
def test_prune_keeps_what_serves_and_the_last_that_did(disk: Disk, served: list[int], keep: int, left: list[int]) -> None:
    """Kept are the serving version and the `keep` before it, in the order in which they served and not of their numbers."""
    for version in served:
        disk.put(version)
        disk.let_serve(version)
    gone = [version for version in sorted(set(served)) if version not in left]

    assert core.prune(disk.store, MODEL, keep=keep) == gone
    assert disk.store.versions(MODEL) == left
    assert core.prune(disk.store, MODEL, keep=keep) == []
    assert disk.leftovers() == []


def test_prune_leaves_versions_alone_that_are_not_ours(disk: Disk) -> None:
    """A version without our manifest, and another model, stay as they are."""
    disk.deploy(1, 2)
    _files(disk.store.root / MODEL / "99", b"by hand")
    _files(disk.store.root / "foreign" / "1", b"by hand")
    others = {path: content for path, content in disk.tree().items() if path.startswith(("resnet/99", "foreign"))}

    assert core.prune(disk.store, MODEL, keep=0) == [1]

    assert {path: content for path, content in disk.tree().items() if path.startswith(("resnet/99", "foreign"))} == others


def test_models_with_a_common_beginning_do_not_disturb_each_other(disk: Disk) -> None:
    """Pruning, reverting and removing `resnet` leaves `resnet50` byte for byte."""
    disk.deploy(1, 2, model="resnet50")
    other = {path: content for path, content in disk.tree().items() if path.startswith("resnet50")}
    disk.deploy(1, 2)

    core.prune(disk.store, MODEL, keep=0)
    committed = disk.store.read_config(MODEL)
    assert committed is not None
    core.revert(disk.store, MODEL, committed=committed, before=None)

    assert disk.tree() == other
    assert disk.store.models() == ["resnet50"]


# --- what is wrong with what is stored


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"model"), "has 5 bytes instead of 7"),
        (lambda path: path.write_bytes(b"madel 1"), "has another content than its manifest says"),
    ],
    ids=["missing", "truncated", "altered"],
)
def test_damage_names_the_file(disk: Disk, harm: Callable[[Path], object], told: str) -> None:
    """A missing, truncated or altered file of a version is named, with what is wrong."""
    disk.put(1)
    path = disk.store.version_folder(MODEL, 1) / "model.onnx" / "model.onnx"
    content = path.read_bytes()
    path.unlink()  # it shares its bytes with the converted files
    path.write_bytes(content)

    assert disk.store.damage(MODEL, 1) == []
    harm(path)
    assert disk.store.damage(MODEL, 1) == [f"{path} {told}"]


def test_a_version_without_manifest_is_damaged(disk: Disk) -> None:
    """Nothing can be said of its files, so it is not whole."""
    assert disk.store.damage(MODEL, 5) == [f"{disk.store.version_folder(MODEL, 5)} has no deployment.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"layout": 1}', b"\xff\xfe".decode("latin-1")],
    ids=["empty", "no JSON", "no mapping", "incomplete", "something else"],
)
def test_a_damaged_manifest_is_an_error(disk: Disk, text: str) -> None:
    """It is never taken for a version that is not ours: RepositoryError that names the file."""
    disk.put(1)
    path = disk.store.version_folder(MODEL, 1) / "deployment.json"
    path.write_text(text, encoding="latin-1")

    assert str(path) in _told(lambda: disk.store.manifest(MODEL, 1), RepositoryError)


def test_a_newer_manifest_is_refused(disk: Disk) -> None:
    """What a newer release wrote is not guessed at."""
    disk.put(1)
    path = disk.store.version_folder(MODEL, 1) / "deployment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layout": LAYOUT + 1}))

    told = _told(lambda: disk.store.manifest(MODEL, 1), RepositoryError)

    assert str(path) in told
    assert "upgrade airflow-provider-triton" in told


@pytest.mark.parametrize("found", [LAYOUT + 1, None, "1", 1.0], ids=["newer", "none", "text", "fraction"])
def test_a_layout_that_is_not_known_is_refused(found: object) -> None:
    """Only whole numbers up to today's are known."""
    assert "config.pbtxt" in _told(lambda: check_layout(found, "config.pbtxt"), RepositoryError)


# --- the journal


def test_the_journal_survives_its_way_through_the_file(disk: Disk) -> None:
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
    disk.put(1)
    disk.put(2)

    for release in made:
        core.commit(disk.store, MODEL, release, expected=disk.store.read_config(MODEL))
        assert model_config.parse(disk.config_path().read_text()).max_batch_size == model_config.parse(release.config).max_batch_size

    assert core.releases(disk.store, MODEL) == made


def test_the_journal_forgets_the_oldest(disk: Disk) -> None:
    """It keeps the last 20 releases, in their order."""
    disk.put(1)
    for number in range(MOST_RELEASES + 3):
        disk.let_serve(1, batch=number + 1)

    assert [release.id for release in core.releases(disk.store, MODEL)] == [f"id-1-{number + 1}" for number in range(3, MOST_RELEASES + 3)]


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
def test_a_config_that_we_did_not_write_so_is_refused(disk: Disk, alter: Callable[[str], str], told: str) -> None:
    """Edited by hand, damaged or newer: RepositoryError that names the file; a commit over it is refused, and it stays as it is."""
    disk.deploy(1, 2)
    text = alter(disk.config_path().read_text())
    disk.config_path().write_text(text, encoding="latin-1")
    before = disk.config_path().read_bytes()

    for call in (lambda: core.releases(disk.store, MODEL), lambda: disk.let_serve(1), lambda: core.prune(disk.store, MODEL, keep=0)):
        message = _told(call, RepositoryError)
        assert told in message
        assert str(disk.config_path()) in message
    assert disk.config_path().read_bytes() == before
    assert disk.store.versions(MODEL) == [1, 2]


# --- models of other people


@pytest.mark.parametrize("config", [True, False], ids=["config without journal", "versions without manifest"])
def test_a_foreign_model_is_listed_and_left_alone(disk: Disk, config: bool) -> None:  # noqa: FBT001
    """A model that we did not publish is listed with its versions; releases, storing, committing and pruning refuse it."""
    _files(disk.store.root / MODEL / "4", b"by hand")
    if config:
        disk.config_path().write_text('backend: "onnxruntime"\n')
    before = disk.tree()

    for call in (
        lambda: core.releases(disk.store, MODEL),
        lambda: disk.put(4),
        lambda: disk.put(5),
        lambda: core.prune(disk.store, MODEL, keep=0),
    ):
        message = _told(call, RepositoryError)
        assert "was not published by airflow-provider-triton" in message
        assert MODEL in message

    assert disk.store.models() == [MODEL]
    assert disk.store.versions(MODEL) == [4]
    assert disk.tree() == before
    assert disk.leftovers() == []


def test_candidates_are_no_models(disk: Disk) -> None:
    """A candidate lies in the repository, and is not listed; neither are files and what is no version."""
    disk.deploy(1)
    (disk.store.root / core.candidate_name(MODEL, 2, "0123456789abcdef")).mkdir()
    (disk.store.root / "notes.txt").write_text("")
    (disk.store.root / MODEL / "labels").mkdir()

    assert disk.store.models() == [MODEL]
    assert disk.store.versions(MODEL) == [1]


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
        folder = store.model_folder(name)
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
def test_other_names_are_refused_by_every_verb(disk: Disk, name: str) -> None:
    """Before anything is written."""
    for call in (
        lambda: core.check_model_name(name),
        lambda: disk.store.versions(name),
        lambda: disk.store.read_config(name),
        lambda: core.releases(disk.store, name),
        lambda: disk.put(1, model=name),
        lambda: core.prune(disk.store, name, keep=0),
        lambda: core.candidate_name(name, 1, "id"),
        lambda: core.mode_probe(name),
    ):
        _told(call, RepositoryError)
    assert not disk.store.root.exists() or disk.tree() == {}


# --- on the disk


def test_files_are_linked_and_folders_are_made(tmp_path: Path) -> None:
    """link_tree copies no byte: the files share their inodes, the folders (also empty ones) are new, `leave_out` stays behind."""
    source = _files(tmp_path / "source", b"weights")
    (source / "empty").mkdir()
    (source / "deployment.json").write_text("{}")

    link_tree(source, tmp_path / "target", leave_out=frozenset({"deployment.json"}))

    paths = sorted(path.relative_to(tmp_path / "target").as_posix() for path in (tmp_path / "target").rglob("*"))
    assert paths == ["empty", "labels.txt", "model.onnx", "model.onnx/model.onnx"]
    for name in ("labels.txt", "model.onnx/model.onnx"):
        assert (tmp_path / "target" / name).stat().st_ino == (source / name).stat().st_ino


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


def test_reading_makes_nothing(disk: Disk) -> None:
    """Looking at a repository that is not there leaves it not there."""
    assert disk.store.models() == []
    assert disk.store.versions(MODEL) == []
    assert disk.store.read_config(MODEL) is None
    assert disk.store.manifest(MODEL, 1) is None
    assert core.releases(disk.store, MODEL) == []
    assert list(disk.folder.iterdir()) == []


# --- fsck


def _fsck(disk: Disk) -> dict[tuple[str, int | None], tuple[str, bool]]:
    return {(each.model, each.version): (each.role, not each.problems) for each in core.fsck(disk.store)}


def test_fsck_tells_damaged_from_whole_and_whom_it_hurts(disk: Disk) -> None:
    """Each version has its role and its state; foreign models are named, not judged; nothing changes."""
    disk.deploy(1, 2)
    disk.put(3)
    disk.deploy(1, model="other")
    theirs = disk.store.root / "theirs" / "1"
    theirs.mkdir(parents=True)
    (theirs / "model.onnx").write_bytes(b"theirs")
    whole = {
        ("other", 1): ("serves", True),
        (MODEL, 1): ("kept", True),
        (MODEL, 2): ("serves", True),
        (MODEL, 3): ("unused", True),
        ("theirs", None): ("foreign", True),
    }
    assert _fsck(disk) == whole

    (disk.store.version_folder(MODEL, 2) / "labels.txt").unlink()
    (disk.store.version_folder(MODEL, 1) / "deployment.json").write_text("{")
    before = disk.tree()

    assert _fsck(disk) == {**whole, (MODEL, 1): ("kept", False), (MODEL, 2): ("serves", False)}
    assert disk.tree() == before


def test_fsck_finds_a_served_version_that_is_gone(disk: Disk) -> None:
    """A release whose version has no folder any more is a damage of what serves; a damaged journal is one of the model."""
    disk.deploy(1)
    shutil.rmtree(disk.store.version_folder(MODEL, 1))
    assert _fsck(disk) == {(MODEL, 1): ("serves", False)}

    disk.deploy(1, model="other")
    path = disk.config_path("other")
    path.write_text(path.read_text().replace('"releases"', '"released"'))
    assert _fsck(disk)["other", None] == ("serves", False)


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
