"""The `triton` target of `mlflow deployments`, from a shell and from Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository, releases


@pytest.fixture
def shell(triton: LocalTriton, repository: LocalRepository, tracking_uri: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `mlflow deployments` with the server, the repository and the registry in the environment."""
    environment = {
        **os.environ,
        "TRITON_URL": triton.grpc_url,
        "TRITON_MODEL_REPO": str(repository.root),
        "MLFLOW_TRACKING_URI": tracking_uri,
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mlflow", "deployments", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

    return run


def test_create_from_a_shell(shell: Callable[..., subprocess.CompletedProcess[str]], repository: LocalRepository, holdout: Path) -> None:
    """`mlflow deployments create -t triton` deploys through the same pipeline, and a rejected update leaves what serves."""
    rules = ["-C", f"validate.data={holdout}", "-C", "validate.metrics.accuracy.min=0.9", "-C", "config.max_batch_size=8"]

    made = shell("create", "-t", "triton", "--name", "blobs", "-m", "models:/blobs/1", *rules)
    assert made.returncode == 0, made.stderr
    assert "onnx deployment blobs is created" in made.stdout
    assert "max_batch_size: 8" in repository.read_config("blobs").text

    refused = shell("update", "-t", "triton", "--name", "blobs", "-m", "models:/blobs/2", *rules)
    assert refused.returncode != 0
    assert "accuracy 0" in refused.stderr
    assert [release.version for release in releases(repository, "blobs")] == [1]

    assert "blobs" in shell("list", "-t", "triton").stdout
    assert "triton://host:8000" in shell("help", "-t", "triton").stdout


def test_python_client(triton: LocalTriton, repository: LocalRepository, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same from Python, with the server in the target's URI; errors are MLflow's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setenv("TRITON_MODEL_REPO", str(repository.root))
    client = get_deploy_client(triton.http_url.replace("http://", "triton://"))

    made = client.create_deployment("plus", "models:/plus/1")

    assert made == {"name": "plus", "flavor": "onnx", "version": 1, "action": "promoted"}
    assert client.get_deployment("plus")["stored"] == 1
    for wrong in (
        lambda: client.get_deployment("nope"),
        lambda: client.create_deployment("../x", "models:/plus/1"),
        lambda: client.create_deployment("plus", "models:/plus/1", flavor="pytorch"),
        lambda: client.create_deployment("plus", "models:/plus/1", config={"validate.parity.rtoll": "1"}),
        lambda: client.update_deployment("plus"),
        lambda: client.list_deployments(endpoint="e"),
    ):
        with pytest.raises(MlflowException):
            wrong()


@pytest.mark.parametrize("target", ["triton:/a/b", "tritons:/conn", "triton://host:8000/path?x=1"])
def test_wrong_target_is_refused(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A target URI that names no Triton is MLflow's error, with the valid forms."""
    monkeypatch.setenv("TRITON_MODEL_REPO", str(tmp_path))
    client: Any = get_deploy_client(target)

    with pytest.raises(MlflowException, match="triton"):
        client.list_deployments()
