"""The grounds of the tests with a live Airflow: real servers, a deployment that follows the registry, a client that never stops asking."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from conftest import CENTRES, REQUIREMENTS, blobs, classifier, run_at
from stores.seaweed import SeaweedFS
from typing_extensions import Self

from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import open_repository
from airflow_triton.server import ServerAddress, TritonClient
from live.airflow import Airflow
from live.mlflow import MLflow
from live.postgres import PostgreSQL

DAG_FILE = """
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG, task
from airflow_triton.assets import served_model
from airflow_triton.dag_factory import deployment_dags

dags = deployment_dags(Path(__file__).parent / "deployments")
for dag in dags.values():
    for each in dag.tasks:
        each.retries, each.retry_delay = 4, timedelta(seconds=1)
globals().update(dags)


@task(retries=4, retry_delay=timedelta(seconds=1))
def read(triggering_asset_events=None):
    import numpy as np
    from airflow_triton.hooks.triton import TritonHook

    extra = [event.extra for events in triggering_asset_events.values() for event in events][-1]
    with TritonHook("triton_default").get_conn() as client:
        answer = client.infer(extra["model"], {"input": np.zeros((1, 4), np.float32)})
    return {"version": extra["version"], "probabilities": answer["probabilities"][0].tolist()}


with DAG("after_blobs", schedule=[served_model("blobs")]):
    read()
"""
SECRET = "of-the-webhook-of-the-tests"
DEPLOY, AFTER = "deploy_blobs", "after_blobs"
DEAD_AFTER = 10
"""Seconds without a sign of life after which Airflow takes a task for dead; 300 by default."""


class Grounds:
    """PostgreSQL, SeaweedFS, MLflow, Triton and Airflow below one folder. As a context manager they run together.

    The deployment `blobs` follows the alias `challenger`, by MLflow's webhook alone: the watcher looks once an hour. It waits for a person.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        database = stack.enter_context(PostgreSQL(self.home / "postgres", databases=("airflow", "mlflow")))
        self.store = stack.enter_context(SeaweedFS(self.home / "store"))
        for bucket in ("models", "mlflow"):
            self.store.make_bucket(bucket)
        keys = self.store.environment
        self.mlflow = MLflow(
            self.home / "mlflow",
            database=database.url("mlflow"),
            artifacts="s3://mlflow/artifacts",
            settings={**keys, "MLFLOW_S3_ENDPOINT_URL": self.store.endpoint},
        )
        stack.callback(self.mlflow.stop)
        self.mlflow.launch()
        with keys_in_environment(keys):
            self.repository = open_repository(self.store.url("models", "prod"))
            self.repository.make()
            self.triton = stack.enter_context(
                LocalTriton(str(self.repository), log_file=self.home / "triton.log", extra_args=["--disable-auto-complete-config"])
            )
        self.airflow = Airflow(self.home / "airflow", self._dags(), database.url("airflow"), self._settings(keys))
        self.airflow.migrate()
        stack.callback(self.airflow.stop)
        self.airflow.start()
        self.mlflow.await_ready()
        self.registry = Registry(self.mlflow.url)
        self.airflow.api.await_dag(DEPLOY)
        self.airflow.api.await_dag(AFTER)
        from mlflow_plugin.webhooks.register import Webhooks

        Webhooks(self.mlflow.url).register(f"{self.airflow.url}/triton-webhook/mlflow", secret=SECRET)

    def _dags(self) -> Path:
        folder = self.home / "dags"
        (folder / "deployments").mkdir(parents=True)
        (folder / "all.py").write_text(DAG_FILE)
        spec = {
            "name": "blobs",
            "model": "models:/blobs@challenger",
            "schedule": "registry",
            "servers": ["triton_default"],
            "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
            "validate": {"parity": {}},
            "promote": {"alias": "champion", "approval": True},
        }
        (folder / "deployments" / "blobs.yaml").write_text(json.dumps(spec))
        return folder

    def _settings(self, keys: dict[str, str]) -> dict[str, str]:
        return {
            **keys,
            "MLFLOW_TRACKING_URI": self.mlflow.url,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TRITON_MODEL_REPO": self.store.url("models", "prod"),
            "AIRFLOW_TRITON_CACHE": "false",
            "AIRFLOW_TRITON_WEBHOOK_SECRET": SECRET,
            "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": self.triton.grpc_url}),
            "AIRFLOW__TRITON__REGISTRY_POLL_SECONDS": "3600",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(DEAD_AFTER),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        }

    def register(self, weights: np.ndarray, *, alias: bool = True) -> int:
        """Register the next version of `blobs`, and let it be the challenger: MLflow tells Airflow."""
        import mlflow

        with keys_in_environment({"MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}), run_at(self.mlflow.url):
            example = {"input": blobs(seed=1, rows=3)[0]}
            mlflow.onnx.log_model(classifier(weights.T), name="model", registered_model_name="blobs", input_example=example, **REQUIREMENTS)
        version = max(int(found.version) for found in mlflow.MlflowClient(self.mlflow.url).search_model_versions("name='blobs'"))
        if alias:
            self.registry.set_alias("blobs", "challenger", version)
        return version


@contextlib.contextmanager
def keys_in_environment(keys: dict[str, str]) -> Iterator[None]:
    """Variables for what reads them from this process."""
    import pytest

    with pytest.MonkeyPatch.context() as environment:
        for name, value in keys.items():
            environment.setenv(name, value)
        yield


def weights_of(version: int) -> np.ndarray:
    """Weights of their own for each version: all tell the three classes apart, and none answers the same probabilities as another."""
    return CENTRES * np.float32(1 + version / 200)


class Asking:
    """A client of production that asks without pause. `wrong` has every answer that is not exactly that of the version which gave it."""

    def __init__(self, triton: LocalTriton, name: str = "blobs") -> None:
        self._address = ServerAddress.parse(triton.grpc_url)
        self._name = name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.answered: dict[int, int] = {}
        self.wrong: list[str] = []

    def _ask(self) -> None:
        from airflow_triton.errors import ServerError

        rows, labels = blobs(seed=3, rows=6)
        rows, labels = np.vstack([rows, CENTRES]), np.append(labels, range(len(CENTRES)))
        with TritonClient(self._address) as client:
            while not self._ended.wait(0.01):
                try:
                    answer = client.infer(self._name, {"input": rows})
                except ServerError as error:
                    self.wrong.append(f"{time.time():.2f} {error}")
                    continue
                version = version_of(rows, answer["probabilities"])
                if version is None or not np.array_equal(answer["label"].ravel(), labels):
                    self.wrong.append(f"{time.time():.2f} {answer}")
                else:
                    self.answered[version] = self.answered.get(version, 0) + 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def version_of(rows: np.ndarray, probabilities: np.ndarray, *, most: int = 100) -> int | None:
    """The version whose weights answer so; None: no one's do."""
    for version in range(1, most):
        weights = weights_of(version)
        scores = rows @ weights.T - (weights**2).sum(axis=1) / 2
        expected = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        if np.allclose(np.log(probabilities), expected, atol=5e-3):
            return version
    return None
