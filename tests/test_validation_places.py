"""Where data lies: on a real object store, among the artifacts and datasets of a real MLflow, behind a URL; and a rollout with them."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import CENTRES, blobs, classifier, register
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import register_dataset_source
from stores.seaweed import SeaweedFS
from test_rollout import run, seen

from airflow_triton.errors import (
    DeployError,
    RegistryError,
    RejectedError,
    RepositoryError,
    SpecError,
    ValidationDataError,
)
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping
from airflow_triton.validation import Places


class Lake:
    """Airflow's connections, of which there is one: `data_lake`, to the object store."""

    def __init__(self, store: SeaweedFS) -> None:
        self.store = store

    def server(self, conn_id: str) -> ServerAddress:
        """None is asked for: the servers are URLs."""
        raise KeyError(conn_id)

    def session(self, conn_id: str) -> tuple[boto3.Session, str | None]:
        """A session of its own, and the endpoint."""
        assert conn_id == "data_lake"
        keys = {"aws_access_key_id": self.store.access_key, "aws_secret_access_key": self.store.secret_key}
        return boto3.Session(**keys, region_name="us-east-1"), self.store.endpoint


@pytest.fixture(scope="module")
def stored(seaweed: SeaweedFS, holdout: Path) -> str:
    """The holdout on the object store."""
    seaweed.client().upload_file(str(holdout), "models", "data/holdout.csv")
    return seaweed.url("models", "data/holdout.csv")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, holdout: Path) -> Iterator[str]:
    """A web server that has the holdout."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(holdout.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _answered(rows: np.ndarray, wrong: int = 0) -> list[dict[str, Any]]:
    """Requests with the classes that the model answers, the first `wrong` of them wrong."""
    labels = np.argmin(((rows[:, None] - CENTRES[None]) ** 2).sum(axis=2), axis=1)
    labels[:wrong] = (labels[:wrong] + 1) % len(CENTRES)
    return [
        {
            "request": {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": row.tolist()}]},
            "response": {"outputs": [{"name": "label", "shape": [1], "datatype": "INT64", "data": [int(label)]}]},
        }
        for row, label in zip(rows, labels, strict=True)
    ]


class Frames(DatasetSource):  # type: ignore[misc]
    """A source that is no file, as Hugging Face's and Spark's are: MLflow loads it as a table."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    @staticmethod
    def _get_source_type() -> str:
        return "frames"

    def load(self) -> pd.DataFrame:
        return pd.DataFrame({"a": range(self.rows)})

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:  # noqa: ARG004 - it is given, never found
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> Any:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    @classmethod
    def from_dict(cls, source_dict: dict[str, Any]) -> Any:
        return cls(source_dict["rows"])


