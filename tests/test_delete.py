"""Deleting a deployment: everywhere, nothing beside it, and once more after a crash, against the real Triton and a real MLflow.

Over a repository on disk, and over one on a real object store, unless a test says that a disk is enough.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner, Result
from conftest import everything_in, overwrite
from crash.grounds import Disk, Ground, Store, Worker
from stores import Proxy

from airflow_triton.cli import main
from airflow_triton.errors import ConflictError, DeployError, RepositoryError, ServerError, ServerUnreachableError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, Repository, adopt, fsck, releases
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.repository.deletion import DELETIONS
from airflow_triton.rollout import Deleted, Deletion, delete, deploy, find_target, opened
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

SOAK = os.environ.get("AIRFLOW_TRITON_SOAK") == "1"
Make = Callable[..., dict[str, Any]]
disk_is_enough = pytest.mark.parametrize("triton", ["disk"], indirect=True)


@pytest.fixture(params=["disk", "store"])
def triton(request: pytest.FixtureRequest) -> LocalTriton:
    """The server of each test: it reads from a disk, or from an object store. `repository` and `mapping` follow."""
    server: LocalTriton = request.getfixturevalue(f"triton_on_{request.param}")
    return server


@pytest.fixture(autouse=True)
def kept_conversions(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions are kept over the tests of this file: it is about what comes after them."""
    monkeypatch.setenv("AIRFLOW_TRITON_CACHE", str(tmp_path_factory.getbasetemp() / "deleted-conversions"))


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as it:
        yield it


def run(mapping: dict[str, Any]) -> None:
    """Deploy what a spec says."""
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec)) as rollout:
        deploy(rollout)


def gone(mapping: dict[str, Any], name: str | None = None) -> Deleted:
    """Delete the model of a spec, or another one at the same place."""
    spec = spec_from_mapping(mapping)
    with find_target(spec).connected() as fleets:
        return delete(name or spec.name, fleets, Registry(spec.tracking_uri))


@pytest.fixture(autouse=True)
def nothing_told(tracking_uri: str) -> None:
    """MLflow says nothing of a deployment of `blobs` yet: other tests leave what they told it."""
    client = mlflow.MlflowClient(tracking_uri)
    for alias in client.get_registered_model("blobs").aliases:
        client.delete_registered_model_alias("blobs", alias)
    for each in client.search_model_versions("name='blobs'"):
        client.update_model_version("blobs", str(each.version), "")
        for key in each.tags:
            client.delete_model_version_tag("blobs", str(each.version), key)


def told(tracking_uri: str, prefix: str, model: str = "blobs") -> dict[str, Any]:
    """What MLflow says of a deployment on any version: its tags, its lines in descriptions; and the aliases of the model."""
    client = mlflow.MlflowClient(tracking_uri)
    versions = list(client.search_model_versions(f"name='{model}'"))
    return {
        "tags": sorted(key for each in versions for key in each.tags if key.startswith(prefix)),
        "lines": [each.description for each in versions if each.description],
        "aliases": {alias: int(version) for alias, version in client.get_registered_model(model).aliases.items()},
    }


def test_nothing_is_left_of_it(make: Make, client: TritonClient, repository: Repository, tracking_uri: str) -> None:
    """Two versions, then no version: not on the server, not in the repository, not in its work area, and not in what MLflow says."""
    run(make(1))
    run(make(3))
    before = told(tracking_uri, "triton.blobs.")
    assert before["aliases"] == {"champion": 3}
    assert before["lines"] == [f"NVIDIA Triton: `blobs` serves version 3 on {client.address}"]

    outcome = gone(make(3))

    assert (outcome.action, outcome.versions, outcome.warnings) == ("deleted", (1, 3), ())
    assert client.ready_versions("blobs") == ()
    assert everything_in(repository, MODELS) == everything_in(repository, WORK) == set()
    assert told(tracking_uri, "triton.blobs.") == {"tags": [], "lines": [], "aliases": {}}
    assert gone(make(3)).action == "absent"
    run(make(1))  # and it can come back
    assert client.ready_versions("blobs") == (1,)


