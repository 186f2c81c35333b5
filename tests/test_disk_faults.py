"""A disk that is full, and repositories that may only be read: really so (a mounted tmpfs, another user, another identity)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from kept import MODEL, Disk, InStore
from stores import SeaweedFS
from test_cli import shell
from tests_support import everything_below

from airflow_triton import repository as core
from airflow_triton.errors import RepositoryError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository
from airflow_triton.repository.object_store import Deadlines, StoreAddress
from airflow_triton.repository.object_store.connect import connect

NOBODY = 65534
PAGE = 4096
LARGE = b"x" * (5 * PAGE)
Make = Callable[..., dict[str, Any]]


class Mounted(Disk):
    """A repository on a file system of its own, of 4 MiB and 256 inodes, once that is mounted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.mount = folder / "mounted"
        self.mount.mkdir()
        self.store = LocalRepository(self.mount / "models")

    def mount_or_why(self) -> str:
        """Mount it; answer why this user may not, "" where that is done."""
        command = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=256", "tmpfs", self.mount]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return f"no file system can be mounted here (root may do so): {done.stderr.strip()}" if done.returncode else ""

    def unmount(self) -> None:
        """Take it away, with what is on it."""
        subprocess.run(["umount", "-l", self.mount], check=True, capture_output=True)

    @property
    def ballast(self) -> Path:
        """What takes up the room."""
        return self.mount / "ballast"

    def fill(self) -> None:
        """Leave not a page."""
        with self.ballast.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(b"x" * PAGE):
                pass

    def leave(self, pages: int) -> None:
        """Fill, and then give so many pages back."""
        self.fill()
        os.truncate(self.ballast, self.ballast.stat().st_size - pages * PAGE)

    def fill_inodes(self) -> None:
        """Leave room for no file and no folder more."""
        self.ballast.mkdir()
        with contextlib.suppress(OSError):
            for number in range(1000):
                (self.ballast / str(number)).touch()

    def free(self) -> None:
        """Take the ballast away."""
        shutil.rmtree(self.ballast) if self.ballast.is_dir() else self.ballast.unlink()

    def remount(self, how: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.mount], check=True, capture_output=True)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """An empty one. Skipped where this user may not mount."""
    made = Mounted(tmp_path)
    if why := made.mount_or_why():
        pytest.skip(why)
    yield made
    made.unmount()


def _refused(call: Callable[[], object], *told: str) -> None:
    """RepositoryError, of one line, that says all of that."""
    with pytest.raises(RepositoryError) as caught:
        call()
    assert type(caught.value) is RepositoryError
    for text in told:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# --- a disk that is full

FULL = "No space left on device"


def _put_converted(disk: Mounted) -> None:
    files = disk.folder / "converted" / "waiting"
    files.mkdir(parents=True, exist_ok=True)
    (files / "large").write_bytes(LARGE)
    items = core.items_in(files, core.digest_files(files))
    disk.store.put(disk.store.servable_place(MODEL, "waiting"), items, first={"note.json": "{}"}, last={"servable.json": "{}"})


VERBS: dict[str, Callable[[Mounted], object]] = {
    "store a version": lambda disk: disk.put(2, LARGE, servable_id="second"),
    "store it over a dead attempt's": lambda disk: disk.put(3, LARGE, servable_id="third"),
    "put what was converted": _put_converted,
    "release": lambda disk: disk.let_serve(1, batch=16),
    "go back": lambda disk: disk.store.swap_config(MODEL, "x" * 100, expected=disk.store.read_config(MODEL).etag),  # type: ignore[union-attr]
}


def _error(call: Callable[[], object]) -> str | None:
    try:
        call()
    except RepositoryError as error:
        return str(error)
    return None


