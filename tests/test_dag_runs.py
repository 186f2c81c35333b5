"""DAGs that run through `DAG.test()`: real operators and real XCom, in one Airflow for the module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_triton.demo.dag_runs import DagRuns
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, releases

DAG_FILE = """
from pathlib import Path
from airflow.sdk import DAG
from airflow_triton.dag_factory import deployment_dags
from airflow_triton.operators.deploy import DeployModelOperator, RollbackModelOperator

HERE = Path(__file__).parent / "deployments"
globals().update(deployment_dags(HERE))

with DAG("whole", schedule=None) as whole:
    DeployModelOperator(task_id="deploy", spec=str(HERE / "blobs.yaml"))

with DAG("back", schedule=None) as back:
    RollbackModelOperator(task_id="rollback", spec=str(HERE / "blobs.yaml"), to="{{ 1 }}")
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, triton: LocalTriton, tracking_uri: str, holdout: Path) -> Iterator[DagRuns]:
    """An Airflow whose DAG folder has the spec of `blobs`, with connection id and alias."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags" / "deployments").mkdir(parents=True)
    (home / "dags" / "all.py").write_text(DAG_FILE)
    spec = {
        "name": "blobs",
        "model": "models:/blobs@challenger",
        "servers": ["triton_default"],
        "validate": {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}},
        "promote": {"alias": "champion"},
    }
    (home / "dags" / "deployments" / "blobs.yaml").write_text(json.dumps(spec))
    settings = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "TRITON_MODEL_REPO": str(triton.repository),
        "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": triton.http_url}),
    }
    with DagRuns(home, home / "dags", settings, print) as runs:
        yield runs


def test_dags_deploy_reject_skip_and_roll_back(airflow: DagRuns, repository: LocalRepository, tracking_uri: str) -> None:
    """Promoted, nothing to do, rejected with the report in XCom before the failure, promoted in one task, and back."""

    def run(dag_id: str, version: int) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
        Registry(tracking_uri).set_alias("blobs", "challenger", version)
        came = airflow.run(dag_id)
        return came["state"], came["tasks"], came["report"]

    def served() -> list[int]:
        return [release.version for release in releases(repository, "blobs")]

    state, tasks, report = run("deploy_blobs", 1)
    assert (state, set(tasks.values()), served()) == ("success", {"success"}, [1])
    assert report is not None
    assert report["passed"]

    state, tasks, _ = run("deploy_blobs", 1)
    assert state == "success"
    assert set(tasks.values()) == {"skipped"}

    state, tasks, report = run("deploy_blobs", 2)
    assert (state, tasks["validate"], tasks["promote"], tasks["clean_up"]) == ("failed", "failed", "upstream_failed", "success")
    assert report is not None
    assert [check["name"] for check in report["checks"] if not check["passed"]] == ["accuracy"]
    assert served() == [1]
    assert sorted(path.name for path in repository.root.iterdir()) == ["blobs"]

    assert run("whole", 3)[0] == "success"
    assert served() == [1, 3]
    assert run("back", 3)[0] == "success"
    assert served() == [1, 3, 1]