def test_a_longer_name_is_another_model(make: Make, client: TritonClient, repository: Repository, tracking_uri: str) -> None:
    """Deleting `resnet` leaves `resnet50` and `resnet.v2` serving, with every file, tag and line, and the alias that they share."""
    for name in ("resnet", "resnet50", "resnet.v2"):
        run(make(1, name=name))
    kept = {path for path in everything_in(repository, MODELS, content=True) if not path.startswith("resnet/")}

    gone(make(1), "resnet")

    assert everything_in(repository, MODELS, content=True) == kept
    assert [client.ready_versions(name) for name in ("resnet", "resnet50", "resnet.v2")] == [(), (1,), (1,)]
    after = told(tracking_uri, "triton.resnet")
    assert {key.rpartition(".")[0] for key in after["tags"]} == {"triton.resnet50", "triton.resnet.v2"}
    assert after["aliases"] == {"champion": 1}
    assert "`resnet` " not in after["lines"][0]
    assert "`resnet50` " in after["lines"][0]
    for name in ("resnet50", "resnet.v2"):
        gone(make(1), name)
    assert told(tracking_uri, "triton.resnet") == {"tags": [], "lines": [], "aliases": {}}


def test_what_others_wrote_in_mlflow_stays(make: Make, tracking_uri: str, repository: Repository) -> None:
    """A description, a tag and an alias that a person set are there after a deployment and after its deletion."""
    client = mlflow.MlflowClient(tracking_uri)
    client.update_model_version("blobs", "1", "Trained by Ada.\nOn Tuesday.")
    client.set_model_version_tag("blobs", "1", "team", "a")
    try:
        run(make(1))
        assert client.get_model_version("blobs", "1").description.startswith("Trained by Ada.\nOn Tuesday.\nNVIDIA Triton: `blobs` serves")
        client.set_registered_model_alias("blobs", "champion", "2")  # someone moved it: it is theirs now
        gone(make(1))
        version = client.get_model_version("blobs", "1")
        assert (version.description, version.tags) == ("Trained by Ada.\nOn Tuesday.", {"team": "a"})
        assert told(tracking_uri, "triton.blobs.")["aliases"] == {"champion": 2}
    finally:
        client.delete_registered_model_alias("blobs", "champion")
        client.update_model_version("blobs", "1", "")
        client.delete_model_version_tag("blobs", "1", "team")


def foreign_model(store: Repository, name: str, *, meta: dict[str, Any] | None = None) -> None:
    """A model that others put there; with `meta`, NVIDIA's MLflow plugin."""
    from conftest import CENTRES, classifier

    overwrite(store, MODELS / name / "1" / "model.onnx", classifier(CENTRES.T).SerializeToString())
    overwrite(
        store,
        MODELS / name / "config.pbtxt",
        b'backend: "onnxruntime"\nmax_batch_size: 8\ninput { name: "input" data_type: TYPE_FP32 dims: 4 }\n'
        b'output { name: "label" data_type: TYPE_INT64 dims: 1 reshape {} }\n'
        b'output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }\n'
        b"instance_group { count: 1 kind: KIND_CPU }\n",
    )
    if meta is not None:
        overwrite(store, MODELS / name / "mlflow-meta.json", json.dumps(meta).encode())


def test_a_foreign_model_is_refused_and_the_plugins_own_is_deleted(make: Make, client: TritonClient, repository: Repository) -> None:
    """What a person put there stays and serves; what NVIDIA's plugin deployed goes, all of it."""
    foreign_model(repository, "by-hand")
    foreign_model(repository, "theirs", meta={"name": "theirs", "mlflow_model_uri": "models:/blobs/1", "flavor": "onnx"})
    for name in ("by-hand", "theirs"):
        client.load(name)
        client.wait_ready(name, 1)
    kept = {path for path in everything_in(repository, MODELS, content=True) if path.startswith("by-hand/")}

    with pytest.raises(RepositoryError, match="was not published by airflow-provider-triton, nor by NVIDIA's"):
        gone(make(), "by-hand")
    assert gone(make(), "theirs").action == "deleted"

    assert everything_in(repository, MODELS, content=True) == kept
    assert everything_in(repository, WORK) == set()
    assert (client.ready_versions("by-hand"), client.ready_versions("theirs")) == ((1,), ())