def _prepare(disk: Mounted) -> set[str]:
    """A version that serves, and what a dead attempt left; all of it."""
    disk.deploy(1)
    disk.put(3, b"a dead attempt's")
    return everything_below(disk.store.root, content=True)


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_told_and_changes_nothing(mounted: Mounted, verb: str) -> None:
    """Page by page more room, until it goes through: before, each time the place and the reason, all as it was and nothing left over."""
    before = _prepare(mounted)
    config = mounted.config()
    refused = 0
    mounted.leave(refused)
    while (told := _error(lambda: VERBS[verb](mounted))) is not None:
        assert FULL in told
        assert str(mounted.store.root) in told or str(mounted.store.work) in told
        assert everything_below(mounted.store.root, content=True) == before
        assert mounted.leftovers() == []
        assert mounted.store.servables(MODEL) == []
        mounted.free()
        refused += 1
        mounted.leave(refused)

    expected = {"release": 1, "go back": 1}.get(verb, len(LARGE) // PAGE + 1)
    assert refused >= expected
    assert (mounted.config() != config) == (verb in ("release", "go back"))
    assert mounted.store.damage(MODEL, 1) == []
    assert mounted.leftovers() == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_without_inodes_is_told_and_changes_nothing(mounted: Mounted, verb: str) -> None:
    """Not one file more fits: the place and the reason, all as it was; once there is room, the same call goes through."""
    before = _prepare(mounted)
    mounted.fill_inodes()

    _refused(lambda: VERBS[verb](mounted), FULL, str(mounted.mount))
    assert everything_below(mounted.store.root, content=True) == before
    assert mounted.leftovers() == []

    mounted.free()
    VERBS[verb](mounted)
    assert mounted.leftovers() == []


def test_a_full_disk_can_be_pruned(mounted: Mounted) -> None:
    """What is not kept goes, and makes room."""
    mounted.deploy(1, 2)
    mounted.put(3, LARGE, servable_id="third")
    mounted.fill()

    assert core.prune(mounted.store, MODEL, keep=0) == [1, 3]
    mounted.put(4, LARGE, servable_id="fourth")
    assert mounted.store.damage(MODEL, 4) == []


# --- a disk that may only be read


@pytest.fixture(params=["mounted read-only", "another user's"])
def readable(request: pytest.FixtureRequest) -> Iterator[tuple[Disk, str, Callable[[], contextlib.AbstractContextManager[None]]]]:
    """A repository, what the system says of a write to it, and a context in which it may only be read."""
    if request.param == "mounted read-only":
        disk = request.getfixturevalue("mounted")

        @contextlib.contextmanager
        def only_read() -> Iterator[None]:
            disk.remount("ro")
            try:
                yield
            finally:
                disk.remount("rw")

        yield disk, "Read-only file system", only_read
        return
    if os.geteuid():
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may be entered by its user only
        Path(folder).chmod(0o755)

        @contextlib.contextmanager
        def as_nobody() -> Iterator[None]:
            os.seteuid(NOBODY)
            try:
                yield
            finally:
                os.seteuid(0)

        yield Disk(Path(folder)), "Permission denied", as_nobody


def test_a_disk_that_may_only_be_read_is_told_and_can_be_read(
    readable: tuple[Disk, str, Callable[[], contextlib.AbstractContextManager[None]]],
) -> None:
    """Every verb that writes names the place and the reason, nothing changes; every verb that reads answers, fsck too."""
    disk, reason, only_read = readable
    disk.deploy(1, 2)
    before = everything_below(disk.store.root.parent, content=True)
    config = disk.store.read_config(MODEL)
    assert config is not None
    place = disk.store.version_place(MODEL, 1)
    items = disk.store.items(place, disk.store.manifest(MODEL, 1).files)  # type: ignore[union-attr]

    with only_read():
        for call in (
            lambda: disk.store.put(disk.store.version_place(MODEL, 3), items),
            lambda: disk.store.put(place, items, replace=True),
            lambda: disk.let_serve(1),
            lambda: disk.store.swap_config(MODEL, "x", expected=config.etag),
            lambda: disk.store.swap_config(MODEL, None, expected=config.etag),
            lambda: core.prune(disk.store, MODEL, keep=0),
            lambda: disk.store.remove(place),
        ):
            _refused(call, reason, str(disk.store.root.parent))
        assert [(each.version, each.role, each.problems) for each in core.fsck(disk.store)] == [(1, "kept", ()), (2, "serves", ())]
        fresh = LocalRepository(disk.store.root.parent / "others" / "models")
        _refused(fresh.prepare, reason, str(fresh.root))

    assert everything_below(disk.store.root.parent, content=True) == before
    assert disk.leftovers() == []
    disk.let_serve(1)
    assert core.releases(disk.store, MODEL)[-1].version == 1


def test_apply_to_a_disk_that_may_only_be_read_fails_in_one_line(mapping: Make, mounted: Mounted, triton: LocalTriton) -> None:
    """Exit code 1, and one line with the place and the reason; no warning of the clean-up hides it."""
    mounted.store.prepare()
    spec = mounted.folder / "blobs.json"
    spec.write_text(json.dumps(mapping(1, repository=str(mounted.store.root))))
    mounted.remount("ro")

    applied = shell("apply", spec, "--json")

    (row,) = json.loads(applied.stdout)
    assert applied.returncode == 1
    assert row["error"]["type"] == "RepositoryError"
    assert "Read-only file system" in row["error"]["message"]
    assert str(mounted.store.work) in row["error"]["message"]
    assert f"blobs: {row['error']['message']}" in applied.stderr.splitlines()


# --- a store that may only be read

READER = {"aws_access_key_id": "reader", "aws_secret_access_key": "secret-of-the-reader", "region_name": "us-east-1"}


class WithReader(SeaweedFS):
    """SeaweedFS with a second identity that may read and list, and nothing else."""

    def _command(self, ports: range) -> list[str]:
        def identity(name: str, key: str, secret: str, *actions: str) -> dict[str, Any]:
            return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

        everyone = [
            identity("owner", self.access_key, self.secret_key, "Admin", "Read", "Write", "List", "Tagging"),
            identity("reader", READER["aws_access_key_id"], READER["aws_secret_access_key"], "Read", "List"),
        ]
        (self.folder / "identities.json").write_text(json.dumps({"identities": everyone}))
        return [*super()._command(ports), f"-s3.config={self.folder / 'identities.json'}"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithReader]:
    """The server, with the bucket `models`."""
    with WithReader(tmp_path_factory.mktemp("shared")) as server:
        server.make_bucket("models")
        yield server


def _opened(server: WithReader, prefix: str, folder: Path, **credentials: str) -> InStore:
    address = StoreAddress.parse(server.url("models", prefix))
    return InStore(folder, address, connect(address, session=boto3.Session(**credentials), deadlines=Deadlines()))  # type: ignore[arg-type]


def test_a_store_that_may_only_be_read_says_what_was_refused(shared: WithReader, tmp_path: Path) -> None:
    """Which store, what was being done, and no secret; nothing changes. Every verb that reads answers, fsck too."""
    owner = _opened(
        shared,
        "read/models",
        tmp_path,
        aws_access_key_id=shared.access_key,
        aws_secret_access_key=shared.secret_key,
        region_name="us-east-1",
    )
    owner.store.check_exists()
    owner.deploy(1, 2)
    before = owner.stamps()
    reader = _opened(shared, "read/models", tmp_path, **READER)
    config = reader.store.read_config(MODEL)
    assert config is not None
    place = reader.store.version_place(MODEL, 3)
    lock = "lock `resnet`"

    reader.store.check_exists()
    for call, doing in (
        (lambda: reader.put(3), lock),
        (lambda: reader.let_serve(1), lock),
        (lambda: reader.store.swap_config(MODEL, None, expected=config.etag), lock),
        (lambda: core.prune(reader.store, MODEL, keep=0), lock),
        (lambda: reader.store.put(place, [], first={"note.json": "{}"}), f"write {reader.store.where(place)}/note.json"),
        (lambda: reader.store.remove(reader.store.version_place(MODEL, 1)), f"remove {reader.where(1)}"),
        (lambda: reader.store.swap_held(reader.store.config_place(MODEL), "x", expected=config.etag), f"write {reader.where()}"),
        (_opened(shared, "unknown/models", tmp_path, **READER).store.check_exists, "see whether it keeps the conditions of a write"),
    ):
        _refused(call, f"refuses our credentials ({doing})", shared.url("models"), "AccessDenied")

    assert [(each.version, each.role, each.problems) for each in core.fsck(reader.store)] == [(1, "kept", ()), (2, "serves", ())]
    assert owner.stamps() == before
    assert owner.leftovers() == []
    owner.let_serve(1)
