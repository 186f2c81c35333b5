"""The MLflow target with MLflow on PostgreSQL, and the repository on a real object store."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from conftest import CENTRES, _healthy, classifier, register
from live import PostgreSQL, Process, clean_environment
from live.postgres import MISSING, program
from mlflow.deployments import get_deploy_client

from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.repository import Repository
from airflow_triton.repository.base import MODELS


@pytest.fixture(scope="module")
def mlflow_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` on a real PostgreSQL, with artifacts that go through it; answers its URL."""
    try:
        program("initdb")
    except AssertionError:
        pytest.skip(MISSING)
    pytest.importorskip("psycopg2", reason="MLflow's driver of PostgreSQL is not installed: pip install psycopg2-binary")
    home = tmp_path_factory.mktemp("mlflow-on-postgres")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with PostgreSQL(home / "postgres", databases=("mlflow",)) as database:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database.url("mlflow"), "--port", str(port)]
        command += ["--workers", "1", "--artifacts-destination", str(home / "artifacts")]
        environment = clean_environment({"MLFLOW_DISABLE_TELEMETRY": "true"})
        server = Process("mlflow", command, environment=environment, folder=home / "server", ready=lambda: _healthy(url))
        with server:
            mlflow.MlflowClient(url).create_experiment("tests")
            for weights in (CENTRES, np.roll(CENTRES, 1, axis=0)):
                register(url, "blobs", classifier(weights.T), pip_requirements=["onnx"])
            yield url


def test_the_target_works_with_mlflow_on_postgres(
    mlflow_on_postgres: str,
    triton_on_store: LocalTriton,
    repository_on_store: Repository,
    holdout: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """create, a refused update, list, get, predict and delete; the tags, the alias and the description are there, and go again."""
    where = {
        "TRITON_URL": triton_on_store.grpc_url,
        "TRITON_MODEL_REPO": str(repository_on_store),
        "MLFLOW_TRACKING_URI": mlflow_on_postgres,
    }
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    rules = {"validate.data": str(holdout), "validate.metrics.accuracy.min": "0.9", "promote.alias": "champion"}
    client: Any = get_deploy_client("triton")
    registry = mlflow.MlflowClient()

    assert client.create_deployment("blobs", "models:/blobs/1", config=rules)["version"] == 1
    with pytest.raises(mlflow.MlflowException, match="accuracy"):
        client.update_deployment("blobs", "models:/blobs/2", config=rules)

    version = registry.get_model_version_by_alias("blobs", "champion")
    assert (str(version.version), version.tags["triton.blobs.verdict"], version.tags["triton.blobs.state"]) == ("1", "passed", "serving")
    assert version.tags["triton.blobs.report"]
    assert version.description == f"NVIDIA Triton: `blobs` serves version 1 on {triton_on_store.grpc_url}"
    assert registry.get_model_version("blobs", "2").tags["triton.blobs.verdict"] == "rejected"
    assert [(row["name"], row["state"], row["version"]) for row in client.list_deployments()] == [("blobs", "READY", 1)]
    assert client.get_deployment("blobs")["registered"] == 1
    assert client.predict("blobs", CENTRES)["predictions"]["label"] == [0, 1, 2]

    client.delete_deployment("blobs")

    assert client.list_deployments() == []
    assert repository_on_store.files(MODELS / "blobs") == []
    left = [registry.get_model_version("blobs", number) for number in ("1", "2")]
    assert [(dict(each.tags), each.description or "") for each in left] == [({}, ""), ({}, "")]
    assert registry.get_registered_model("blobs").aliases == {}
