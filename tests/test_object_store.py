"""The repository on an object store when things go wrong: a real SeaweedFS behind a proxy that fails on purpose, and a real rclone."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import obstore
import pytest
from kept import MODEL, InStore
from obstore.store import LocalStore
from stores import Proxy, RcloneS3, Rule, SeaweedFS, on
from stores.proxy import Exchange, Fault, corrupt_upload, cut_upload, hang, lose_answer, respond, truncate_answer

from airflow_triton import repository as core
from airflow_triton.errors import ConflictError, DeployError, RepositoryError, RepositoryUnreachableError, SpecError
from airflow_triton.local_triton.ports import ADDRESS
from airflow_triton.repository.manifest import FileDigest
from airflow_triton.repository.object_store import Connection, Deadlines, ObjectRepository, StoreAddress, lease, transfer
from airflow_triton.repository.object_store.connect import connect
from airflow_triton.repository.object_store.lease import Lease
from airflow_triton.repository.object_store.probe import Abilities
from airflow_triton.repository.places import Item

QUICK = Deadlines(connect=2, request=2, operation=6, retries=2)
SOON = 12.0
"""Within so many seconds a store that does not answer is reported, with QUICK."""
MIB = 1 << 20
PART = 5 * MIB
"""The smallest part that S3 takes."""
BUSY = respond(503, "SlowDown")


@pytest.fixture(scope="module")
def one_proxy(seaweed: SeaweedFS) -> Iterator[Proxy]:
    """A way to SeaweedFS that can be spoiled."""
    with Proxy(seaweed.endpoint) as running:
        yield running


@pytest.fixture
def proxy(one_proxy: Proxy) -> Proxy:
    """It, with nothing of the test before on its way."""
    one_proxy.wait_idle()
    one_proxy.arm()
    return one_proxy


@pytest.fixture(scope="module", autouse=True)
def abilities(seaweed: SeaweedFS) -> Abilities:
    """What SeaweedFS does: asked once, with patience, as whoever loses a race there waits for seconds."""
    return ObjectRepository(StoreAddress.parse(seaweed.url("models", "asked"))).abilities


@functools.cache
def _session() -> boto3.Session:
    """The environment's; the first client of a session takes a second to make, the next ones do not."""
    return boto3.Session()


def _opened(endpoint: str, prefix: str, folder: Path, deadlines: Deadlines = QUICK) -> InStore:
    address = StoreAddress.parse(f"s3://{endpoint}/models/{prefix}")
    return InStore(folder, address, connect(address, session=_session(), deadlines=deadlines))


def _known(kept: InStore, abilities: Abilities) -> InStore:
    """It, with the store's abilities remembered there."""
    kept.remember(abilities)
    return kept


@pytest.fixture
def prefix() -> str:
    """Where the test's repository lies."""
    return f"{uuid.uuid4().hex}/models"


@pytest.fixture
def behind(proxy: Proxy, prefix: str, tmp_path: Path, abilities: Abilities) -> InStore:
    """The repository by way of the proxy, and already known to be a good store."""
    return _known(_opened(proxy.endpoint, prefix, tmp_path), abilities)


@pytest.fixture
def hasty(proxy: Proxy, prefix: str, tmp_path: Path, abilities: Abilities) -> InStore:
    """`behind`, which waits for an answer for less than a second."""
    deadlines = Deadlines(connect=1, request=0.7, operation=4, retries=1)
    return _known(_opened(proxy.endpoint, prefix, tmp_path, deadlines), abilities)


@pytest.fixture
def patient(proxy: Proxy, prefix: str, tmp_path: Path, abilities: Abilities) -> InStore:
    """`behind`, which waits for as long as users do."""
    return _known(_opened(proxy.endpoint, prefix, tmp_path, Deadlines()), abilities)


@pytest.fixture
def direct(seaweed: SeaweedFS, prefix: str, tmp_path: Path) -> InStore:
    """The same repository, past the proxy."""
    return _opened(seaweed.endpoint, prefix, tmp_path, Deadlines())


