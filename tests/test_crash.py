"""Killed anywhere, what served serves on, and the same deployment once more leaves nothing over."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CENTRES, classifier, register
from crash import report
from crash.campaign import Campaign
from crash.grounds import Disk, Store, Worker
from crash.records import Phase, Row, sample
from stores import Proxy
from stores.seaweed import SeaweedFS

from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository, open_repository
from airflow_triton.repository.object_store import probe

SOAK = os.environ.get("AIRFLOW_TRITON_SOAK") == "1"
SEED = 20
PART = 5 << 20
"""The smallest part of an upload that S3 takes."""
Make = Callable[..., dict[str, Any]]
Scenario = Callable[[Campaign], list[Phase]]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The process whose children are killed."""
    with Worker(tmp_path_factory.mktemp("killed")) as it:
        yield it


@pytest.fixture(scope="module")
def proxy(seaweed: SeaweedFS) -> Iterator[Proxy]:
    """The way to the store by which the killed go."""
    with Proxy(seaweed.endpoint) as it:
        yield it


@pytest.fixture(scope="module")
def store_worker(seaweed: SeaweedFS, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The process whose children are killed, and reach the store by way of the proxy."""
    with Worker(tmp_path_factory.mktemp("killed"), seaweed.environment_at(proxy.endpoint)) as it:
        yield it


@pytest.fixture
def disk(triton: LocalTriton, mapping: Make, worker: Worker, tmp_path: Path) -> Iterator[Campaign]:
    """A crash campaign over the server of the tests."""
    with Campaign(Disk(triton, worker, tmp_path), mapping) as it:
        yield it


@pytest.fixture
def make_on_store(mapping: Make, triton_on_store: LocalTriton) -> Make:
    """Makes specs as `mapping`, for the server that reads from the store."""
    return lambda *args, **keys: mapping(*args, **{"repository": "s3://models/served", "servers": [triton_on_store.grpc_url], **keys})


@pytest.fixture
def store_ground(triton_on_store: LocalTriton, seaweed: SeaweedFS, proxy: Proxy, store_worker: Worker, tmp_path: Path) -> Store:
    """The object store."""
    return Store(triton_on_store, seaweed, proxy, store_worker, tmp_path)


@pytest.fixture
def store(make_on_store: Make, store_ground: Store) -> Iterator[Campaign]:
    """A crash campaign over the server that reads from the store."""
    with Campaign(store_ground, make_on_store) as it:
        yield it


@pytest.fixture(scope="module")
def large_models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store as that of the tests, but that version 3 of `blobs` is larger than two parts of an upload."""
    import mlflow

    home = tmp_path_factory.mktemp("mlflow-large")
    uri = f"sqlite:///{home}/mlflow.db"
    mlflow.MlflowClient(uri).create_experiment("tests", artifact_location=(home / "artifacts").as_uri())
    for weights, more in ((CENTRES, 0), (np.roll(CENTRES, 1, axis=0), 0), (CENTRES * np.float32(1.1), 2 * PART + (1 << 20))):
        model = classifier(weights.T)
        model.doc_string = "x" * more
        register(uri, "blobs", model)
    return uri


@pytest.fixture
def large(make_on_store: Make, store_ground: Store, large_models: str) -> Iterator[Campaign]:
    """As `store`, with a model that is sent and copied in parts."""
    with Campaign(store_ground, lambda *args, **keys: make_on_store(*args, tracking_uri=large_models, **keys), parts=PART) as it:
        yield it


def _sample(campaign: Campaign, scenario: Scenario, phases: dict[str, int]) -> list[str]:
    """Kill at some points of those phases, each every so many; the problems."""
    problems = []
    for phase in scenario(campaign):
        if phase.name in phases:
            row = Row(str(phase), campaign.record(phase))
            for point in sample(row.points, every=phases[phase.name], seed=SEED):
                campaign.kill(phase, point, row, restart=False)
            problems += row.problems
    return problems


@pytest.mark.skipif(SOAK, reason="the soak kills at all points")
@pytest.mark.parametrize(
    ("scenario", "phases"),
    [
        (Campaign.new_version, {"stage": 20, "promote": 20, "clean up": 20}),
        (Campaign.config_change, {"promote": 99}),
        (Campaign.roll_back, {"rollback": 99}),
    ],
)
def test_killed_anywhere_it_serves_and_converges(disk: Campaign, scenario: Scenario, phases: dict[str, int]) -> None:
    """A sample of the kill points: before and after a folder or config.pbtxt takes its place, and every so many of the others."""
    assert _sample(disk, scenario, phases) == []


@pytest.mark.skipif(SOAK, reason="the soak kills at all points")
def test_killed_at_any_request_it_serves_and_converges(store: Campaign) -> None:
    """The same on an object store: before and after the request that writes config.pbtxt, and every so many of the others."""
    assert _sample(store, Campaign.new_version, {"stage": 99, "promote": 24, "clean up": 24}) == []


@pytest.mark.skipif(SOAK, reason="the soak kills at all points")
def test_killed_in_the_middle_of_an_upload_nothing_of_it_is_left(large: Campaign) -> None:
    """A file that goes in parts, sent and copied within the store: killed after its first part, and before the parts become one."""
    problems = []
    for phase in large.large_model():
        if phase.name in ("convert", "promote"):
            row = Row(str(phase), large.record(phase))
            for event, what in (("after", "?partNumber"), ("before", "?uploadId")):
                point = next(each for each in row.points if each.event == event and each.site.split()[1] == what)
                large.kill(phase, point, row, restart=False)
            problems += row.problems
    assert problems == []


ASKER = """
from airflow_triton.repository import open_repository
from stores.proxy import arm
arm(sys.argv[1], at=int(sys.argv[2]), when="after")
open_repository("s3://models/asked-by-the-dead").check_exists()
"""


@pytest.mark.parametrize("at", [3, 9])
def test_what_a_killed_probe_leaves_goes_with_the_next(
    seaweed: SeaweedFS, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, *, at: int
) -> None:
    """Objects of a dead process of this machine go at once, those of others only when they are old."""
    work, s3 = ".asked-by-the-dead.airflow-triton/", seaweed.client()
    other = f"{work}probe/0123.{base64.urlsafe_b64encode(b'boot/pid:[1]/1/1').decode()}"

    def left() -> set[str]:
        return {row["Key"] for row in s3.list_objects_v2(Bucket="models", Prefix=f"{work}probe/").get("Contents", [])}

    def ask() -> None:
        s3.delete_object(Bucket="models", Key=f"{work}store.json")
        open_repository("s3://models/asked-by-the-dead").check_exists()

    with _process(ASKER, proxy.endpoint, str(at), environment=seaweed.environment_at(proxy.endpoint)) as dead:
        assert dead.wait() == -signal.SIGKILL
    proxy.wait_idle()
    assert left()
    s3.put_object(Bucket="models", Key=other, Body=b"")

    ask()
    assert left() == {other}

    monkeypatch.setattr(probe, "_LONG", timedelta(seconds=-1))
    ask()
    assert left() == set()


def _soak(campaign: Campaign, scenarios: Sequence[Scenario], modes: Sequence[bool | None], told: pytest.CaptureFixture[str]) -> list[Row]:
    """Every kill point of every phase, once for each mode: the server runs on, has restarted, or (None) the one and the other in turns."""
    rows = []
    for scenario in scenarios:
        for phase in scenario(campaign):
            points = campaign.record(phase)
            rows.append(row := Row(str(phase), points))
            for mode in modes:
                for number, point in enumerate(points, 1):
                    known = len(row.problems)
                    campaign.kill(phase, point, row, restart=number % 2 == 0 if mode is None else mode)
                    with told.disabled():
                        sys.stdout.write("".join(f"{problem}\n" for problem in row.problems[known:]))
                    if number % 10 == 0 or number == len(points):
                        how = {True: "restarted", False: "ran on", None: "ran on or restarted"}[mode]
                        with told.disabled():
                            sys.stdout.write(f"{campaign.ground.name}, {phase}, server {how}: {number} of {len(points)} killed, ")
                            sys.stdout.write(f"{len(row.problems)} problems, {row.seconds:.0f} s\n")
                            sys.stdout.flush()
    return rows


def _judge(rows: list[Row]) -> None:
    assert [problem for row in rows for problem in row.problems] == []
    assert {row.phase: row.sites_missed for row in rows if row.sites_missed} == {}


SCENARIOS = (Campaign.new_version, Campaign.first_deployment, Campaign.config_change, Campaign.roll_back)


@pytest.mark.skipif(not SOAK, reason="takes half an hour: make soak")
@pytest.mark.timeout(7200)
def test_soak_disk(disk: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    """On disk, with a server that runs on and with one that restarts; writes its part of docs/soak.md."""
    rows = _soak(disk, SCENARIOS, (False, True), capsys)
    report.write("disk", rows)
    _judge(rows)


@pytest.mark.skipif(not SOAK, reason="takes more than half an hour: make soak")
@pytest.mark.timeout(7200)
def test_soak_store(store: Campaign, large: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    """On an object store, with a server that runs on and one that restarts in turns; writes its part of docs/soak.md."""
    rows = _soak(store, SCENARIOS, (None,), capsys) + _soak(large, (Campaign.large_model,), (None,), capsys)
    report.write("store", rows)
    _judge(rows)


HOLDER = """
from airflow_triton.repository import LocalRepository
store = LocalRepository(sys.argv[1])
with store.new_staging() as folder:
    (folder / "file").write_text("mine")
    print(folder, flush=True)
    sys.stdin.read()
"""


def _process(code: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "import sys\n" + textwrap.dedent(code), *arguments]
    found = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **(environment or {})}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=found)


def test_only_the_dead_lose_their_staging(tmp_path: Path) -> None:
    """A staging folder stays as long as the process lives that made it, and goes with the next one that is made afterwards."""
    store = LocalRepository(tmp_path / "models")
    with _process(HOLDER, str(store.root)) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        with store.new_staging() as mine, store.new_staging() as other:
            assert (held / "file").read_text() == "mine"
            assert mine.is_dir()
            assert other.is_dir()

        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert held.is_dir()
        store.remove(store.model_place("nothing"))

    assert list((store.work / "staging").iterdir()) == []


HAMMER = """
from airflow_triton.repository import LocalRepository
store = LocalRepository(sys.argv[1])
for number in range(200):
    with store.new_staging() as folder:
        (folder / "file").write_text(str(number))
        (folder / "folder").mkdir()
        assert (folder / "file").read_text() == str(number)
        (folder / "folder").rmdir()
        (folder / "file").unlink()
"""


def test_many_stage_at_once(tmp_path: Path) -> None:
    """Four processes that make and remove staging folders without pause never take one from another, and leave none."""
    store = LocalRepository(tmp_path / "models")
    store.prepare()
    hammers = [_process(HAMMER, str(store.root)) for _ in range(4)]

    assert [hammer.wait() for hammer in hammers] == [0, 0, 0, 0]
    assert list((store.work / "staging").iterdir()) == []