@pytest.fixture(scope="module")
def source(tracking_uri: str, holdout: Path, stored: str, web: str, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A version of the registered model `traced`, whose run has artifacts and logged datasets of every kind of source."""
    folder = tmp_path_factory.mktemp("traced")
    version = register(tracking_uri, "traced", classifier(CENTRES.T))
    registry = Registry(tracking_uri)
    source = registry.resolve(f"models:/traced/{version}")
    table = pd.read_csv(holdout)
    gone = folder / "gone.csv"
    gone.write_text("a\n1\n")
    for name, wrong in (("golden.jsonl", 0), ("wrong.jsonl", 3)):
        (folder / name).write_text("\n".join(json.dumps(line) for line in _answered(blobs(seed=5, rows=20)[0], wrong)))
        registry.client.log_artifact(source.run_id, str(folder / name), "recorded")
    registry.client.log_table(source.run_id, {name: table[name].tolist() for name in table}, "table.json")
    mlflow.set_tracking_uri(tracking_uri)
    try:
        with mlflow.start_run(run_id=source.run_id):
            sources: dict[str, Any] = {"disk": str(holdout), "web": f"{web}/holdout.csv", "lost": f"{web}/lost.csv?token=secret"}
            sources |= {"gone": str(gone), "twice": str(holdout)}
            for name, place in sources.items():
                mlflow.log_input(mlflow.data.from_pandas(table, source=place, name=name, targets="label"), context="validation")
            mlflow.log_input(mlflow.data.from_pandas(table[:5], source=str(holdout), name="twice"))
            mlflow.log_input(mlflow.data.from_pandas(table, name="made"))
            register_dataset_source(Frames)
            mlflow.log_input(mlflow.data.from_pandas(table, source=Frames(3), name="frames"))
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    gone.unlink()
    return source


@pytest.fixture
def places(tmp_path: Path, tracking_uri: str, source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> Places:
    """What finds the data of `traced`; MLflow's own client does not try again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Places(tmp_path / "data", Registry(tracking_uri), source)


def test_a_file_on_a_store_is_brought_once(places: Places, seaweed: SeaweedFS, stored: str, holdout: Path) -> None:
    """The bytes are those of the object; asked again, the copy is there, and the object is not needed any more."""
    key = "data/of-a-moment.csv"
    seaweed.client().upload_file(str(holdout), "models", key)

    path = places.bring(seaweed.url("models", key))
    seaweed.client().delete_object(Bucket="models", Key=key)

    assert path.read_bytes() == holdout.read_bytes()
    assert path.suffix == ".csv"
    assert places.bring(seaweed.url("models", key)) == path
    assert places.bring(stored) != path
    assert places.bring(str(holdout)) == holdout


def test_a_connection_in_the_address_lets_us_in(
    places: Places, seaweed: SeaweedFS, stored: str, holdout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session and its endpoint are used, and the environment's credentials are not; without Airflow it is an error."""
    for name in seaweed.environment:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    location = "s3://data_lake@models/" + stored.partition("/models/")[2]
    path = Places(places.folder, places.registry, places.source, Lake(seaweed).session).bring(location)

    assert path.read_bytes() == holdout.read_bytes()
    with pytest.raises(SpecError, match=r"data_lake.*no Airflow here"):
        Places(places.folder / "other", places.registry, places.source).bring(location)


@pytest.mark.parametrize(
    ("location", "kind", "told"),
    [
        ("{store}/models/data/nothing.csv", ValidationDataError, "there is no data file {store}/models/data/nothing.csv"),
        ("{store}/nowhere/a.csv", RepositoryError, "no such bucket"),
        ("s3://a.csv", SpecError, "no address of a file on a store"),
        ("artifact:nothing.csv", RegistryError, "nothing.csv"),
        ("artifact:recorded", ValidationDataError, "recorded of the run {run} is a folder"),
        ("runs:/0123456789abcdef0123456789abcdef/a.csv", RegistryError, "0123456789abcdef0123456789abcdef"),
        ("dataset:nothing", ValidationDataError, "logged no dataset `nothing`; it logged: disk, frames, gone, lost, made, twice, web"),
        ("dataset:made", ValidationDataError, "`made` of the run {run} was made by code"),
        ("dataset:twice", ValidationDataError, "2 datasets `twice`"),
        ("dataset:gone", ValidationDataError, "gone.csv, which is not there"),
        ("dataset:lost", ValidationDataError, "cannot be read from its source (http)"),
    ],
    ids=[
        "no object",
        "no bucket",
        "no key",
        "no artifact",
        "a folder",
        "no run",
        "no dataset",
        "made by code",
        "two of a name",
        "its file is gone",
        "its URL is gone",
    ],
)
def test_data_that_is_not_there_is_one_clear_error(
    places: Places, seaweed: SeaweedFS, location: str, kind: type[DeployError], told: str
) -> None:
    """What was asked for and where; no secret of a URL is in it; asked again, it is looked for again."""
    for each in (places, Places(places.folder, places.registry, places.source)):
        with pytest.raises(DeployError) as caught:
            each.bring(location.format(store=f"s3://{seaweed.endpoint}"))

        assert type(caught.value) is kind
        assert told.format(store=f"s3://{seaweed.endpoint}", run=places.source.run_id) in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("location", ["artifact:table.json", "runs:/{run}/table.json", "dataset:disk", "dataset:web"])
def test_what_mlflow_knows_is_read(places: Places, holdout: Path, location: str) -> None:
    """An artifact of the version's own run or of any, and the datasets that it logged: on disk and behind a URL."""
    path = places.bring(location.format(run=places.source.run_id))
    again = places.bring(location.format(run=places.source.run_id))

    assert path == again
    table = pd.read_csv(holdout)
    if path.suffix == ".json":
        assert json.loads(path.read_text())["columns"] == list(table)
    else:
        pd.testing.assert_frame_equal(pd.read_csv(path), table)


def test_a_dataset_that_mlflow_loads_as_a_table_is_read(places: Places) -> None:
    """Its rows are written to a file of ours."""
    assert pd.read_parquet(places.bring("dataset:frames"))["a"].tolist() == [0, 1, 2]


def test_a_version_without_a_run_has_no_artifacts(places: Places) -> None:
    """The error says so, and asks MLflow nothing."""
    alone = Places(places.folder, places.registry, places.source.model_copy(update={"run_id": None}))
    for location in ("artifact:a.csv", "dataset:a"):
        with pytest.raises(ValidationDataError, match=rf"{location}: models:/traced/\d+ was registered without a run"):
            alone.bring(location)


Make = Callable[..., dict[str, Any]]


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def test_a_rollout_is_validated_with_data_from_everywhere(
    mapping: Make, source: ModelSource, stored: str, seaweed: SeaweedFS, client: TritonClient
) -> None:
    """Rows drawn from a store (by its Airflow connection), an MLflow dataset, requests among the artifacts; wrong answers reject."""
    model = f"models:/traced/{source.version}"

    location = stored.replace(f"{seaweed.endpoint}/models", "data_lake@models")
    rules = {"data": location, "sample": 40, "metrics": {"accuracy": {"min": 0.9}}, "golden": "artifact:recorded/golden.jsonl"}
    spec = spec_from_mapping(mapping(model=model, validate=rules))
    with opened(spec, find_target(spec, connections=Lake(seaweed))) as rollout:
        outcome = deploy(rollout)
    assert (outcome.action, outcome.report.rows) == ("promoted", 60)
    assert outcome.report.data == f"{location}, artifact:recorded/golden.jsonl"

    wrong = {"data": "dataset:disk", "golden": "artifact:recorded/wrong.jsonl"}
    with pytest.raises(RejectedError, match="golden"):
        run(mapping(model=model, validate=wrong, config={"max_batch_size": 16}))
    assert seen(client) == {"blobs": (source.version,)}


def test_data_that_is_not_there_stages_nothing(mapping: Make, source: ModelSource, seaweed: SeaweedFS, client: TritonClient) -> None:
    """The error comes before anything is on the server, whose model goes on serving."""
    run(mapping(1))
    for data, told in ((seaweed.url("models", "data/nothing.csv"), "no data file"), ("dataset:made", "made by code")):
        with pytest.raises(ValidationDataError, match=told):
            run(mapping(model=f"models:/traced/{source.version}", validate={"data": data}))

        assert seen(client) == {"blobs": (1,)}
