"""The model repository on a disk: access modes, folders that appear whole, many processes at once, and processes that are killed."""

from __future__ import annotations

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
from kept import MODEL, Disk, message_of

from airflow_triton import model_config
from airflow_triton import repository as core
from airflow_triton.errors import RepositoryError
from airflow_triton.repository import LocalRepository

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
            assert str(root) in message_of(call, RepositoryError)


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
        assert str(disk.store.root / MODEL) in message_of(call, RepositoryError)
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


def test_an_empty_folder_that_a_dead_attempt_left_goes(disk: Disk) -> None:
    """Killed between the removal of the last thing in a model's folder and that of the folder: the next removal takes it."""
    place = disk.store.servable_place(MODEL, "abc")
    disk.store.path(place).parent.mkdir(parents=True)

    disk.store.remove(place)

    assert not disk.store.path(place).parent.exists()


PRELUDE = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import kept
from airflow_triton.errors import ConflictError
disk = kept.Disk(Path(sys.argv[1]))
"""


def _child(body: str, *args: str) -> subprocess.Popen[str]:
    """A process that runs `body` with the helpers of kept.py and `disk`, the repository below its first argument."""
    code = PRELUDE.format(here=str(Path(__file__).parent)) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


RACER = """
expected = disk.store.read_config("resnet")
print("ready", flush=True)
sys.stdin.readline()
try:
    kept.core.commit(disk.store, "resnet", kept.release_of(int(sys.argv[2])), expected=expected)
    print("won")
except ConflictError:
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
    kept.core.prune(disk.store, "resnet", keep=2)
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
