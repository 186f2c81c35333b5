"""Eight processes promote different versions of one model at once: one order of events explains every outcome."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from stores.seaweed import SeaweedFS

from airflow_triton.repository import open_repository, releases

MODEL, PROCESSES = "resnet", 8

PROMOTER = """
import json, sys, time
from pathlib import Path
from airflow_triton import model_config
from airflow_triton.errors import DeployError
from airflow_triton.registry import ModelSource
from airflow_triton.repository import Manifest, Release, commit, digest_files, items_in, open_repository, releases, store_version
from airflow_triton.servable import Servable, TensorSpec

place, version, files, start = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
tensor = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
servable = Servable(backend="onnxruntime", default_model_filename="model.onnx", inputs=(tensor,), outputs=(tensor,),
                    batching=True, flavor="onnx", converter="as-is")
source = ModelSource(uri=f"models:/m/{version}", name="m", version=version, run_id=None, artifacts="file:///a", flavors=("onnx",),
                     has_input_example=False, digest="d")
config = model_config.render(model_config.build(servable, name="resnet"))
manifest = Manifest(servable_id=f"s{version}", source=source, servable=servable, files=digest_files(files), config=config)
release = Release(id=f"id{version}", version=version, servable_id=f"s{version}", how="promote", config=config)
store = open_repository(place)
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
try:
    before = store.read_config("resnet")
    store_version(store, "resnet", version, items_in(files, manifest.files), manifest)
    commit(store, "resnet", release, expected=before)
except DeployError as error:
    print(json.dumps(str(error)))
    sys.exit(error.exit_code)
print(json.dumps([release.version for release in releases(store, "resnet", before)] if before else []))
"""


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty repository, on disk and on a real object store."""
    if request.param == "disk":
        return str(tmp_path / "models")
    seaweed: SeaweedFS = request.getfixturevalue("seaweed")
    return seaweed.url("models", f"race-{uuid.uuid4().hex[:8]}")


@pytest.mark.timeout(180)
def test_eight_promote_at_once(place: str, tmp_path: Path) -> None:
    """Who wins saw exactly the releases before its own; who loses ends with exit code 4; every released version is whole."""
    start = tmp_path / "start"
    promoters = []
    for version in range(1, PROCESSES + 1):
        files = tmp_path / f"files-{version}"
        files.mkdir()
        (files / "model.onnx").write_bytes(b"model %d" % version * 1000)
        command = [sys.executable, "-c", PROMOTER, place, str(version), str(files), str(start)]
        promoters.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for promoter in promoters:
        assert promoter.stdout is not None
        assert promoter.stdout.readline() == "ready\n"
    start.touch()
    told = {version: promoter.communicate()[0] for version, promoter in enumerate(promoters, 1)}
    codes = {version: promoter.returncode for version, promoter in enumerate(promoters, 1)}

    store = open_repository(place)
    order = [release.version for release in releases(store, MODEL)]
    assert set(codes.values()) <= {0, 4}, told
    assert sorted(order) == [version for version, code in codes.items() if code == 0]
    assert order
    for number, version in enumerate(order):
        assert json.loads(told[version]) == order[:number]
        assert store.damage(MODEL, version) == []
