"""The model repository, of every kind: what is published, committed, reverted and pruned, also by many at once."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from kept import MODEL, Disk, Kept, converted, manifest_of, message_of, release_of

from airflow_triton import model_config
from airflow_triton import repository as core
from airflow_triton.errors import ConflictError

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

    told = message_of(lambda: kept.put(1, b"another conversion"), ConflictError)

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
    files = converted(kept.folder / "other", b"other")
    manifest = manifest_of(files, "other")
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

    told = message_of(lambda: core.commit(kept.store, MODEL, release_of(3), expected=expected), ConflictError)

    assert kept.where() in told
    assert kept.config() == before
    assert kept.leftovers() == []


def test_a_commit_over_a_model_that_went_away_is_a_conflict(kept: Kept) -> None:
    """Expecting a config.pbtxt where there is none any more writes none."""
    kept.deploy(1)
    expected = kept.store.read_config(MODEL)
    kept.delete("resnet/config.pbtxt")

    message_of(lambda: core.commit(kept.store, MODEL, release_of(1), expected=expected), ConflictError)

    assert kept.store.read_config(MODEL) is None


def test_a_version_that_is_not_stored_cannot_be_committed(kept: Kept) -> None:
    """No release names files that are not there; nothing is written."""
    kept.deploy(1)
    before = kept.tree()

    told = message_of(lambda: kept.let_serve(2), ConflictError)

    assert kept.where(2) in told
    assert kept.tree() == before


def test_a_version_that_was_replaced_cannot_be_committed(kept: Kept) -> None:
    """A release is of the files that were validated: where someone else stored others meanwhile, nothing is written."""
    kept.deploy(1)
    kept.put(2)
    kept.put(2, b"someone else's")
    before = kept.tree()

    told = message_of(lambda: core.commit(kept.store, MODEL, release_of(2), expected=kept.store.read_config(MODEL)), ConflictError)

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
            core.commit(mine, MODEL, release_of(number), expected=expected)
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


# --- both at once


def test_publishing_stores_and_commits(kept: Kept) -> None:
    """The first version of a model and the next; each is whole, and the etag that is answered is that of the file."""
    first = kept.publish(1)
    assert kept.store.read_config(MODEL) == first
    assert kept.store.damage(MODEL, 1) == []
    second = kept.publish(2, expected=first)
    assert kept.store.read_config(MODEL) == second
    assert [release.version for release in core.releases(kept.store, MODEL)] == [1, 2]
    assert kept.leftovers() == []


@pytest.mark.parametrize("there", ["a release", "a version that a dead attempt left", "a file of somebody else"])
def test_publishing_a_first_version_over_what_is_there(kept: Kept, there: str) -> None:
    """A release that was not seen is a conflict; what a dead attempt left is taken up; somebody's file stays."""
    if there == "a release":
        kept.deploy(7)
    elif there == "a version that a dead attempt left":
        kept.put(1)
    else:
        kept.write("resnet/notes.txt", "mine")
    before = kept.files()

    if there == "a release":
        message_of(lambda: kept.publish(1), ConflictError)
        assert kept.store.read_config(MODEL) is not None
        assert [release.version for release in core.releases(kept.store, MODEL)] == [7]
    else:
        kept.publish(1)
        assert core.releases(kept.store, MODEL)[-1].version == 1
    assert before.items() <= kept.files().items()


def test_a_first_version_on_disk_is_never_there_without_its_config(disk: Disk) -> None:
    """Triton would guess one: whoever looks while it is published and put back sees nothing, or both."""
    alone: list[str] = []
    over = threading.Event()
    folder = disk.store.root / MODEL

    def look() -> None:
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(folder, os.O_RDONLY)  # one folder, even when it is replaced meanwhile
                names = set(os.listdir(handle))  # noqa: PTH208 - pathlib takes no handle
                linked = os.fstat(handle).st_ino == folder.stat().st_ino  # and not one that is being deleted, out of sight
                os.close(handle)
                if linked and "1" in names and "config.pbtxt" not in names:
                    alone.append(str(names))

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(40):
        committed = disk.publish(1)
        core.revert(disk.store, MODEL, committed=committed, before=None)
    over.set()
    watcher.join()

    assert alone == []
    assert disk.tree() == {}


def test_a_first_release_that_is_put_back_takes_nothing_else_with_it(kept: Kept) -> None:
    """Files of other people in the model's folder stay."""
    committed = kept.publish(1)
    kept.write("resnet/notes.txt", "mine")

    core.revert(kept.store, MODEL, committed=committed, before=None)

    assert kept.files() == {"resnet/notes.txt": b"mine"}


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

    message_of(lambda: core.revert(kept.store, MODEL, committed=committed, before=before), ConflictError)

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