@disk_is_enough
def test_an_adopted_model_goes_with_its_older_versions(make: Make, client: TritonClient, repository: LocalRepository) -> None:
    """What `look` says before is what goes: also versions that airflow-provider-triton did not put there."""
    foreign_model(repository, "old")
    overwrite(repository, MODELS / "old" / "0", b"")
    (repository.root / "old" / "0").unlink()
    overwrite(repository, MODELS / "old" / "2" / "model.onnx", (repository.root / "old" / "1" / "model.onnx").read_bytes())
    adopt(repository, "old")
    with find_target(spec_from_mapping(make())).connected() as fleets:
        doomed = Deletion("old", fleets, Registry(make()["tracking_uri"]))
        (line,) = doomed.look()
        assert "versions 1, 2, of which 2 serves; with 1, which airflow-provider-triton did not put there" in line
        doomed.carry_out()
    assert not (repository.root / "old").exists()


@disk_is_enough
def test_a_step_of_an_ensemble_is_refused(make: Make, client: TritonClient, repository: LocalRepository) -> None:
    """The ensemble could not answer without it; a model whose name only starts alike is no step."""
    run(make(1))
    step = 'ensemble_scheduling { step { model_name: "blobs" model_version: -1 input_map { key: "input" value: "x" } } }'
    overwrite(repository, MODELS / "both" / "config.pbtxt", f'platform: "ensemble"\n{step}\n'.encode())
    overwrite(repository, MODELS / "broken" / "config.pbtxt", b"ensemble_scheduling { blobs")
    with pytest.raises(RepositoryError, match="is a step of the ensemble `both`"):
        gone(make())
    assert client.ready_versions("blobs") == (1,)


def test_what_unfinished_attempts_left_goes_too(make: Make, client: TritonClient, repository: Repository) -> None:
    """A staged candidate, its converted files, and nothing that serves: deleted as well."""
    spec = spec_from_mapping(make(1))
    with opened(spec, find_target(spec)) as rollout:
        candidate = rollout.stage(converted := rollout.convert(rollout.resolve()), rollout.configure(converted))
    assert client.is_ready(candidate.name)

    assert gone(make(1)).action == "deleted"

    assert not client.is_ready(candidate.name)
    assert everything_in(repository, MODELS) == everything_in(repository, WORK) == set()


