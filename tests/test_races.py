"""Eight processes promote different versions of one model at once, twice each: one order of events explains every outcome."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import RcloneS3
from stores.server import S3Server

from airflow_triton.repository import open_repository, releases
from airflow_triton.repository.object_store.repository import LOCK_FOLDER_VARIABLE, ObjectRepository

MODEL, PROCESSES, ROUNDS = "resnet", 8, 2

PROMOTER = """
import json, sys, time
from pathlib import Path
from airflow_triton import model_config
from airflow_triton.errors import ConflictError, DeployError
from airflow_triton.registry import ModelSource
from airflow_triton.repository import Manifest, Release, commit, digest_files, items_in, open_repository, releases, store_version
from airflow_triton.servable import Servable, TensorSpec

place, version, rounds, files, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5])
tensor = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
servable = Servable(backend="onnxruntime", default_model_filename="model.onnx", inputs=(tensor,), outputs=(tensor,),
                    batching=True, flavor="onnx", converter="as-is")
source = ModelSource(uri=f"models:/m/{version}", name="m", version=version, run_id=None, artifacts="file:///a", flavors=("onnx",),
                     has_input_example=False, digest="d")
config = model_config.render(model_config.build(servable, name="resnet"))
manifest = Manifest(servable_id=f"s{version}", source=source, servable=servable, files=digest_files(files), config=config)
store = open_repository(place)
store.make()
store.check_exists()
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
won, conflicts = [], 0
while len(won) < rounds:
    release = Release(id=f"{version}, time {len(won)}", version=version, servable_id=f"s{version}", how="promote", config=config)
    try:
        before = store.read_config("resnet")
        store_version(store, "resnet", version, items_in(files, manifest.files), manifest)
        commit(store, "resnet", release, expected=before)
    except ConflictError:
        conflicts += 1
    except DeployError as error:
        sys.exit(repr(error))
    else:
        won.append((release.id, [release.id for release in releases(store, "resnet", before)] if before else []))
print(json.dumps([conflicts, won]))
"""


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    """A real object store that ignores the conditions of a write."""
    with RcloneS3(tmp_path_factory.mktemp("rclone")) as server:
        server.make_bucket("models")
        yield server


@pytest.fixture(params=["disk", "store", "lock folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty repository: on disk, on a real object store, and on one without conditions, whose publishers share a lock folder."""
    if request.param == "disk":
        return str(tmp_path / "models")
    name = "rclone" if request.param == "lock folder" else "seaweed"
    server: S3Server = request.getfixturevalue(name)
    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)
    if request.param == "lock folder":
        monkeypatch.setenv(LOCK_FOLDER_VARIABLE, str(tmp_path / "locks"))
    return server.url("models", f"race-{uuid.uuid4().hex[:8]}")


@pytest.mark.timeout(180)
def test_eight_promote_at_once(place: str, tmp_path: Path) -> None:
    """Who wins saw exactly the releases before its own; who loses gets ConflictError and tries again, until it won twice; none is lost."""
    start = tmp_path / "start"
    promoters = []
    for version in range(1, PROCESSES + 1):
        files = tmp_path / f"files-{version}"
        files.mkdir()
        (files / "model.onnx").write_bytes(b"model %d" % version * 1000)
        command = [sys.executable, "-c", PROMOTER, place, str(version), str(ROUNDS), str(files), str(start)]
        promoters.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for promoter in promoters:
        assert promoter.stdout is not None
        assert promoter.stdout.readline() == "ready\n"
    start.touch()
    told = [promoter.communicate()[0] for promoter in promoters]
    assert [promoter.returncode for promoter in promoters] == [0] * PROCESSES
    conflicts, won = zip(*map(json.loads, told), strict=True)

    store = open_repository(place)
    assert not isinstance(store, ObjectRepository) or store.abilities.conditional_writes == (LOCK_FOLDER_VARIABLE not in os.environ)
    order = [release.id for release in releases(store, MODEL)]
    seen = {identity: before for each in won for identity, before in each}
    assert seen == {identity: order[:number] for number, identity in enumerate(order)}
    assert len(seen) == PROCESSES * ROUNDS
    assert sum(conflicts) > 0
    for version in range(1, PROCESSES + 1):
        assert store.damage(MODEL, version) == []
