"""What fsck says of things that unfinished and dead attempts left: what each is, and what removes it; and that it changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kept import MODEL, Disk, InStore, Kept
from stores import Proxy, RcloneS3, Rule, SeaweedFS, on
from stores.proxy import respond
from test_cli import shell
from tests_support import everything_below

from airflow_triton import repository as core
from airflow_triton.errors import RepositoryError, RepositoryUnreachableError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import CandidateNote, Finding, ServableNote, candidate_name
from airflow_triton.repository.base import WORK
from airflow_triton.repository.manifest import FileDigest, sha256
from airflow_triton.repository.object_store import Connection, Deadlines, ObjectRepository, StoreAddress
from airflow_triton.repository.places import Item, Place

LONG_AGO = "2020-01-01T00:00:00+00:00"
Make = Callable[..., dict[str, Any]]


def _left(kept: Kept) -> dict[str, Finding]:
    """What fsck says of everything that has something that removes it, by where it lies."""
    return {str(each.where): each for each in core.fsck(kept.store) if each.removed_by}


def _item(folder: Path, content: bytes) -> Item:
    source = folder / uuid.uuid4().hex
    source.write_bytes(content)
    return Item(FileDigest(path="model.onnx", size=len(content), sha256=sha256(source)), source)


def _stage(kept: Kept, identity: str, *, note: str | None, model: str = MODEL) -> str:
    """Put a candidate of version 9, with that note; where it lies."""
    place = kept.store.model_place(candidate_name(model, 9, identity))
    first = {} if note is None else {"candidate.json": note}
    kept.store.put(place, [_item(kept.folder, b"x" * 1000)], first=first, last={"config.pbtxt": "backend: 'x'"})
    return kept.store.where(place)


def _convert(kept: Kept, identity: str, *, note: str | None, model: str = MODEL) -> str:
    """Put the files of a converted model into the work area, with that note; where they lie."""
    place = kept.store.servable_place(model, identity)
    first = {} if note is None else {"note.json": note}
    kept.store.put(place, [_item(kept.folder, b"x" * 2000)], first=first, last={"servable.json": "{}"})
    return kept.store.where(place)


def _everything(kept: Kept) -> object:
    """Every byte of the repository and its work area, and when it was written."""
    if isinstance(kept, Disk):
        return everything_below(kept.folder, content=True)
    assert isinstance(kept, InStore)
    rows = [row for prefix in (kept.address.prefix, kept.address.work_prefix) for row in kept._listed(prefix)]
    return {(row["path"], row["e_tag"], row["last_modified"]) for row in rows}


def test_a_candidate_that_can_never_be_promoted_is_told_from_one_that_may(kept: Kept) -> None:
    """By the rule of the clean-up: its note names the config.pbtxt of before; one without a note that can be read is neither."""
    kept.deploy(1)
    stale = _stage(kept, "stale", note=CandidateNote(before=None).model_dump_json())
    config = kept.store.read_config(MODEL)
    assert config is not None
    note = CandidateNote(before=config.etag).model_dump_json()
    current = _stage(kept, "current", note=note)
    damaged, without = _stage(kept, "damaged", note="{"), _stage(kept, "without", note=None)
    first = _stage(kept, "first", note=CandidateNote(before=None).model_dump_json(), model="never-released")
    before = _everything(kept)

    left = _left(kept)

    assert _everything(kept) == before
    assert {where: (each.role, each.model, each.version, each.stale) for where, each in left.items()} == {
        stale: ("candidate", MODEL, None, True),
        current: ("candidate", MODEL, None, False),
        damaged: ("candidate", MODEL, None, None),
        without: ("candidate", MODEL, None, None),
        first: ("candidate", "never-released", None, False),
    }
    assert left[stale].removed_by == "the next apply of `resnet`"
    assert left[current].removed_by == "its own deployment, run again, or the next apply of `resnet` that releases another version"
    assert left[without].removed_by == left[damaged].removed_by == "its own deployment, run again"
    assert left[current].size == 1000 + len(note) + len("backend: 'x'")
    assert [kept.store.where(kept.store.model_place(name)) for name in core.stale_candidates(kept.store, MODEL)] == [stale]

    kept.deploy(2)
    assert _left(kept)[current].stale is True
    assert not any(each.problems for each in core.fsck(kept.store))


def test_converted_files_that_wait_are_told_with_their_size(kept: Kept) -> None:
    """Also of a model that was never released; those that the sweep takes are marked, and go with it."""
    waits = _convert(kept, "waits", note=ServableNote().model_dump_json(), model="never-released")
    old = _convert(kept, "old", note=ServableNote(at=LONG_AGO).model_dump_json())
    damaged = _convert(kept, "damaged", note='{"at": "yesterday"}')
    before = _everything(kept)

    left = _left(kept)

    assert _everything(kept) == before
    assert {where: (each.role, each.model, each.stale, each.since and each.since[:4] < "2021") for where, each in left.items()} == {
        waits: ("converted", "never-released", False, False),
        old: ("converted", MODEL, True, True),
        damaged: ("converted", MODEL, None, None),
    }
    assert left[old].size == 2000 + len(ServableNote(at=LONG_AGO).model_dump_json()) + len("{}")
    assert left[old].removed_by == "the next apply of `resnet`"
    assert left[waits].removed_by == "its own deployment, or the next apply of `never-released` after 7 days"

    core.sweep(kept.store, MODEL)
    assert _left(kept).keys() == {waits, damaged}


def test_an_unreleased_version_is_no_damage_unless_a_deployment_would_take_it_so(kept: Kept) -> None:
    """Incomplete, it is replaced; with another content, or a manifest that cannot be read, it has to go first."""
    kept.deploy(1)
    for version in (2, 3, 4, 5):
        kept.put(version)
    kept.delete("resnet/3/labels.txt")
    kept.write("resnet/3/model.onnx/model.onnx", "")
    kept.write("resnet/4/labels.txt", "A\nB\n")
    kept.write("resnet/5/deployment.json", "{")

    found = {each.version: each for each in core.fsck(kept.store)}

    assert {version: (each.role, bool(each.problems), each.removed_by) for version, each in found.items()} == {
        1: ("serves", False, None),
        2: ("unused", False, "the next apply of `resnet`"),
        3: ("unused", False, "the next apply of `resnet`"),
        4: ("unused", True, None),
        5: ("unused", True, None),
    }
    assert found[2].about == "no release names it"
    assert found[3].about == f"no release names it, and it is incomplete: {kept.where(3, 'labels.txt')} is missing (and 1 more)"

    kept.delete("resnet/5")
    assert core.prune(kept.store, MODEL, keep=0) == [2, 3, 4]
    assert _left(kept) == {}


def test_a_damaged_config_hides_nothing(kept: Kept) -> None:
    """The candidates of a model whose config.pbtxt cannot be read are told all the same; whether they are stale is not known."""
    kept.deploy(1)
    where = _stage(kept, "x", note=CandidateNote(before=None).model_dump_json())
    kept.write("resnet/config.pbtxt", b"\xff\xfe")

    assert {each.where: each.stale for each in core.fsck(kept.store) if each.role == "candidate"} == {where: None}
    assert [each.role for each in core.fsck(kept.store) if each.problems] == ["serves"]


# --- on a disk

STAGES = """
import sys
from airflow_triton.repository import LocalRepository
with LocalRepository(sys.argv[1]).new_staging() as folder:
    (folder / "half").write_bytes(b"x" * 3000)
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_staging_folder_is_told_when_its_process_died(disk: Disk) -> None:
    """Not while it lives; looking makes no file, holds no lock and sweeps nothing. The next write sweeps it."""
    with subprocess.Popen(
        [sys.executable, "-c", STAGES, str(disk.store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        folder = child.stdout.readline().strip()
        assert _left(disk) == {}
        child.kill()
    (disk.store.work / "staging" / "unlocked").mkdir()
    before = _everything(disk)

    left = _left(disk)

    assert _everything(disk) == before
    assert {where: (each.role, each.model, each.size) for where, each in left.items()} == {
        folder: ("staging", None, 3000),
        str(disk.store.work / "staging" / "unlocked"): ("staging", None, 0),
    }
    assert left[folder].removed_by == "the next apply of any model"
    disk.deploy(1)
    assert _left(disk) == {}


def test_a_repository_that_is_not_there_stays_so(disk: Disk) -> None:
    """An error, and no folder."""
    with pytest.raises(RepositoryError, match="there is no model repository"):
        core.fsck(disk.store)
    assert list(disk.folder.iterdir()) == []


# --- in a store


@pytest.fixture
def stored(seaweed: SeaweedFS, seen_of_store: tuple[Connection, object], tmp_path: Path) -> InStore:
    """An empty repository in the real store, that nobody has written to."""
    return InStore(tmp_path, StoreAddress.parse(seaweed.url("models", f"{uuid.uuid4().hex}/models")), seen_of_store[0])


def test_uploads_that_were_broken_off_are_told_with_what_they_belong_to(stored: InStore) -> None:
    """A version's, a candidate's, a converted model's; others' in the same bucket are not. What removes the folder removes them."""
    store, s3 = stored.store, stored.connection.s3
    assert s3 is not None
    candidate = store.model_place(candidate_name(MODEL, 9, "x"))
    places = {
        store.version_place(MODEL, 7) / "model.onnx" / "weights": (MODEL, 7, store.version_place(MODEL, 7)),
        candidate / 9 / "weights": (MODEL, None, candidate),
        store.servable_place("other", "id") / "digest": ("other", None, store.servable_place("other", "id")),
    }
    for key in (*map(store.key, places), f"{stored.address.prefix}-of-others/x"):
        s3.create_multipart_upload(Bucket="models", Key=key)

    left = _left(stored)

    assert {where: (each.role, each.model, each.version) for where, each in left.items()} == {
        store.where(place): ("upload", model, version) for place, (model, version, _) in places.items()
    }
    for place, (_, _, folder) in places.items():
        assert left[store.where(place)].removed_by == f"the removal of {store.where(folder)}, or a lifecycle rule of the bucket"
        store.remove(folder)
    assert _left(stored) == {}


def test_looking_at_a_store_writes_nothing_to_it(stored: InStore, seaweed: SeaweedFS, tmp_path: Path) -> None:
    """Neither a marker nor a probe; and where the listing of uploads is refused, there is a warning and all the rest."""
    where = _stage(stored, "x", note=CandidateNote(before=None).model_dump_json())
    stored.store.remove(WORK)
    before = _everything(stored)
    with Proxy(seaweed.endpoint) as proxy:
        behind = ObjectRepository(StoreAddress.parse(f"s3://{proxy.endpoint}/models/{stored.address.prefix}"))
        told: list[str] = []
        with proxy.faults(Rule(on("GET", query="uploads"), respond(403, "AccessDenied"), times=None)):
            found = core.fsck(behind, progress=told.append)
        assert {request.method for request in proxy.requests} <= {"GET", "HEAD"}

    assert [each.role for each in found] == ["candidate"]
    assert str(found[0].where).endswith(where.rpartition("/")[2])
    assert _everything(stored) == before
    (warning,) = [line for line in told if line.startswith("warning")]
    assert "list the uploads that are not finished" in warning


@pytest.mark.parametrize("what", ["config.pbtxt", "1/deployment.json", "1/labels.txt", "2/deployment.json"])
def test_a_store_that_does_not_answer_is_no_damage(stored: InStore, seaweed: SeaweedFS, what: str) -> None:
    """Whatever was being read: an error that a retry may cure, and no verdict."""
    stored.deploy(1)
    stored.put(2)
    with Proxy(seaweed.endpoint) as proxy:
        address = StoreAddress.parse(f"s3://{proxy.endpoint}/models/{stored.address.prefix}")
        behind = ObjectRepository(address, deadlines=Deadlines(connect=2, request=2, operation=2, retries=0))
        with proxy.faults(Rule(on("GET", what), respond(503, "SlowDown"), times=None)), pytest.raises(RepositoryUnreachableError):
            core.fsck(behind)


def test_a_store_that_knows_no_unfinished_uploads_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, rclone answers NoSuchUpload: no warning. Where there is one, it is told."""
    with RcloneS3(tmp_path / "rclone") as rclone:
        for name, value in rclone.environment.items():
            monkeypatch.setenv(name, value)
        rclone.make_bucket("models")
        store = ObjectRepository(StoreAddress.parse(rclone.url("models", "x")))
        told: list[str] = []
        assert core.fsck(store, progress=told.append) == []
        assert told == []

        place = store.version_place(MODEL, 1) / "weights"
        rclone.client().create_multipart_upload(Bucket="models", Key=store.key(place))
        assert [each.where for each in core.fsck(store)] == [store.where(place)]


# --- the command


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "removed by" in line]


def test_garbage_alone_is_no_failure(disk: Disk) -> None:
    """Exit code 0 and a line for each thing, none where there is none; the same as keys in the JSON; 1 as soon as something is damaged."""
    disk.deploy(1)
    where = {"TRITON_MODEL_REPO": str(disk.store.root)}
    clean = shell("fsck", **where)
    assert (clean.returncode, _lines(clean.stdout)) == (0, [])

    disk.put(2)
    candidate = _stage(disk, "stale", note=CandidateNote(before=None).model_dump_json())
    told = shell("fsck", **where)
    assert told.returncode == 0, told.stderr
    version, staged = _lines(told.stdout)
    assert version.startswith(f"unused {disk.where(2)}: no release names it; ")
    assert version.endswith(" KiB; removed by the next apply of `resnet`")
    assert staged.startswith(f"candidate {candidate}: something was released since it was staged: it can never be promoted; 1 KiB; ")

    machine = shell("fsck", "--json", **where)
    rows = {row["role"]: row for row in json.loads(machine.stdout)}
    assert machine.returncode == 0
    assert rows["candidate"].items() >= {"where": candidate, "stale": True, "removed_by": "the next apply of `resnet`"}.items()
    assert (rows["unused"]["version"], rows["unused"]["removed_by"]) == (2, "the next apply of `resnet`")
    assert (rows["serves"]["removed_by"], rows["serves"]["problems"]) == (None, [])

    disk.write("resnet/1/labels.txt", "cut")
    assert shell("fsck", **where).returncode == 1


def test_the_next_apply_removes_what_it_is_said_to(
    mapping: Make, triton: LocalTriton, repository: core.LocalRepository, tmp_path: Path
) -> None:
    """A real deployment over one of each: what goes with the next apply is gone, what waits is there, and nothing else is left."""
    kept = Disk(tmp_path)
    kept.store = repository
    kept.put(7, model="blobs")
    _stage(kept, "stale", note=CandidateNote(before="another").model_dump_json(), model="blobs")
    _convert(kept, "old", note=ServableNote(at=LONG_AGO).model_dump_json(), model="blobs")
    waits = _convert(kept, "waits", note=ServableNote().model_dump_json(), model="blobs")
    (repository.work / "staging" / "dead").mkdir()
    before = _left(kept)
    going = {where for where, each in before.items() if each.removed_by in ("the next apply of `blobs`", "the next apply of any model")}
    assert (len(before), before.keys() - going) == (5, {waits})
    spec = tmp_path / "blobs.json"
    spec.write_text(json.dumps(mapping(1)))

    applied = shell("apply", spec)

    assert applied.returncode == 0, applied.stderr
    assert _left(kept).keys() == {waits}
    kept.store.remove(Place("work", "servables"))
