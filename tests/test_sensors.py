"""Sensors through `DAG.test()`: in a worker's slot and deferred, against the real Triton and the real MLflow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_triton.demo.dag_runs import DagRuns
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository
from airflow_triton.server import ServerAddress, TritonClient

DEFERRED = "running trigger in line"
"""What `DAG.test()` says when it runs the trigger of a task that was deferred."""
DAG_FILE = """
from airflow.sdk import DAG, task
from airflow_triton.sensors.ready import ModelReadySensor
from airflow_triton.sensors.registry import ModelVersionSensor

QUICK = {"poke_interval": 0.2, "timeout": 90}

@task
def seen(found):
    assert found == {"name": "waited", "version": 1, "uri": "models:/waited/1"}, found

for way in (True, False):
    with DAG(f"ready_{way}", schedule=None):
        ModelReadySensor(task_id="wait", model="m", version="{{ 1 + 1 }}", servers=["triton_default"], deferrable=way, **QUICK)
    with DAG(f"version_{way}", schedule=None):
        seen(ModelVersionSensor(task_id="wait", model="waited", alias="{{ 'live' }}", deferrable=way, **QUICK).output)

with DAG("late", schedule=None):
    ModelVersionSensor(task_id="wait", model="waited", alias="never", poke_interval=0.1, timeout=1, soft_fail=True)
    ModelVersionSensor(task_id="too_late", model="waited", alias="never", poke_interval=0.1, timeout=1)
with DAG("wrong", schedule=None):
    ModelReadySensor(task_id="wait", model="m", version=1, servers=["no_such_connection"], **QUICK)
    ModelVersionSensor(task_id="gone", model="gone", version=1, **QUICK)
"""


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """An MLflow store of these tests' own, and MLflow's client of it."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client = MlflowClient(uri, uri)
    for name in ("waited", "gone"):
        client.create_registered_model(name)
        for _ in range(2):
            client.create_model_version(name, "/nowhere")
    client.delete_model_version("gone", "1")
    return uri, client


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, triton: LocalTriton, mlflow: tuple[str, Any]) -> Iterator[DagRuns]:
    """An Airflow in which waits are deferred, unless a sensor says otherwise."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "all.py").write_text(DAG_FILE)
    settings = {
        "MLFLOW_TRACKING_URI": mlflow[0],
        "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True",
        "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": triton.http_url}),
    }
    with DagRuns(home, home / "dags", settings, print) as runs:
        yield runs


@pytest.fixture
def told(airflow: DagRuns) -> Callable[[], str]:
    """What Airflow's log has had since the test began."""

    def log() -> str:
        return airflow.log.read_text() if airflow.log.exists() else ""

    start = len(log())
    return lambda: log()[start:]


def run_while(airflow: DagRuns, dag_id: str, happens: Callable[[], Any], log: Callable[[], str], waits: str) -> dict[str, Any]:
    """Run a DAG; what it waits for happens once the log says that it waits."""
    answer: dict[str, Any] = {}
    runner = threading.Thread(target=lambda: answer.update(airflow.run(dag_id)))
    runner.start()
    while waits not in log() and runner.is_alive():
        runner.join(0.05)
    happens()
    runner.join()
    return answer


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_version_becomes_ready(
    airflow: DagRuns, told: Callable[[], str], triton: LocalTriton, repository: LocalRepository, *, deferrable: bool
) -> None:
    """The sensor is done when the server has loaded the version; deferred, a triggerer waited for it."""
    (repository.root / "m" / "2").mkdir(parents=True)
    (repository.root / "m" / "2" / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests): ...\n")
    (repository.root / "m" / "config.pbtxt").write_text(
        'backend: "python" instance_group { kind: KIND_CPU } version_policy { specific { versions: [2] } } '
        'input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }'
    )
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        came = run_while(airflow, f"ready_{deferrable}", lambda: client.load("m"), told, "wanted are [2]: not yet")

    assert (came["state"], came["tasks"]) == ("success", {"wait": "success"})
    assert (DEFERRED in told()) == deferrable


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_alias_appears(airflow: DagRuns, told: Callable[[], str], mlflow: tuple[str, Any], *, deferrable: bool) -> None:
    """The sensor answers the version that the alias means."""
    _, client = mlflow
    client.delete_registered_model_alias("waited", "live")

    came = run_while(
        airflow, f"version_{deferrable}", lambda: client.set_registered_model_alias("waited", "live", "1"), told, "models:/waited: not yet"
    )

    assert (came["state"], set(came["tasks"].values())) == ("success", {"success"})
    assert (DEFERRED in told()) == deferrable


def test_a_timeout_fails_or_skips(airflow: DagRuns) -> None:
    """Deferred, `timeout` and `soft_fail` mean what they mean to every sensor."""
    assert airflow.run("late")["tasks"] == {"wait": "skipped", "too_late": "failed"}


def test_what_no_wait_can_mend_fails_at_once(airflow: DagRuns, told: Callable[[], str]) -> None:
    """A connection that is not there, and a version that was deleted: numbers do not come back."""
    assert set(airflow.run("wrong")["tasks"].values()) == {"failed"}
    assert "there is no Airflow connection `no_such_connection`" in told()
    assert "version=1 not found" in told() or "RegistryError" in told()
