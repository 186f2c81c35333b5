"""ONNX's own backend tests, each deployed by the pipeline to the real Triton and asked for its recorded outputs.

A sample here; all of them in `make conformance`, which writes docs/onnx-backend-tests.md.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.onnx_cases import ATOL, KINDS, RTOL, Case, cases
from conformance.pages import Result, write_onnx_page
from conftest import register
from test_convert import add_example
from test_rollout import run

from airflow_triton import model_config
from airflow_triton.errors import ConversionError, DeployError, RejectedError, ValidationDataError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import Repository
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.tensors import save_arrays
from airflow_triton.validation import as_model_gives, as_server_takes

WHOLE = os.environ.get("AIRFLOW_TRITON_CONFORMANCE") == "1"
SAMPLE = ("pytorch-operator.test_operator_addmm", "light.light_squeezenet")


@pytest.fixture
def client(triton: LocalTriton) -> Any:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def deployed(case: Case, home: Path, repository: Repository, triton: LocalTriton, client: TritonClient) -> Result:
    """Register it, deploy it, ask what serves for the recorded inputs, and take it away again."""
    import onnx

    if any(array is None for array in (*case.inputs.values(), *case.outputs.values())):
        return Result(case.kind, case.name, "not a tensor", "an input or output is a sequence or optional, which Triton does not have")
    uri, name = f"sqlite:///{home}/mlflow.db", case.id
    save_arrays(home / f"{name}.npz", case.inputs)
    try:
        version = register(
            uri, name, onnx.load(str(case.path)), pip_requirements=["onnxruntime"], change=lambda folder: add_example(folder, case.inputs)
        )
        spec = {
            "name": name,
            "model": f"models:/{name}/{version}",
            "repository": str(repository),
            "servers": [triton.grpc_url],
            "tracking_uri": uri,
            "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
            "validate": {"data": str(home / f"{name}.npz")},
        }
        run(spec)
    except (ConversionError, ValidationDataError, RejectedError) as error:
        return Result(case.kind, case.name, "refused", str(error))
    except DeployError as error:
        return Result(case.kind, case.name, "failed", f"{type(error).__name__}: {error}")
    released = repository.read_config(name)
    manifest = repository.manifest(name, version)
    assert released is not None
    assert manifest is not None
    assert manifest.servable is not None
    config = model_config.parse(released.text)
    got = as_model_gives(config, manifest.servable, client.infer(name, as_server_takes(config, case.inputs)))
    client.unload(name)
    for output, wanted in case.outputs.items():
        if got[output].shape != wanted.shape or not _same(got[output], wanted):
            return Result(case.kind, case.name, "wrong", f"{output} is not as recorded")
    return Result(case.kind, case.name, "passed", "")


def _same(got: Any, wanted: Any) -> bool:
    if wanted.dtype.kind == "f":
        return bool(np.allclose(got, wanted, rtol=RTOL, atol=ATOL, equal_nan=True))
    texts = [array.astype(str) if array.dtype.kind in "OSU" else array for array in (got, wanted)]
    return bool(np.array_equal(*texts))


@pytest.mark.skipif(WHOLE, reason="all of them run")
@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_backend_tests(
    name: str, tmp_path: Path, repository: Repository, triton: LocalTriton, client: TritonClient
) -> None:
    """One of an old opset, and a network."""
    case = next(case for case in cases() if case.id == name)

    result = deployed(case, tmp_path, repository, triton, client)

    assert (result.outcome, result.reason) == ("passed", "")


@pytest.mark.skipif(not WHOLE, reason="takes a quarter of an hour: make conformance")
@pytest.mark.timeout(5400)
def test_all_backend_tests(tmp_path: Path, repository: Repository, triton: LocalTriton, client: TritonClient) -> None:
    """None answers wrongly; each that is refused has its reason, which the page tells."""
    results = []
    for case in cases():
        results.append(deployed(case, tmp_path, repository, triton, client))
        print(f"{case.id}: {results[-1].outcome} {results[-1].reason}", flush=True)  # noqa: T201 - progress
    write_onnx_page(results)

    outcomes = Counter(result.outcome for result in results)
    assert {result.kind for result in results} == set(KINDS)
    assert set(outcomes) <= {"passed", "refused", "not a tensor"}, [r for r in results if r.outcome in ("failed", "wrong")]
    assert outcomes["passed"] > len(results) * 0.9