def _told(call: Callable[[], object], kind: type[DeployError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def _item(folder: Path, path: str, content: bytes) -> Item:
    source = folder / uuid.uuid4().hex
    source.write_bytes(content)
    return Item(FileDigest(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest()), source)


# --- a store that fails

REQUESTS = {
    "the lock": on("PUT", "/locks/"),
    "a file": on("PUT", "/2/labels.txt"),
    "the last file": on("PUT", "/2/model.onnx/model.onnx"),
    "the manifest": on("PUT", "/2/deployment.json"),
    "the commit": on("PUT", "/config.pbtxt"),
    "a look": on("GET"),
    "a head": on("HEAD"),
    "everything": on(),
}


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
@pytest.mark.parametrize("what", REQUESTS)
def test_what_fails_twice_is_asked_again(behind: InStore, direct: InStore, proxy: Proxy, *, what: str, status: int, code: str) -> None:
    """An inner error and throttling go away by themselves: version 2 is stored and committed, once."""
    behind.deploy(1)
    rule = Rule(REQUESTS[what], respond(status, code), times=2)

    with proxy.faults(rule):
        behind.deploy(2)

    assert rule.seen > 2
    assert [release.version for release in core.releases(direct.store, MODEL)] == [1, 2]
    assert direct.store.damage(MODEL, 2) == []
    assert direct.leftovers() == []


@pytest.mark.parametrize("fault", [respond(500, "InternalError"), BUSY, hang(30)], ids=["500", "503", "no answer"])
@pytest.mark.parametrize("what", [what for what in REQUESTS if what not in ("a look", "a head", "everything")])
def test_what_fails_for_ever_is_reported_and_leaves_nothing_to_serve(
    hasty: InStore, proxy: Proxy, direct: InStore, what: str, fault: Fault
) -> None:
    """RepositoryUnreachableError that names the store, soon; config.pbtxt as before, and no version 2 that looks whole where it is not."""
    hasty.deploy(1)
    before = direct.config()
    started = time.monotonic()

    with proxy.faults(Rule(REQUESTS[what], fault, times=None)):
        told = _told(lambda: hasty.deploy(2), RepositoryUnreachableError)

    assert time.monotonic() - started < SOON
    assert hasty.address.prefix in told
    assert direct.config() == before
    assert bool(direct.store.damage(MODEL, 2)) == (what != "the commit")
    assert direct.leftovers() == []

    hasty.deploy(2)
    assert [release.version for release in core.releases(direct.store, MODEL)] == [1, 2]
    assert direct.store.damage(MODEL, 2) == []


@pytest.mark.parametrize("fault", [BUSY, hang(30), truncate_answer(0)], ids=["503", "no answer", "cut"])
@pytest.mark.parametrize("times", [1, None], ids=["once", "for ever"])
def test_nothing_is_read_by_half(hasty: InStore, proxy: Proxy, tmp_path: Path, fault: Fault, times: int | None) -> None:
    """What is read is the whole, or RepositoryUnreachableError: a text, a digest, a file."""
    hasty.deploy(1)
    place = hasty.store.version_place(MODEL, 1) / "labels.txt"
    reads: list[Callable[[], object]] = [
        lambda: hasty.store.read(place).text,  # type: ignore[union-attr]
        lambda: hasty.store.sha256(place),
        lambda: (hasty.store.fetch(hasty.store.origin(place), tmp_path / "fetched"), (tmp_path / "fetched").read_text())[1],
    ]
    good = [read() for read in reads]

    for read, expected in zip(reads, good, strict=True):
        with proxy.faults(Rule(on("GET", "/labels.txt"), fault, times=times)):
            if times is None:
                _told(read, RepositoryUnreachableError)
            else:
                assert read() == expected


@pytest.mark.parametrize("what", ["the lock", "a file", "the manifest", "the commit"])
def test_a_lost_answer_changes_nothing(behind: InStore, direct: InStore, proxy: Proxy, what: str) -> None:
    """The store did it and the answer never came: the update is reported as done, and is done once."""
    behind.deploy(1)

    rule = Rule(REQUESTS[what], lose_answer())
    with proxy.faults(rule):
        behind.deploy(2)

    assert rule.seen
    assert [release.version for release in core.releases(direct.store, MODEL)] == [1, 2]
    assert direct.store.damage(MODEL, 2) == []
    assert direct.leftovers() == []


def test_a_first_commit_whose_answer_is_lost_is_done(behind: InStore, direct: InStore, proxy: Proxy) -> None:
    """The create of config.pbtxt, too; the etag that is answered is the one to go on with."""
    behind.put(1)

    with proxy.faults(Rule(on("PUT", "/config.pbtxt"), lose_answer())):
        committed = behind.let_serve(1)

    assert direct.store.read_config(MODEL) == committed
    assert [release.version for release in core.releases(direct.store, MODEL)] == [1]
    core.revert(behind.store, MODEL, committed=committed, before=None)
    assert direct.tree() == {}


@pytest.mark.parametrize("what", ["a file", "the last file", "the manifest", "the commit"])
def test_a_flipped_byte_is_never_stored_as_good(behind: InStore, direct: InStore, proxy: Proxy, what: str) -> None:
    """What is not what was sent is refused: nothing of it serves, and the next attempt makes it good."""
    behind.deploy(1)
    before = direct.config()

    with proxy.faults(Rule(REQUESTS[what], corrupt_upload(), times=None)), pytest.raises(RepositoryError):
        behind.deploy(2)

    assert direct.config() == before
    assert bool(direct.store.damage(MODEL, 2)) == (what != "the commit")
    behind.deploy(2)
    assert direct.store.damage(MODEL, 2) == []
    assert direct.leftovers() == []


# --- large files


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files go in parts from 5 MiB on."""
    monkeypatch.setattr(transfer, "PART_BYTES", PART)


BROKEN_PARTS = {"cut": cut_upload(MIB), "503": BUSY, "lost answer": lose_answer(), "flipped": corrupt_upload()}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("how", ["cut", "503", "lost answer"])
def test_a_part_that_is_lost_is_sent_again(behind: InStore, direct: InStore, proxy: Proxy, tmp_path: Path, how: str) -> None:
    """One part of three breaks off on its way: the file arrives whole."""
    item = _item(tmp_path, "model.onnx", os.urandom(2 * PART + MIB))
    place = behind.store.version_place(MODEL, 1)
    rule = Rule(on("PUT", "/1/model.onnx", "partNumber=2"), BROKEN_PARTS[how])

    with proxy.faults(rule):
        assert behind.store.put(place, [item])

    assert rule.seen == 2
    assert direct.store.sha256(place / "model.onnx") == item.file.sha256
    assert direct.leftovers() == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("how", ["cut", "503", "flipped"])
def test_a_part_that_never_arrives_leaves_nothing_visible(behind: InStore, direct: InStore, proxy: Proxy, tmp_path: Path, how: str) -> None:
    """An error, no object, and `remove` leaves no unfinished upload either."""
    item = _item(tmp_path, "model.onnx", os.urandom(2 * PART + MIB))
    place = behind.store.version_place(MODEL, 1)

    with proxy.faults(Rule(on("PUT", "/1/model.onnx", "partNumber=2"), BROKEN_PARTS[how], times=None)), pytest.raises(RepositoryError):
        behind.store.put(place, [item])

    proxy.wait_idle()
    assert direct.tree() == {}
    direct.store.remove(place)
    assert direct.leftovers() == []


def _sent(proxy: Proxy, beginning: str) -> dict[str, int]:
    """The bytes that went to each object whose path has that in it."""
    sent: dict[str, int] = {}
    for request in proxy.requests:
        if request.method in ("PUT", "POST") and beginning in request.path and request.size:
            name = request.path.rpartition(beginning)[2]
            sent[name] = sent.get(name, 0) + request.size
    return sent


@pytest.mark.usefixtures("small_parts")
def test_the_same_files_are_not_sent_again(behind: InStore, direct: InStore, proxy: Proxy, tmp_path: Path) -> None:
    """A second put of the same files sends no byte of them; what differs is sent, and what came from the store is copied there."""
    items = [_item(tmp_path, "a", b"a" * 1000), _item(tmp_path, "b", b"b"), _item(tmp_path, "large", os.urandom(PART + MIB))]
    place = behind.store.version_place(MODEL, 1)
    behind.store.put(place, items, replace=True)
    stamps = direct.stamps()

    proxy.arm()
    behind.store.put(place, items, replace=True)
    assert _sent(proxy, "/1/") == {}
    assert direct.stamps() == stamps

    behind.store.put(place, [items[0], _item(tmp_path, "b", b"c"), items[2]], replace=True)
    assert _sent(proxy, "/1/") == {"b": 1}

    proxy.arm()
    behind.store.put(behind.store.version_place(MODEL, 2), behind.store.items(place, [items[0].file, items[2].file]))
    assert _sent(proxy, "/2/") == {}
    assert direct.store.sha256(direct.store.version_place(MODEL, 2) / "large") == items[2].file.sha256


@pytest.fixture
def large_in_store(behind: InStore, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Item:
    """A file of 11 MiB in the store, to be copied there; copies go in parts of 5 MiB. The proxy counts anew."""
    monkeypatch.setattr(transfer, "COPY_PART_BYTES", PART)
    place = behind.store.version_place(MODEL, 1)
    item = _item(tmp_path, "model.onnx", os.urandom(2 * PART + MIB))
    behind.store.put(place, [item])
    proxy.arm()
    return behind.store.items(place, [item.file])[0]


def test_a_large_copy_goes_in_parts_within_the_store(behind: InStore, direct: InStore, proxy: Proxy, large_in_store: Item) -> None:
    """The store is asked to copy one range after the other; no byte of the file passes here, and the whole is what it was."""
    place = behind.store.version_place(MODEL, 2)

    behind.store.put(place, [large_in_store])

    puts = [request for request in proxy.requests if request.method == "PUT" and "/2/model.onnx" in request.path]
    ends = (0, PART, 2 * PART, 2 * PART + MIB)
    assert sorted(request.headers["x-amz-copy-source-range"] for request in puts) == sorted(
        f"bytes={start}-{end - 1}" for start, end in itertools.pairwise(ends)
    )
    assert all("partNumber=" in request.query and "/1/model.onnx" in request.headers["x-amz-copy-source"] for request in puts)
    assert [request.size for request in puts] == [0, 0, 0]
    assert direct.store.sha256(place / "model.onnx") == large_in_store.file.sha256
    assert behind.store._transfer.has(behind.store.key(place / "model.onnx"), large_in_store.file)
    assert direct.leftovers() == []


def test_a_large_copy_that_is_interrupted_is_given_up(behind: InStore, direct: InStore, proxy: Proxy, large_in_store: Item) -> None:
    """A part that fails for ever: an error, no object, and no unfinished upload; the next attempt copies it whole."""
    place = behind.store.version_place(MODEL, 2)

    with proxy.faults(Rule(on("PUT", "/2/model.onnx", "partNumber=2"), BUSY, times=None)):
        _told(lambda: behind.store.put(place, [large_in_store]), RepositoryUnreachableError)

    proxy.wait_idle()
    assert direct.files("resnet/2/") == {}
    assert direct.leftovers() == []
    assert behind.store.put(place, [large_in_store])
    assert direct.store.sha256(place / "model.onnx") == large_in_store.file.sha256


UPLOADER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stores.proxy import arm
from test_object_store import PART, _items, _opened, transfer
transfer.PART_BYTES = PART
endpoint, prefix, folder, at, when = sys.argv[1:]
kept = _opened(endpoint, prefix, Path(folder))
kept.store.check_exists()
items = _items(Path(folder))
arm(endpoint, at=int(at), when=when)
kept.store.put(kept.store.version_place("resnet", 1), items, first={{"deployment.json": "note"}}, replace=True)
"""


def _items(folder: Path) -> list[Item]:
    """Four small files and a large one, the same each time."""
    folder = folder / "files"
    folder.mkdir(exist_ok=True)
    small = [_item(folder, f"small{number}", bytes([number]) * 1000) for number in range(4)]
    return [*small, _item(folder, "large", b"0123456789abcdef" * ((2 * PART + MIB) // 16)), _item(folder, "last", b"last")]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("at", "when"), [(4, "after"), (7, "before"), (12, "before"), (14, "after"), (17, "before")])
def test_a_killed_upload_goes_on_with_what_is_missing(
    behind: InStore, proxy: Proxy, direct: InStore, tmp_path: Path, *, at: int, when: str
) -> None:
    """Killed at some request: no file is there by half, and the second run sends those that are missing and no others."""
    code = UPLOADER.format(tests=str(Path(__file__).parent))
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), proxy.endpoint, behind.address.prefix, str(tmp_path), str(at), when],
        check=False,
        timeout=60,
    )
    assert child.returncode == -9
    proxy.wait_idle()
    items = _items(tmp_path)
    there = direct.files("resnet/1/")
    for item in items:
        assert hashlib.sha256(there.get(f"resnet/1/{item.file.path}", b"")).hexdigest() in (item.file.sha256, hashlib.sha256().hexdigest())
    missing = {item.file.path: item.file.size for item in items if f"resnet/1/{item.file.path}" not in there}
    assert missing

    behind.store.check_exists()
    proxy.arm()
    place = behind.store.version_place(MODEL, 1)
    behind.store.put(place, items, first={"deployment.json": "note"}, replace=True)

    sent = {name: size for name, size in _sent(proxy, "/1/").items() if name != "deployment.json"}
    assert set(sent) == set(missing)
    assert all(sent[name] < size + 2000 for name, size in missing.items())  # the end of a multipart upload has a body, too
    assert [direct.store.sha256(place / item.file.path) for item in items] == [item.file.sha256 for item in items]
    direct.store.remove(place)
    assert direct.tree() == {}
    assert direct.leftovers() == []


def test_what_is_not_there_is_deleted_without_a_word(tmp_path: Path) -> None:
    """Also in a store to which that is an error, as it is to Azure and Google; the rest goes."""
    store = LocalStore(tmp_path)
    for name in ("a", "c"):
        store.put(name, b"x")
    with pytest.raises(FileNotFoundError):
        store.delete("b")

    transfer.delete(store, ["a", "b", "c"])

    assert list(tmp_path.iterdir()) == []


# --- a store that does not keep conditions


@pytest.fixture(scope="module")
def rclone(seaweed: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    """A real server that ignores the conditions of a write; the environment's credentials are its own, too."""
    with RcloneS3(tmp_path_factory.mktemp("rclone"), access_key=seaweed.access_key, secret_key=seaweed.secret_key) as server:
        server.make_bucket("models")
        yield server


def _on_rclone(endpoint: str, prefix: str, folder: Path, lock_folder: Path | None) -> InStore:
    made = _opened(endpoint, prefix, folder)
    made.store = ObjectRepository(made.address, connection=made.connection, lock_folder=lock_folder)
    return made


def test_a_store_that_ignores_conditions_is_refused(rclone: RcloneS3, prefix: str, tmp_path: Path) -> None:
    """With an error that says why and what to do; whatever was asked of it, nothing stays there."""
    kept = _on_rclone(rclone.endpoint, prefix, tmp_path, None)

    for call in (kept.store.check_exists, lambda: kept.put(1), lambda: kept.store.swap_config(MODEL, "x", expected=None)):
        told = _told(call, RepositoryError)
        assert "does not keep the conditions of a write" in told
        assert "AIRFLOW_TRITON_LOCK_FOLDER" in told
        assert str(kept.address) in told
    assert [
        path for path in (rclone.folder / "data" / "models").rglob("*") if path.is_file() and prefix.partition("/")[0] in str(path)
    ] == []


def test_with_a_lock_folder_one_of_eight_wins(rclone: RcloneS3, prefix: str, tmp_path: Path) -> None:
    """All swap the same config.pbtxt at once: one is told that it won, and the text is its own."""
    locks = tmp_path / "locks"
    kept = _on_rclone(rclone.endpoint, prefix, tmp_path, locks)
    seen = kept.store.swap_config(MODEL, "first", expected=None)
    start = threading.Barrier(8)

    def swap(number: int) -> bool:
        mine = ObjectRepository(kept.address, connection=kept.connection, lock_folder=locks)
        mine.check_exists()
        start.wait(30)
        try:
            mine.swap_config(MODEL, f"text {number}", expected=seen)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(swap, range(8)))

    assert sum(won) == 1
    assert kept.config() == b"text %d" % won.index(True)


def test_a_store_that_checks_no_digests_is_read_back(rclone: RcloneS3, prefix: str, tmp_path: Path) -> None:
    """A byte that flips on the way to such a store is found, and nothing is committed."""
    with Proxy(rclone.endpoint) as way:
        kept = _on_rclone(way.endpoint, prefix, tmp_path, tmp_path / "locks")
        kept.deploy(1)
        before = kept.config()
        with way.faults(Rule(on("PUT", "/2/labels.txt"), corrupt_upload(), times=None)), pytest.raises(RepositoryError):
            kept.deploy(2)

        assert kept.config() == before
        kept.deploy(2)
        assert kept.store.damage(MODEL, 2) == []


# --- who does not get in

SECRET = "top-secret-of-somebody"


def _refusals(place: str, kind: type[DeployError], session: boto3.Session | None = None, lookup: object = None) -> str:
    """The one error of every verb."""
    told = set()
    for call in (
        lambda store: store.check_exists(),
        lambda store: store.read_config(MODEL),
        lambda store: store.swap_config(MODEL, "x", expected=None),
    ):
        store = ObjectRepository(StoreAddress.parse(place), session=session, lookup=lookup, deadlines=QUICK)  # type: ignore[arg-type]
        told.add(_told(lambda call=call, store=store: call(store), kind))  # type: ignore[misc]
    assert len(told) == 1
    message = told.pop()
    assert SECRET not in message
    assert "\n" not in message
    return message


def test_a_bucket_that_is_not_there_is_named(seaweed: SeaweedFS) -> None:
    """One error, with what to do."""
    place = f"s3://{seaweed.endpoint}/nowhere/models"
    told = _refusals(place, RepositoryError)

    assert place in told
    assert "no such bucket" in told


@pytest.mark.parametrize("key", ["tests-key", "unknown"], ids=["wrong secret", "unknown key"])
def test_wrong_credentials_are_said_and_not_shown(seaweed: SeaweedFS, key: str) -> None:
    """The store and where credentials come from; never the secret."""
    place = f"s3://{seaweed.endpoint}/models/x"
    session = boto3.Session(aws_access_key_id=key, aws_secret_access_key=SECRET, region_name="us-east-1")
    told = _refusals(place, RepositoryError, session)

    assert f"{place} refuses our credentials" in told
    assert "AWS_PROFILE" in told


def test_no_credentials_are_said(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where we looked."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    place = f"s3://{seaweed.endpoint}/models/x"

    assert f"there are no credentials for {place}" in _refusals(place, RepositoryError)


def test_a_server_that_is_not_there_is_said_soon() -> None:
    """RepositoryUnreachableError, which a retry may cure, that names it."""
    place = f"s3://http://{ADDRESS}:1/models/x"
    started = time.monotonic()

    assert place in _refusals(place, RepositoryUnreachableError)
    assert time.monotonic() - started < 3 * SOON


def test_a_connection_lets_in_and_names_the_server(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The id in the address is looked up: its session and its endpoint are used. Without Airflow that is an error."""
    session = boto3.Session(aws_access_key_id=seaweed.access_key, aws_secret_access_key=seaweed.secret_key, region_name="us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    asked: list[str] = []

    def lookup(name: str) -> tuple[boto3.Session, str | None]:
        asked.append(name)
        return session, seaweed.endpoint

    place = f"s3://the_conn@models/{uuid.uuid4().hex}"
    store = ObjectRepository(StoreAddress.parse(place), lookup=lookup)
    store.swap_config(MODEL, "x", expected=None)

    assert asked == ["the_conn"]
    assert store.read_config(MODEL).text == "x"  # type: ignore[union-attr]
    assert "the_conn" in _refusals(place, SpecError)


# --- the lock


@pytest.fixture
def bucket(seaweed: SeaweedFS) -> Connection:
    """The bucket itself."""
    return connect(StoreAddress.parse(seaweed.url("models", "x")), deadlines=QUICK)


@pytest.fixture
def lock_key(request: pytest.FixtureRequest) -> str:
    """A lock of the test's own."""
    return f"locks/{request.node.name}.json"


HOLDER = """
import sys
sys.path.insert(0, {tests!r})
from test_object_store import Lease, QUICK, StoreAddress, connect
Lease(connect(StoreAddress.parse(sys.argv[1]), deadlines=QUICK).store, sys.argv[2]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_dead_owner_of_this_machine_is_taken_over_at_once(seaweed: SeaweedFS, bucket: Connection, lock_key: str) -> None:
    """Its process is gone: nobody waits for the end of its lease."""
    code = HOLDER.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", code, seaweed.url("models", "x"), lock_key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        child.kill()
    mine = Lease(bucket.store, lock_key)
    started = time.monotonic()

    mine.acquire()

    assert time.monotonic() - started < 5
    mine.check()
    mine.release()


def _foreign(bucket: Connection, key: str) -> None:
    content = {"owner": "somebody", "process": "another boot/pid:[1]/17/4711", "host": "elsewhere", "renewal": uuid.uuid4().hex}
    obstore.put(bucket.store, key, json.dumps(content).encode())


def test_a_silent_owner_elsewhere_is_taken_over_after_its_time(bucket: Connection, lock_key: str) -> None:
    """We cannot know whether it lives: it has its time, and not longer. What is no lease at all, the same."""
    for make in (lambda: _foreign(bucket, lock_key), lambda: obstore.put(bucket.store, lock_key, b"[]")):
        make()
        mine = Lease(bucket.store, lock_key, seconds=1)
        started = time.monotonic()

        mine.acquire()

        assert 1 < time.monotonic() - started < 6
        mine.release()
        with pytest.raises(FileNotFoundError):
            obstore.get(bucket.store, lock_key)


def test_an_owner_elsewhere_that_renews_is_waited_for(bucket: Connection, lock_key: str) -> None:
    """For as long as it renews; then it is our turn."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.2):
            _foreign(bucket, lock_key)
        obstore.delete(bucket.store, lock_key)

    _foreign(bucket, lock_key)
    owner = threading.Thread(target=renew)
    mine = Lease(bucket.store, lock_key, seconds=1)
    taking = threading.Thread(target=mine.acquire)
    owner.start()
    taking.start()
    taking.join(3)
    waited = taking.is_alive()
    over.set()
    owner.join(10)
    taking.join(10)

    assert waited
    assert not taking.is_alive()
    mine.check()
    mine.release()


def test_a_live_owner_keeps_its_lock(bucket: Connection, lock_key: str) -> None:
    """It renews by itself: three times the lease's time later it still holds it, and the other one waits."""
    mine, other = Lease(bucket.store, lock_key, seconds=1), Lease(bucket.store, lock_key, seconds=1)
    mine.acquire()
    taking = threading.Thread(target=other.acquire)
    taking.start()
    taking.join(3)
    waited = taking.is_alive()
    mine.check()
    mine.release()
    taking.join(10)

    assert waited
    other.check()
    other.release()


def test_one_that_does_not_get_free_is_reported(bucket: Connection, lock_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After WAIT_SECONDS: RepositoryUnreachableError that names the machine."""
    monkeypatch.setattr(lease, "WAIT_SECONDS", 0.5)
    _foreign(bucket, lock_key)

    assert "elsewhere" in _told(Lease(bucket.store, lock_key).acquire, RepositoryUnreachableError)


@pytest.mark.parametrize("how", ["taken over", "cut off"])
def test_a_lost_lock_stops_the_writer(
    behind: InStore, direct: InStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, *, tmp_path: Path, how: str
) -> None:
    """Someone took it over, or renewals do not get through: ConflictError from every write, and nothing is written."""
    monkeypatch.setitem(Lease.__init__.__kwdefaults__, "seconds", 0.6)
    behind.deploy(1)
    before = direct.tree()
    item = _item(tmp_path, "x", b"x")
    key = f"{direct.address.work_prefix}/locks/{MODEL}.json"

    with behind.store.locked(MODEL), proxy.faults(Rule(on("PUT", "/locks/"), BUSY, times=None if how == "cut off" else 0)):
        if how == "taken over":
            _foreign(direct.connection, key)
        time.sleep(1)
        for call in (
            lambda: behind.store.put(behind.store.version_place(MODEL, 2), [item]),
            lambda: behind.store.put(behind.store.version_place(MODEL, 2), [], first={"deployment.json": "x"}),
            lambda: behind.store.remove(behind.store.version_place(MODEL, 1)),
        ):
            assert "was lost" in _told(call, ConflictError)

    assert direct.tree() == before
    assert bool(direct.leftovers()) == (how == "taken over")  # theirs stays


def _meanwhile(doing: Callable[[], object]) -> Fault:
    """Someone else does that when the request has been sent, and before the store sees it."""

    def fault(exchange: Exchange) -> bool:
        doing()
        exchange.forward()
        return exchange.relay()

    return fault


@pytest.mark.parametrize("released", [True, False], ids=["who released", "who did nothing yet"])
@pytest.mark.parametrize("text", ["ours", None], ids=["written", "removed"])
def test_a_lock_that_is_lost_as_the_config_is_swapped_loses_no_release(
    patient: InStore, direct: InStore, proxy: Proxy, *, text: str | None, released: bool
) -> None:
    """Taken over after the last check of it: their release stays, ours is a conflict; or ours goes through, and theirs is the conflict."""
    patient.deploy(1)
    place = patient.store.config_place(MODEL)
    seen = patient.store.read_config(MODEL)
    assert seen is not None

    def take_over() -> None:
        _foreign(direct.connection, f"{direct.address.work_prefix}/locks/{MODEL}.json")
        if released:
            direct.store.swap_held(place, "theirs", expected=seen.etag)

    rule = Rule(on("PUT" if text else "DELETE", "/config.pbtxt"), _meanwhile(take_over))
    with proxy.faults(rule):
        if released:
            assert "someone else changed" in _told(lambda: patient.store.swap_config(MODEL, text, expected=seen.etag), ConflictError)
        else:
            patient.store.swap_config(MODEL, text, expected=seen.etag)

    assert rule.seen == 1
    stored = direct.store.read(place)
    assert (stored.text if stored else None) == ("theirs" if released else text)
    if not released:
        _told(lambda: direct.store.swap_held(place, "theirs", expected=seen.etag), ConflictError)
    assert len(direct.leftovers()) == 1  # the lock that is theirs


@pytest.mark.parametrize("text", ["ours", None], ids=["written", "removed"])
def test_a_lock_that_is_lost_before_the_config_is_swapped_stops_it(
    patient: InStore, direct: InStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, *, text: str | None
) -> None:
    """Taken over while config.pbtxt is read: the check before the write sees it."""
    monkeypatch.setitem(Lease.__init__.__kwdefaults__, "seconds", 0.6)
    patient.deploy(1)
    before = direct.tree()
    seen = patient.store.read_config(MODEL)
    assert seen is not None

    def take_over() -> None:
        _foreign(direct.connection, f"{direct.address.work_prefix}/locks/{MODEL}.json")
        time.sleep(1)

    with proxy.faults(Rule(on("GET", "/config.pbtxt"), _meanwhile(take_over))):
        assert "was lost" in _told(lambda: patient.store.swap_config(MODEL, text, expected=seen.etag), ConflictError)

    assert direct.tree() == before


@pytest.mark.parametrize(
    ("fault", "asked"), [(lose_answer(), 2), (respond(501, "NotImplemented"), 1)], ids=["answer lost", "condition not known"]
)
def test_a_first_release_is_taken_back_once(patient: InStore, direct: InStore, proxy: Proxy, *, fault: Fault, asked: int) -> None:
    """Where the answer of the removal is lost, or the store knows no condition of it, it is done all the same and is no conflict."""
    patient.put(1)
    committed = patient.let_serve(1)
    rule = Rule(on("DELETE", "/config.pbtxt"), fault)

    with proxy.faults(rule):
        core.revert(patient.store, MODEL, committed=committed, before=None)

    assert rule.seen == asked
    assert direct.tree() == {}
    assert direct.leftovers() == []


# --- addresses


@pytest.mark.parametrize(
    ("text", "fields", "shown"),
    [
        ("s3://bucket/models", ("s3", "bucket", "models", None, None, None), None),
        ("s3://bucket/a/b/models/", ("s3", "bucket", "a/b/models", None, None, None), "s3://bucket/a/b/models"),
        ("s3://http://host:9000/bucket/m", ("s3", "bucket", "m", "http://host:9000", None, None), None),
        ("s3://host:9000/bucket/m", ("s3", "bucket", "m", "http://host:9000", None, None), "s3://http://host:9000/bucket/m"),
        ("s3://https://host/bucket/a/m", ("s3", "bucket", "a/m", "https://host", None, None), None),
        ("s3://aws_default@bucket/m", ("s3", "bucket", "m", None, None, "aws_default"), None),
        ("gs://bucket/m", ("gs", "bucket", "m", None, None, None), None),
        ("as://account/container/a/m", ("as", "container", "a/m", None, "account", None), None),
    ],
)
def test_every_form_of_an_address_is_read(text: str, fields: tuple[str | None, ...], shown: str | None) -> None:
    """And shown as Triton takes it."""
    address = StoreAddress.parse(text)

    assert (address.scheme, address.bucket, address.prefix, address.endpoint, address.account, address.connection) == fields
    assert str(address) == (shown or text)


def test_the_work_area_lies_beside_the_repository() -> None:
    """Below the same folder, never in the repository."""
    assert StoreAddress.parse("s3://bucket/models").work_prefix == ".models.airflow-triton"
    assert StoreAddress.parse("s3://bucket/a/b").work_prefix == "a/.b.airflow-triton"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://", "no address"),
        ("", "no address"),
        ("http://host/bucket/m", "no address"),
        ("S3://bucket/m", "no address"),
        ("file:///srv/models", "no address"),
        ("s3://bucket", "needs a bucket and a prefix"),
        ("s3://bucket/", "needs a bucket and a prefix"),
        ("s3:///models", "needs a bucket and a prefix"),
        ("s3://http://host:9000/bucket", "needs a bucket and a prefix"),
        ("s3://http://host:9000", "needs a bucket and a prefix"),
        ("s3://host:port/bucket/m", "a server goes with its protocol, s3://http://host:port/bucket/prefix"),
        ("s3://bucket/a//m", "needs a bucket and a prefix"),
        ("s3://bucket/a/../m", "needs a bucket and a prefix"),
        ("s3://bucket/./m", "needs a bucket and a prefix"),
        ("gs://bucket", "needs a bucket and a prefix"),
        ("as://account/container", "needs a bucket and a prefix"),
        ("as://account", "needs a bucket and a prefix"),
        (f"s3://key:{SECRET}@bucket/m", "has credentials in it"),
        (f"s3://key:{SECRET}@bucket", "has credentials in it"),
        (f"s3://http://key:{SECRET}@host:9000/bucket/m", "has credentials in it"),
        (f"s3://http://key:{SECRET}@host:9000", "has credentials in it"),
        (f"s3://key:{SECRET}/with/slash@bucket/m", "has credentials in it"),
        (f"gs://key:{SECRET}@bucket/m", "has credentials in it"),
        (f"as://account:{SECRET}@container/m", "has credentials in it"),
        (f"http://key:{SECRET}@host/bucket/m", "no address"),
    ],
)
def test_other_addresses_are_refused(text: str, told: str) -> None:
    """With the reason; credentials in one are never shown."""
    message = _told(lambda: StoreAddress.parse(text), SpecError)

    assert told in message
    assert SECRET not in message
