"""Deployments that end before anything serves, each with its one error; a disk is enough: nothing is published, or it is taken away again.

The same on an object store, where the store itself fails: `test_store_faults.py`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CENTRES, classifier, everything_in, register
from test_rollout import Make, run, seen
from tests_support import everything_below

from airflow_triton.errors import (
    ControlModeError,
    ConversionError,
    ModelConfigError,
    RegistryUnreachableError,
    ServerError,
    ServerUnreachableError,
    ValidationDataError,
)
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.repository import Repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.server import ServerAddress, TritonClient


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


@pytest.fixture
def nothing_happened(repository: Repository, client: TritonClient, mapping: Make) -> Iterator[None]:
    """Version 1 serves; after the test it still does, and there is nothing else on disk or server."""
    run(mapping(1))
    before = everything_in(repository, MODELS, content=True)
    yield
    assert everything_in(repository, MODELS, content=True) == before
    assert everything_in(repository, WORK) == set()
    assert seen(client) == {"blobs": (1,)}


@pytest.mark.usefixtures("nothing_happened")
def test_server_that_is_down(mapping: Make) -> None:
    """A server that does not answer ends it at once."""
    started = time.monotonic()

    with pytest.raises(ServerUnreachableError, match="did not answer"):
        run(mapping(3, servers=[f"http://127.0.0.1:{free_port()}"]))

    assert time.monotonic() - started < 20


@pytest.mark.usefixtures("nothing_happened")
@pytest.mark.parametrize("mode", ["none", "poll"])
def test_server_in_the_wrong_mode(mapping: Make, tmp_path: Path, mode: Any) -> None:
    """A server that takes no load requests is found out before anything is staged."""
    with LocalTriton(tmp_path / "models", mode=mode) as other:
        spec = mapping(3, servers=[other.grpc_url], repository=str(tmp_path / "models"))

        with pytest.raises(ControlModeError, match="--model-control-mode=explicit"):
            run(spec)

    assert everything_below(tmp_path / "models") == set()


@pytest.mark.usefixtures("nothing_happened")
def test_server_of_another_repository(mapping: Make, tmp_path: Path) -> None:
    """A server that serves from elsewhere cannot load the candidate, and the error asks just that."""
    with LocalTriton(tmp_path / "elsewhere") as other, pytest.raises(ServerError, match="is not this server's repository"):
        run(mapping(3, servers=[other.grpc_url]))


@pytest.mark.usefixtures("nothing_happened")
def test_registry_that_refuses_connections(mapping: Make) -> None:
    """A registry at a closed port is one clear error."""
    with pytest.raises(RegistryUnreachableError, match="does not answer"):
        run(mapping(3, tracking_uri=f"http://127.0.0.1:{free_port()}"))


@pytest.mark.usefixtures("nothing_happened")
def test_registry_that_never_answers(mapping: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that takes the connection and stays silent is given up on after the configured time."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()

        with pytest.raises(RegistryUnreachableError, match="does not answer"):
            run(mapping(3, tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}"))

    assert time.monotonic() - started < 30


@pytest.mark.usefixtures("nothing_happened")
def test_corrupt_model_file(mapping: Make, tracking_uri: str) -> None:
    """A file that is no ONNX model is refused by the conversion, with the library's own reason."""
    version = register(tracking_uri, "broken", classifier(CENTRES.T), change=lambda folder: (folder / "model.onnx").write_bytes(b"\0no"))

    with pytest.raises(ConversionError, match=r"model\.onnx"):
        run(mapping(model=f"models:/broken/{version}"))


@pytest.mark.usefixtures("nothing_happened")
def test_signature_that_does_not_fit_the_graph(mapping: Make, tracking_uri: str) -> None:
    """A signature of other inputs than the graph's is refused before anything is published."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    other = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 7), "other")]))
    version = register(tracking_uri, "broken", classifier(CENTRES.T), signature=other)

    with pytest.raises(ConversionError, match="other"):
        run(mapping(model=f"models:/broken/{version}"))


@pytest.mark.usefixtures("nothing_happened")
def test_data_that_does_not_fit_the_model(mapping: Make, tmp_path: Path) -> None:
    """Validation data with other columns ends the deployment, and names them."""
    (tmp_path / "other.csv").write_text("a,b,label\n1,2,0\n")

    with pytest.raises(ValidationDataError, match=r"other\.csv"):
        run(mapping(3, validate={"data": str(tmp_path / "other.csv"), "metrics": {"accuracy": {"min": 0.5}}}))


@pytest.mark.usefixtures("nothing_happened")
def test_wrong_configuration_is_the_users_error(mapping: Make) -> None:
    """A field that Triton's ModelConfig does not have is refused before anything is asked or converted."""
    with pytest.raises(ModelConfigError, match="max_batch_sise") as refused:
        run(mapping(3, config={"max_batch_sise": 8}, servers=[f"http://127.0.0.1:{free_port()}"]))

    assert refused.value.exit_code == 2


@pytest.mark.usefixtures("nothing_happened")
def test_configuration_that_does_not_fit_the_model(mapping: Make) -> None:
    """An input that the model does not have is refused after the conversion, and the converted files go."""
    with pytest.raises(ModelConfigError, match="other"):
        run(mapping(3, config={"input": [{"name": "other", "data_type": "TYPE_FP32", "dims": [4]}]}))
