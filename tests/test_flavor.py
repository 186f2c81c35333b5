"""MLflow's `triton` flavor: a ready model directory is logged, loaded, deployed, and asked where it really serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import CENTRES, blobs, classifier, run_at
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

from airflow_triton.local_triton import LocalTriton
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.spec import spec_from_mapping
from mlflow_plugin import flavor

CONFIG = """backend: "onnxruntime"
max_batch_size: 16
input { name: "input" data_type: TYPE_FP32 dims: 4 }
output { name: "label" data_type: TYPE_INT64 dims: 1 reshape { } }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A Triton model directory."""
    folder = tmp_path / "centres"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.onnx").write_bytes(classifier(CENTRES.T).SerializeToString())
    return folder


@pytest.fixture
def tracked(tracking_uri: str) -> Iterator[None]:
    """MLflow's own functions go to a run in the tests' store."""
    with run_at(tracking_uri, experiment="tests"):
        yield


def test_what_is_saved_is_what_nvidias_plugin_saves(ready: Path, tmp_path: Path) -> None:
    """The folder beside MLmodel, and its name there; the model is a python_function as well."""
    flavor.save_model(ready, tmp_path / "saved")

    meta = yaml.safe_load((tmp_path / "saved" / "MLmodel").read_text())
    assert meta["flavors"]["triton"] == {"data": "centres"}
    assert meta["flavors"]["python_function"]["loader_module"] == "mlflow_plugin.flavor"
    assert (tmp_path / "saved" / "centres" / "1" / "model.onnx").read_bytes() == (ready / "1" / "model.onnx").read_bytes()
    loaded = flavor.load_model(str(tmp_path / "saved"))
    assert (loaded.path.name, loaded.name) == ("centres", "centres")


def test_what_is_no_model_directory_is_refused(ready: Path, tmp_path: Path) -> None:
    """Before anything is written; neither is an older model overwritten."""
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "missing", ready / "config.pbtxt"):
        with pytest.raises(MlflowException, match="is no Triton model directory"):
            flavor.save_model(wrong, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    flavor.save_model(ready, tmp_path / "saved")
    with pytest.raises(MlflowException, match="exists already"):
        flavor.save_model(ready, tmp_path / "saved")


def test_logged_deployed_and_asked_as_a_pyfunc(
    ready: Path, triton: LocalTriton, mapping: Callable[..., dict[str, Any]], tracked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pyfunc answers what Triton serves, in the shape of the signature; `mlflow.models.evaluate` scores it."""
    rows, labels = blobs(seed=4, rows=40)
    table = pd.DataFrame(rows, columns=["x0", "x1", "x2", "x3"])
    signature = infer_signature(table, np.zeros(3, np.int64))
    info = flavor.log_model(ready, "model", "ready-centres", signature=signature)
    made = mapping(1)
    checks = {**made["validate"], "parity": False}
    spec = spec_from_mapping({**made, "name": "centres", "model": "models:/ready-centres/1", "validate": checks, "config": {}})
    with opened(spec, find_target(spec)) as rollout:
        deploy(rollout)

    asked = mlflow.pyfunc.load_model("models:/ready-centres/1", model_config={"server": triton.http_url})
    answer = asked.predict(table[["x3", "x1", "x2", "x0"]])
    assert isinstance(answer, np.ndarray)
    assert (answer == labels).mean() > 0.9

    monkeypatch.setenv("TRITON_URL", triton.grpc_url)
    scored = mlflow.models.evaluate(
        info.model_uri, table.assign(label=labels), targets="label", model_type="classifier", evaluator_config={"log_explainer": False}
    )
    assert scored.metrics["accuracy_score"] > 0.9

    native = flavor.load_model("models:/ready-centres/1")
    assert native.predict({"input": rows[:2]}).tolist() == answer[:2].tolist()


def test_a_model_that_is_not_served_is_an_error_that_says_where_it_looked(
    ready: Path, tmp_path: Path, triton: LocalTriton, repository: Any
) -> None:
    """No server at all; a server without the model; parameters, which Triton does not take."""
    flavor.save_model(ready, tmp_path / "saved", model="nobody")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    with pytest.raises(MlflowException, match="no Triton to ask `nobody` on: set TRITON_URL"):
        loaded.predict(np.zeros((1, 4), np.float32))
    there = flavor.load_model(str(tmp_path / "saved"))
    with pytest.raises(MlflowException, match="takes no params"):
        there.predict(np.zeros((1, 4)), {"temperature": 1})
    away = mlflow.pyfunc.load_model(str(tmp_path / "saved"), model_config={"server": triton.grpc_url})
    with pytest.raises(MlflowException, match="'nobody'"):
        away.predict(np.zeros((1, 4), np.float32))
