"""The whole pipeline with the repository on a real object store: the real Triton reads from it what we write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CENTRES, blobs, classifier, register
from stores import Proxy
from stores.seaweed import SeaweedFS

from airflow_triton.errors import SpecError
from airflow_triton.hooks import airflow_connections
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import Repository, commit, fsck, releases
from airflow_triton.rollout import Outcome, deploy, find_target, opened, rollback
from airflow_triton.rollout.target import find_repository
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import spec_from_mapping

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(mapping: Make, triton_on_store: LocalTriton, repository_on_store: Repository) -> Make:
    """Makes the content of a spec that deploys a version of `blobs` from the store."""
    return lambda *args, **keys: mapping(*args, **{"repository": str(repository_on_store), "servers": [triton_on_store.grpc_url], **keys})


@pytest.fixture
def client(triton_on_store: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server that reads from the store."""
    with TritonClient(ServerAddress.parse(triton_on_store.grpc_url)) as it:
        yield it


def run(mapping: dict[str, Any]) -> Outcome:
    """Deploy what a spec says."""
    spec = spec_from_mapping(mapping)
    with opened(spec, find_target(spec)) as rollout:
        return deploy(rollout)


def test_a_version_is_deployed_replaced_and_comes_back(make: Make, repository_on_store: Repository, client: TritonClient) -> None:
    """Two deployments and a rollback; nothing of them is left but what serves and what is kept."""
    rows = blobs(seed=5, rows=4)[0]
    assert run(make(1)).action == "promoted"
    first = client.infer("blobs", {"input": rows})["probabilities"]
    assert run(make(3)).previous == 1
    second = client.infer("blobs", {"input": rows})["probabilities"]
    assert not np.allclose(first, second)
    assert run(make(3)).action == "unchanged"

    spec = spec_from_mapping(make(3))
    with opened(spec, find_target(spec)) as rollout:
        outcome = rollback("blobs", store=rollout.store, servers=rollout.servers, registry=rollout.registry)

    assert (outcome.version, outcome.previous) == (1, 3)
    np.testing.assert_array_equal(client.infer("blobs", {"input": rows})["probabilities"], first)
    assert [release.version for release in releases(repository_on_store, "blobs")] == [1, 3, 1]
    assert [(each.version, each.role, each.problems) for each in fsck(repository_on_store)] == [(1, "serves", ()), (3, "kept", ())]


def test_releases_within_one_second_all_reach_the_server(make: Make, repository_on_store: Repository, client: TritonClient) -> None:
    """Triton tells a changed file by its time, which a store has in whole seconds: no two releases get the same."""
    run(make(1))
    for batch in (32, 8, 64):
        stored = repository_on_store.read_config("blobs")
        assert stored is not None
        current = releases(repository_on_store, "blobs", stored)[-1]
        config = re.sub("max_batch_size: [0-9]+", f"max_batch_size: {batch}", current.config)
        commit(repository_on_store, "blobs", current.model_copy(update={"config": config}), expected=stored)
        client.load("blobs")
        assert client.config("blobs")["max_batch_size"] == batch


def test_an_airflow_connection_opens_the_repository(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and endpoint come from the connection in the address; one that is not there is an error, not a way around it."""
    extra = {"endpoint_url": seaweed.endpoint, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": seaweed.access_key, "password": seaweed.secret_key, "extra": extra}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIRFLOW_CONN_MY_STORE", json.dumps(connection))

    store = find_repository(repository="s3://my_store@models/by-connection", connections=airflow_connections())
    store.check_exists()
    assert store.models() == []

    with pytest.raises(SpecError, match="there is no Airflow connection `nobody`"):
        find_repository(repository="s3://nobody@models/x", connections=airflow_connections()).check_exists()


def test_a_model_in_the_same_store_is_copied_by_the_store(
    seaweed: SeaweedFS, make: Make, client: TritonClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's artifacts lie in another bucket of the same store: the model's bytes are read for its checks, and never sent."""
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    seaweed.make_bucket("mlflow-artifacts")
    mlflow.MlflowClient(uri).create_experiment("tests", artifact_location="s3://mlflow-artifacts/tests")
    register(uri, "blobs", classifier(CENTRES.T))
    with Proxy(seaweed.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        outcome = run(make(1, repository="s3://models/served", tracking_uri=uri))
        sent = [request for request in proxy.requests if request.method == "PUT" and "x-amz-copy-source" not in request.headers]

    assert outcome.action == "promoted"
    assert client.ready_versions("blobs") == (1,)
    assert {request.path.rpartition("/")[2] for request in sent} & {"model.onnx"} == set()
    texts = (".json", ".pbtxt", ".airflow-triton")
    assert [request.path for request in sent if not request.path.endswith(texts) and "/probe/" not in request.path] == []
