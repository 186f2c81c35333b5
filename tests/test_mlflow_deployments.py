"""The `triton` target of `mlflow deployments`, from a shell and from Python: a real `mlflow server`, the real Triton."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import blobs, overwrite, register
from mlflow.deployments import PredictionsResponse, get_deploy_client
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.repository import LocalRepository, Repository, releases
from airflow_triton.repository.base import MODELS
from airflow_triton.server import ServerAddress, TritonClient
from mlflow_plugin import flavor

Shell = Callable[..., subprocess.CompletedProcess[str]]
EXAMPLES = {"INPUT0": [[1, 2], [3, 4]], "INPUT1": [[10, 20], [30, 40]]}


@pytest.fixture(scope="module", autouse=True)
def kept_conversions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Conversions are kept over the tests of this file: it is about what comes after them."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_TRITON_CACHE", str(tmp_path_factory.mktemp("conversions")))
        yield


@pytest.fixture
def environment(triton: LocalTriton, repository: Repository, mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The server, the repository and the registry, in the environment of this process and of those that it starts."""
    where = {"TRITON_URL": triton.grpc_url, "TRITON_MODEL_REPO": str(repository), "MLFLOW_TRACKING_URI": mlflow_server}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    return where


@pytest.fixture
def shell(environment: dict[str, str]) -> Shell:
    """Runs `mlflow deployments` in a process of its own; `here` in this one, which saves the seconds that MLflow takes to start."""

    def run(*arguments: str, here: bool = True) -> subprocess.CompletedProcess[str]:
        if here:
            done = CliRunner().invoke(commands, arguments)
            said = f"{done.stderr}{done.exception or ''}"
            return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, said)
        command = [sys.executable, "-m", "mlflow", "deployments", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    return run


@pytest.fixture
def client(environment: dict[str, str]) -> Any:
    """MLflow's client of the target."""
    return get_deploy_client("triton")


@pytest.fixture
def triton_client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as it:
        yield it


def sums() -> Any:
    """INPUT0 + INPUT1 and INPUT0 - INPUT1, as in the examples of NVIDIA's plugin."""
    import onnx
    from onnx import TensorProto, helper

    names = ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in names]
    nodes = [helper.make_node(kind, names[:2], [name]) for kind, name in (("Add", "OUTPUT0"), ("Sub", "OUTPUT1"))]
    graph = helper.make_graph(nodes, "sums", infos[:2], infos[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="module")
def examples(mlflow_server: str) -> None:
    """The registered model `sums`: two inputs and two outputs, with an input example."""
    example = {name: np.array(rows, np.float32) for name, rows in EXAMPLES.items()}
    register(mlflow_server, "sums", sums(), input_example=example, pip_requirements=["onnx"])  # they are not looked for, which takes long


@pytest.mark.timeout(600)
def test_every_command_from_a_shell(shell: Shell, repository: LocalRepository, holdout: Path, examples: None, tmp_path: Path) -> None:
    """create, a refused update, predict from a file of NVIDIA's plugin, get, list, delete; explain and create-endpoint say no."""
    rules = ["-C", f"validate.data={holdout}", "-C", "validate.metrics.accuracy.min=0.9", "-C", "config.max_batch_size=8"]

    made = shell("create", "-t", "triton", "--name", "blobs", "-m", "models:/blobs/1", *rules, here=False)
    assert (made.returncode, made.stdout.strip()) == (0, "onnx deployment blobs is created"), made.stderr
    assert "max_batch_size: 8" in repository.read_config("blobs").text

    refused = shell("update", "-t", "triton", "--name", "blobs", "-m", "models:/blobs/2", *rules)
    assert refused.returncode != 0
    assert "accuracy 0" in refused.stderr
    assert [release.version for release in releases(repository, "blobs")] == [1]
    assert (
        "Deployment blobs is updated (with flavor onnx)"
        in shell("update", "-t", "triton", "--name", "blobs", "-m", "models:/blobs/3").stdout
    )

    theirs = shell("create", "-t", "triton", "--flavor", "onnx", "--name", "sums", "-m", "models:/sums/1", "-C", "version=1")
    assert theirs.returncode == 0, theirs.stderr
    asked, answered = tmp_path / "input.json", tmp_path / "output.json"
    asked.write_text(json.dumps({"inputs": EXAMPLES}))
    predicted = shell("predict", "-t", "triton", "--name", "sums", "--input-path", str(asked), "--output-path", str(answered), here=False)
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(answered.read_text()) == {"outputs": {"OUTPUT0": [[11, 22], [33, 44]], "OUTPUT1": [[-9, -18], [-27, -36]]}}

    assert "state: READY" in shell("get", "-t", "triton", "--name", "sums").stdout
    assert "'blobs'" in shell("list", "-t", "triton").stdout
    assert shell("delete", "-t", "triton", "--name", "blobs", here=False).stdout.strip() == "Deployment blobs is deleted"
    assert repository.models() == ["sums"]
    assert "'live': True" in shell("list-endpoints", "-t", "triton").stdout
    assert "has no explanations" in shell("explain", "-t", "triton", "--name", "sums", "-I", str(asked)).stderr
    assert "is a Triton that runs already" in shell("delete-endpoint", "-t", "triton", "--endpoint", "e").stderr
    assert "triton:grpc://host:8001" in shell("help", "-t", "triton").stdout


def test_run_local_serves_until_it_is_stopped(environment: dict[str, str], tmp_path: Path) -> None:
    """One command: a Triton of its own with the model, which answers at the address that is printed; nothing is left at the end."""
    command = [sys.executable, "-m", "mlflow", "deployments", "run-local", "-t", "triton", "--name", "plus", "-m", "models:/plus/1"]
    port = free_port()
    own = {"TMPDIR": str(tmp_path), "TRITON_URL": "http://127.0.0.1:1", "TRITON_MODEL_REPO": "/nowhere"}
    with subprocess.Popen(
        [*command, "-C", f"http_port={port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **own}
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"`plus` is served at http://127.0.0.1:{port}/v2/models/plus"), process.communicate()[1]
        with TritonClient(ServerAddress.parse(f"http://127.0.0.1:{port}")) as client:
            answer = client.infer("plus", {"x": np.zeros((1, 2), np.float32)})
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert answer["y"].tolist() == [[1, 1]]
    assert list(tmp_path.glob("airflow-triton-local-*")) == []


def test_create_update_get_and_delete_from_python(client: Any, repository: Repository, triton_client: TritonClient, holdout: Path) -> None:
    """With the answers that MLflow documents; a second create changes nothing, a delete of what is gone is fine."""
    rules = {"validate.data": str(holdout), "validate.metrics.accuracy.min": 0.9, "promote.alias": "champion"}
    made = client.create_deployment("blobs", "models:/blobs/1", config=rules)
    assert made == {"name": "blobs", "flavor": "onnx", "version": 1, "action": "promoted", "warnings": []}
    assert client.create_deployment("blobs", "models:/blobs/1", config=rules)["action"] == "unchanged"
    assert client.update_deployment("blobs", "models:/blobs/3", config=rules)["version"] == 3

    found = client.get_deployment("blobs")
    expected = {"name": "blobs", "flavor": "onnx", "version": 3, "state": "READY", "mlflow_model_uri": "models:/blobs/3", "problems": []}
    assert {key: found[key] for key in expected} == expected
    (row,) = client.list_deployments()
    assert {key: row[key] for key in expected} == expected
    version = mlflow.MlflowClient().get_model_version("blobs", "3")
    assert version.tags["triton.blobs.state"] == "serving"
    assert version.tags["triton.blobs.server"] == str(triton_client.address)
    assert version.tags["triton.blobs.verdict"] == "passed"

    triton_client.unload("blobs")
    triton_client.wait_unloaded("blobs")
    assert client.list_deployments()[0]["state"] == "UNAVAILABLE"
    assert client.update_deployment("blobs", "models:/blobs/3", config=rules)["action"] == "loaded"

    client.delete_deployment("blobs")
    client.delete_deployment("blobs")
    assert client.list_deployments() == []
    assert not [key for key in mlflow.MlflowClient().get_model_version("blobs", "3").tags if key.startswith("triton.blobs.")]


@pytest.fixture(scope="module")
def table_model(mlflow_server: str) -> tuple[str, pd.DataFrame, np.ndarray]:
    """A scikit-learn classifier that was logged with a table: its registered name, rows with their columns, and their classes."""
    from sklearn.linear_model import LogisticRegression

    rows, labels = blobs(seed=2, rows=60)
    table = pd.DataFrame(rows, columns=["d", "b", "c", "a"])
    model = LogisticRegression().fit(table, labels)
    register(mlflow_server, "tables", model, flavor="sklearn", input_example=table[:3], pip_requirements=["scikit-learn"])
    return "tables", table, labels


def test_a_table_is_answered_in_the_shape_of_the_signature(
    client: Any, table_model: tuple[str, pd.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    """Columns in any order, more rows than the model takes at once, arrays, records, and MLflow's own files: one class for each row."""
    name, table, labels = table_model
    client.create_deployment(name, f"models:/{name}/1", config={"config.max_batch_size": 16})

    answer = client.predict(name, table[["a", "b", "c", "d"]])

    assert isinstance(answer, PredictionsResponse)
    assert (np.array(answer["predictions"]) == labels).mean() > 0.9
    assert isinstance(answer["predictions"][0], int)
    assert PredictionsResponse.from_json(answer.to_json()) == answer
    few = answer["predictions"][:3]
    (tmp_path / "split.json").write_text(json.dumps({"dataframe_split": table[:3].to_dict(orient="split")}))
    (tmp_path / "records.json").write_text(table[:3].to_json(orient="records"))
    ways = {
        "array": table[:3].to_numpy(),
        "lists": table[:3].to_numpy().tolist(),
        "records": table[:3].to_dict(orient="records"),
        "columns": {column: list(table[column][:3]) for column in table},
        "split": pd.read_json(tmp_path / "split.json"),
        "file": pd.read_json(tmp_path / "records.json"),
        "dtype": table[:3].astype(np.float64),
    }
    assert {way: client.predict(name, inputs)["predictions"] for way, inputs in ways.items()} == dict.fromkeys(ways, few)
    for wrong, why in {
        "a column less": (table[["a", "b", "c"]], "missing \\['d'\\]"),
        "a column more": (table.assign(e=1), "unexpected \\['e'\\]"),
        "text": (table.assign(a="x"), "text where FP32 is needed"),
        "nothing": (None, "NoneType is no question"),
        "ragged": ([[1, 2, 3, 4], [1]], "differ in length"),
    }.values():
        with pytest.raises(MlflowException, match=why):
            client.predict(name, wrong)


def test_tensors_are_asked_and_answered_by_name(client: Any, examples: None, environment: dict[str, str]) -> None:
    """A dictionary of arrays, a table with a column for each tensor, and the files of NVIDIA's plugin; also where MLflow is away."""
    client.create_deployment("sums", "models:/sums/1")
    arrays = {name: np.array(rows) for name, rows in EXAMPLES.items()}
    expected = {"OUTPUT0": [[11, 22], [33, 44]], "OUTPUT1": [[-9, -18], [-27, -36]]}
    assert client.predict("sums", arrays)["predictions"] == expected
    assert client.predict("sums", pd.DataFrame({name: list(rows) for name, rows in arrays.items()}))["predictions"] == expected

    theirs = client.predict("sums", pd.DataFrame({"inputs": EXAMPLES}))
    assert theirs["outputs"]["OUTPUT0"].dtype == np.float32
    assert json.loads(theirs.to_json()) == {"outputs": expected}

    assert client.predict(None, arrays, endpoint=environment["TRITON_URL"])["predictions"] == expected
    with pytest.raises(MlflowException, match="which takes `INPUT0` FP32"):
        client.predict("sums", np.zeros((1, 2)))
    with pytest.raises(MlflowException, match="unknown model: 'nope'"):
        client.predict("nope", arrays)


def test_endpoints_are_servers(client: Any, triton: LocalTriton, environment: dict[str, str]) -> None:
    """Listed with what they serve; one that is away is said to be; there is nothing to create, update or delete."""
    client.create_deployment("plus", "models:/plus/1")
    (found,) = client.list_endpoints()
    assert (found["name"], found["live"], found["models"]) == (triton.grpc_url, True, {"plus": [1]})
    assert client.get_endpoint(triton.http_url)["version"] == found["version"]
    assert [row["name"] for row in client.list_deployments(endpoint=triton.http_url)] == ["plus"]
    with pytest.raises(MlflowException, match="does not answer"):
        client.get_endpoint(f"grpc://127.0.0.1:{free_port()}")
    for call in (lambda: client.create_endpoint("e"), lambda: client.update_endpoint("e"), lambda: client.delete_endpoint("e")):
        with pytest.raises(MlflowException, match="is a Triton that runs already"):
            call()


def test_wrong_calls_are_mlflows_errors(client: Any, repository: Repository) -> None:
    """Each with what came and what is valid; nothing is deployed."""
    wrong: dict[str, Callable[[], Any]] = {
        "there is no deployment `nope`": lambda: client.get_deployment("nope"),
        "cannot be a model's name": lambda: client.get_deployment("../x"),
        "name": lambda: client.create_deployment("../x", "models:/plus/1"),
        "is not one of models:/plus/1's": lambda: client.create_deployment("plus", "models:/plus/1", flavor="pytorch"),
        "rtoll": lambda: client.create_deployment("plus", "models:/plus/1", config={"validate.parity.rtoll": "1"}),
        "said by --name": lambda: client.create_deployment("plus", "models:/plus/1", config={"name": "other"}),
        "is a value, not a section": lambda: client.create_deployment("plus", "models:/plus/1", config={"x": "1", "x.y": "1"}),
        "delete takes control_mode": lambda: client.delete_deployment("plus", config={"force": "true"}),
        "say which model": lambda: client.update_deployment("plus"),
        "no version of the model `plus` is in the stage": lambda: client.create_deployment("plus", "models:/plus/Production"),
        "one question has one answer": lambda: client.predict_stream("plus", {}),
        "connection": lambda: client.list_deployments(endpoint="no-such-connection"),
    }
    for told, call in wrong.items():
        with pytest.raises(MlflowException, match=re.escape(told)):
            call()
    assert repository.models() == []


@pytest.mark.parametrize("target", ["triton:/a/b", "tritons:/conn", "triton://host:8000/path?x=1"])
def test_wrong_target_is_refused(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A target URI that names no Triton is MLflow's error, with the valid forms."""
    monkeypatch.setenv("TRITON_MODEL_REPO", str(tmp_path))
    client: Any = get_deploy_client(target)

    with pytest.raises(MlflowException, match="valid are triton, triton://host:8000"):
        client.list_deployments()


def test_targets_of_every_form_reach_the_server(environment: dict[str, str], triton: LocalTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP, gRPC by its URL, a fleet, an Airflow connection, and TRITON_URL without a protocol, as NVIDIA's plugin takes it."""
    place = triton.http_url.removeprefix("http://")
    monkeypatch.setenv("AIRFLOW_CONN_TRITON_TESTS", json.dumps({"conn_type": "triton", "host": triton.grpc_url}))
    targets = {
        f"triton://{place}": [triton.http_url],
        f"triton:{triton.grpc_url}": [triton.grpc_url],
        f"triton:{triton.grpc_url},{triton.http_url}": [triton.grpc_url, triton.http_url],
        "triton:/triton_tests": [triton.grpc_url],
    }
    for target, servers in targets.items():
        found = get_deploy_client(target).list_endpoints()
        assert [(row["name"], row["live"]) for row in found] == [(server, True) for server in servers]
    monkeypatch.setenv("TRITON_URL", place)
    assert [row["name"] for row in get_deploy_client("triton").list_endpoints()] == [triton.http_url]


def deployed_by_the_plugin(store: Repository, name: str, uri: str, folder: Path) -> None:
    """What NVIDIA's plugin leaves of `mlflow deployments create --flavor onnx`; `folder` is for a download."""
    model = next(Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))).glob("*.onnx"))
    overwrite(store, MODELS / name / "1" / "model.onnx", model.read_bytes())
    overwrite(store, MODELS / name / "config.pbtxt", b'\nbackend: "onnxruntime"\ndefault_model_filename: "model.onnx"\n')
    meta = {"name": name, "triton_model_path": f"{store}/{name}", "mlflow_model_uri": uri, "flavor": "onnx"}
    overwrite(store, MODELS / name / "mlflow-meta.json", json.dumps(meta, indent=4).encode())


def test_the_plugins_own_commands_deploy_its_own_models(
    client: Any, triton_client: TritonClient, mlflow_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model without an input example, of either flavor, and a call that says nothing else: made-up rows are asked, and it says so."""
    ready = tmp_path / "ready"
    (ready / "1").mkdir(parents=True)
    (ready / "1" / "model.onnx").write_bytes(sums().SerializeToString())
    experiment = mlflow.MlflowClient().get_experiment_by_name("tests")
    assert experiment is not None
    with mlflow.start_run(experiment_id=experiment.experiment_id):
        flavor.log_model(ready, "model", "ready-sums")
    for name, kind, model in (("blobs", "onnx", "blobs"), ("ready", "triton", "ready-sums")):
        assert client.create_deployment(name, f"models:/{model}/1", flavor=kind)["action"] == "promoted"
        assert triton_client.ready_versions(name) == (1,)
        assert "is validated with made-up rows" in caplog.text
        caplog.clear()
    with pytest.raises(MlflowException, match="no input example"):
        client.create_deployment("more", "models:/blobs/1", config={"validate.latency.p99_ms": 1000})


def test_deployments_of_nvidias_plugin_are_listed_updated_and_deleted(
    client: Any, repository: Repository, triton_client: TritonClient, holdout: Path, tmp_path: Path
) -> None:
    """With the keys that its own list has; a model that nobody deployed through MLflow is none, and is never deleted."""
    for name in ("theirs", "others"):
        deployed_by_the_plugin(repository, name, "models:/blobs/1", tmp_path / name)
    overwrite(repository, MODELS / "by-hand" / "1" / "model.onnx", b"")
    overwrite(repository, MODELS / "by-hand" / "config.pbtxt", b'backend: "onnxruntime"\n')

    found = {row["name"]: row for row in client.list_deployments()}
    assert sorted(found) == ["others", "theirs"]
    assert {key: found["theirs"][key] for key in ("flavor", "mlflow_model_uri", "state", "version")} == {
        "flavor": "onnx",
        "mlflow_model_uri": "models:/blobs/1",
        "state": "UNAVAILABLE",
        "version": 1,
    }
    rules = {"validate.data": str(holdout), "validate.metrics.accuracy.min": 0.9}
    with pytest.raises(MlflowException, match="accuracy"):
        client.update_deployment("theirs", "models:/blobs/2", flavor="onnx", config=rules)
    assert client.update_deployment("theirs", "models:/blobs/3", flavor="onnx", config=rules)["version"] == 3
    assert triton_client.ready_versions("theirs") == (3,)
    assert [release.how for release in releases(repository, "theirs")] == ["adopt", "promote"]

    for name in ("others", "theirs"):
        client.delete_deployment(name)
    with pytest.raises(MlflowException, match="nor by NVIDIA's MLflow plugin"):
        client.delete_deployment("by-hand")
    assert repository.models() == ["by-hand"]