@pytest.fixture
def ground(triton: LocalTriton, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """The repository, and a process whose children are killed."""
    (tmp_path / "killed").mkdir()
    if str(triton.repository).startswith("s3:/"):
        seaweed = request.getfixturevalue("seaweed")
        with Proxy(seaweed.endpoint) as proxy, Worker(tmp_path / "killed", seaweed.environment_at(proxy.endpoint)) as worker:
            yield Store(triton, seaweed, proxy, worker, tmp_path)
    else:
        with Worker(tmp_path / "killed") as worker:
            yield Disk(triton, worker, tmp_path)


def test_killed_anywhere_the_next_deletion_finishes(
    make: Make, client: TritonClient, repository: Repository, tracking_uri: str, ground: Ground
) -> None:
    """SIGKILL between any two changes, a sample of them: before the first file goes the model is whole, and in the end nothing is left."""
    mapping = make(1, **({"repository": "s3://models/served"} if isinstance(ground, Store) else {}))
    run(make(1))
    whole, snapshot = everything_in(repository, MODELS), ground.copied()
    job = {"spec": mapping, "phase": "delete", "arguments": {}}
    code, points = ground.record(job)
    assert (code, everything_in(repository, MODELS)) == (0, set())
    killed, tagged = 0, told(tracking_uri, "triton.blobs.")
    for point in points if SOAK else points[:: max(1, len(points) // 6)]:
        ground.restore(snapshot)
        client.load("blobs")
        if ground.kill(job, point)[0] != -signal.SIGKILL:
            continue  # it sent one request less than when it was recorded
        killed += 1
        begun = [each.removed_by for each in fsck(repository) if each.role == "deletion"] == ["airflow-triton delete blobs"]
        assert begun or everything_in(repository, MODELS) in (whole, set()), point

        gone(make())

        assert client.ready_versions("blobs") == ()
        assert everything_in(repository, MODELS) == set(), point
        assert {path for path in everything_in(repository, WORK) if not path.startswith("staging/")} == set(), point
        assert told(tracking_uri, "triton.blobs.") == tagged
    assert killed >= 5
    assert tagged == {"tags": [], "lines": [], "aliases": {}}


def test_a_release_in_between_is_a_conflict_and_serves(make: Make, client: TritonClient, repository: Repository) -> None:
    """Someone else released after the look: theirs stays, with every file, and every server serves it."""
    run(make(1))
    with find_target(spec_from_mapping(make())).connected() as fleets:
        doomed = Deletion("blobs", fleets, Registry(make()["tracking_uri"]))
        doomed.look()
        run(make(3))
        with pytest.raises(ConflictError, match="theirs serves, nothing was deleted"):
            doomed.carry_out()
    assert releases(repository, "blobs")[-1].version == 3
    assert client.ready_versions("blobs") == (3,)
    assert repository.folders(DELETIONS) == []


@disk_is_enough
def test_a_server_that_does_not_answer_stops_it_before_anything_changed(make: Make, client: TritonClient, repository: Repository) -> None:
    """It would go on serving what is not there any more."""
    run(make(1))
    before = everything_in(repository, MODELS, content=True)
    with pytest.raises(ServerUnreachableError):
        gone(make(1, servers=[make()["servers"][0], f"grpc://127.0.0.1:{free_port()}"]))
    assert everything_in(repository, MODELS, content=True) == before
    assert client.ready_versions("blobs") == (1,)


@disk_is_enough
def test_a_server_that_does_not_let_go_brings_the_others_back(
    make: Make, client: TritonClient, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first file goes, what served serves."""
    run(make(1))
    spec = spec_from_mapping(make())
    with find_target(spec).connected() as fleets:
        doomed = Deletion("blobs", fleets, Registry(spec.tracking_uri))
        doomed.look()
        monkeypatch.setattr(TritonClient, "wait_unloaded", lambda *_, **__: (_ for _ in ()).throw(ServerError("it is still loaded")))
        with pytest.raises(ServerError, match="was not deleted: it is still loaded; what served before serves again"):
            doomed.carry_out()
    client.wait_ready("blobs", 1)
    assert repository.folders(DELETIONS) == []


@disk_is_enough
def test_mlflow_need_not_answer(make: Make, client: TritonClient, repository: Repository, tracking_uri: str, tmp_path: Path) -> None:
    """The model goes, a warning says that MLflow was not told, and the next deletion tells it."""
    run(make(1))
    outcome = gone(make(1, tracking_uri=f"sqlite:///{tmp_path}/none.db"))
    assert "there is no MLflow store" in outcome.warnings[0]
    assert client.ready_versions("blobs") == ()
    assert told(tracking_uri, "triton.blobs.")["aliases"] == {"champion": 1}

    assert gone(make(1)).warnings == ()
    assert told(tracking_uri, "triton.blobs.") == {"tags": [], "lines": [], "aliases": {}}


@disk_is_enough
def test_the_command_asks(
    make: Make, client: TritonClient, repository: Repository, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal it wants --yes; with it, it does it, once; the data is on stdout."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    run(make(1))

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["delete", "blobs", "--repository", str(repository), "--server", make()["servers"][0], *arguments])

    asked = command()
    assert (asked.exit_code, client.ready_versions("blobs")) == (2, (1,))
    assert "say --yes" in asked.stderr
    done = command("--yes", "--json")
    assert json.loads(done.stdout) == {"name": "blobs", "action": "deleted", "versions": [1], "warnings": []}
    assert "nothing of it is there" in command().stdout


@disk_is_enough
@pytest.mark.parametrize("name", ["../escape", "a/b", "..", ".hidden", ""])
def test_a_name_that_is_no_name_reaches_no_path(name: str, make: Make, repository: LocalRepository) -> None:
    """It is refused before anything is read or removed."""
    (repository.root.parent / "escape").mkdir(exist_ok=True)
    with pytest.raises(DeployError, match="cannot be a model's name"):
        gone(make(), name or " ")
    assert (repository.root.parent / "escape").is_dir()


@pytest.fixture
def make(mapping: Make) -> Make:
    """Makes the content of a spec that deploys a version of `blobs`."""
    return mapping
