"""Real servers for the tests: one local Triton and one MLflow store for a whole run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept import disk, kept, seen_of_store  # noqa: F401 fixtures
from stores.seaweed import SeaweedFS

from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.repository import LocalRepository, Repository, open_repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.repository.object_store.repository import ABILITIES, MARKER
from airflow_triton.repository.places import Place

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ["AIRFLOW_TRITON_CACHE"] = "false"  # each test converts for itself; those of the cache name one
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # ten processes that no test needs
for _variable in ("TRITON_URL", "TRITON_MODEL_REPO", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
    os.environ.pop(_variable, None)

FEATURES = 4
CLASSES = 3
CENTRES = np.array([[0, 0, 0, 0], [2, 0, 2, 0], [0, 2, 0, 2]], dtype=np.float32)


@pytest.fixture(scope="session")
def triton_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """The real server in EXPLICIT mode, for the whole run, over a repository that each test finds empty.

    Without auto-completion a load takes 0.2 s instead of 1.5: our configs are complete.
    """
    folder = tmp_path_factory.mktemp("triton") / "models"
    with LocalTriton(folder, extra_args=["--disable-auto-complete-config"]) as server:
        yield server


@pytest.fixture(scope="session")
def triton(triton_on_disk: LocalTriton) -> LocalTriton:
    """The server of a test. A file of tests that also runs over an object store has another fixture of this name."""
    return triton_on_disk


@pytest.fixture
def repository(triton: LocalTriton) -> Iterator[Repository]:
    """The repository of `triton` (a LocalRepository, on disk), empty before and after; nothing is loaded."""
    yield from emptied(triton)


def emptied(triton: LocalTriton, store: Repository | None = None) -> Iterator[Repository]:
    """Its repository (or `store`: the same, opened otherwise), empty before and after.

    At the end the server is told to let go of everything; the next test waits until it has.
    """
    store = store or open_repository(str(triton.repository))
    _unload_all(triton, wait=True)
    _empty(store)
    yield store
    _unload_all(triton, wait=False)
    _empty(store)


def _unload_all(triton: LocalTriton, *, wait: bool) -> None:
    from airflow_triton.server import ServerAddress, TritonClient

    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        names = {row.name for row in client.index() if row.state}
        for name in names:
            client.unload(name)
        for name in names if wait else ():
            client.wait_unloaded(name)


def _empty(store: Repository) -> None:
    if isinstance(store, LocalRepository):
        for folder in store.root.iterdir():
            shutil.rmtree(folder)
        shutil.rmtree(store.work, ignore_errors=True)
        return
    for area in (MODELS, WORK):
        for name in store.folders(area):
            store.remove(area / name)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real object store with the bucket `models`, for the whole run. The environment lets everyone in."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        server.make_bucket("models")
        yield server


@pytest.fixture(scope="session")
def triton_on_store(seaweed: SeaweedFS) -> Iterator[LocalTriton]:
    """As `triton`, over a repository in the object store."""
    open_repository(seaweed.url("models", "served")).make()
    with LocalTriton(seaweed.url("models", "served"), extra_args=["--disable-auto-complete-config"]) as server:
        yield server


@pytest.fixture
def repository_on_store(triton_on_store: LocalTriton) -> Iterator[Repository]:
    """The repository of `triton_on_store`, empty before and after; nothing is loaded."""
    yield from emptied(triton_on_store)


def everything_in(store: Repository, place: Place, *, content: bool = False) -> set[str]:
    """Every file below a place of a repository; with `content`, with what changes when it is written again, and its digest.

    Left out is what is there for good: the locks' files of a disk, what is known of a store, and the marker of its repository.
    """
    found = {}
    for file in store.files(place):
        path = (place / file.path).path
        known = path.startswith("locks/") if isinstance(store, LocalRepository) else path in (ABILITIES.path, MARKER.path)
        if not known:
            found[file.path] = f" {_written(store, place / file.path)} {store.sha256(place / file.path)}" if content else ""
    return {path + rest for path, rest in found.items()}


def _written(store: Any, place: Place) -> str:
    if isinstance(store, LocalRepository):
        stat = store.path(place).stat()
        return f"{stat.st_ino} {stat.st_mtime_ns}"
    return str(store._connection.store.head(store.key(place))["last_modified"])


def overwrite(store: Any, place: Place, content: bytes) -> None:
    """Put a file into a repository, past it."""
    if isinstance(store, LocalRepository):
        path = store.path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may share its bytes with others
        path.write_bytes(content)
    else:
        store._connection.store.put(store.key(place), content)


def blobs(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three classes that are easy to tell apart: float32 [rows, 4], and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    return (CENTRES[labels] + random.normal(scale=0.3, size=(rows, FEATURES))).astype(np.float32), labels


def classifier(weights: np.ndarray) -> Any:
    """An ONNX model that answers the nearest of three centres: `input` [N, 4] to `label` [N] and `probabilities` [N, 3]."""
    import onnx
    from onnx import TensorProto, helper

    def info(name: str, kind: int, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel().tolist()),
        helper.make_tensor("b", TensorProto.FLOAT, [CLASSES], (-(weights**2).sum(axis=0) / 2).tolist()),
    ]
    nodes = [
        helper.make_node("Gemm", ["input", "w", "b"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [info("label", TensorProto.INT64, ["N"]), info("probabilities", TensorProto.FLOAT, ["N", CLASSES])]
    graph = helper.make_graph(nodes, "centres", [info("input", TensorProto.FLOAT, ["N", FEATURES])], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


REQUIREMENTS = {"pip_requirements": [f"{name}=={version(name)}" for name in ("mlflow", "onnx", "onnxruntime")]}
"""Of an ONNX model: MLflow would take five seconds to find them out."""


@contextmanager
def run_at(tracking_uri: str, *, experiment: str = "Default") -> Iterator[None]:
    """A run there, that MLflow's own functions log to; afterwards they know of neither the place nor the experiment."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    try:
        client = mlflow.MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        with mlflow.start_run(experiment_id=found.experiment_id if found else client.create_experiment(experiment)):
            yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def register(
    tracking_uri: str, name: str, model: Any, *, flavor: str = "onnx", change: Callable[[Path], Any] | None = None, **options: Any
) -> int:
    """Log a model and register it as the next version of `name`; `change` may do something to its folder in between."""
    import mlflow

    if flavor == "onnx":
        options = {**REQUIREMENTS, **options}
    with run_at(tracking_uri, experiment="tests"):
        positional = [] if model is None else [model]
        info = getattr(mlflow, flavor).log_model(*positional, name="model", **options)
        if change:
            place = mlflow.MlflowClient().get_logged_model(info.model_id).artifact_location
            change(Path(place.removeprefix("file://")))
        return int(mlflow.register_model(info.model_uri, name).version)


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real MLflow store (SQLite) with the registered model `blobs`: versions 1 and 3 are good, version 2 takes classes for others.

    The registered model `plus`: version 1 is y = x + 1 with an input example of three rows. (ONNX models: they are converted in a
    second; scikit-learn's are converted in the tests of the conversion and in the tour.)
    """
    import mlflow
    import onnx
    from onnx import TensorProto, helper

    home = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{home}/mlflow.db"
    mlflow.MlflowClient(uri).create_experiment("tests", artifact_location=(home / "artifacts").as_uri())
    for weights in (CENTRES, np.roll(CENTRES, 1, axis=0), CENTRES * np.float32(1.1)):
        register(uri, "blobs", classifier(weights.T))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "plus", [x], [y], [one])
    plus = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(plus)
    register(uri, "plus", plus, input_example={"x": np.ones((3, 2), np.float32)})
    return uri


@pytest.fixture(scope="session")
def mlflow_server(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` over the tests' store; answers its URL."""
    port = free_port()
    log = (tmp_path_factory.mktemp("mlflow-server") / "log").open("w")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri, "--port", str(port), "--workers", "1"]
    with subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while not _healthy(url):
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.2)
        yield url
        os.killpg(process.pid, signal.SIGKILL)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def holdout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for `blobs` that it did not learn from, with labels, as a table."""
    import pandas as pd

    rows, labels = blobs(seed=1, rows=90)
    table = pd.DataFrame(rows, columns=[f"x{number}" for number in range(FEATURES)])
    table["label"] = labels
    path = tmp_path_factory.mktemp("data") / "holdout.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def mapping(triton: LocalTriton, repository: Repository, tracking_uri: str, holdout: Path) -> Callable[..., dict[str, Any]]:
    """Makes the content of a spec that deploys a version of `blobs` to `triton`; keywords replace keys of it."""

    def make(version: int | str = 1, **keys: Any) -> dict[str, Any]:
        return {
            "name": "blobs",
            "model": f"models:/blobs/{version}",
            "repository": str(repository),
            "servers": [triton.grpc_url],
            "tracking_uri": tracking_uri,
            "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},  # Triton takes a second to unload each instance
            "validate": {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}},
            "promote": {"alias": "champion"},
            **keys,
        }

    return make
