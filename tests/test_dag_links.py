"""The links of a task in Airflow's pages, as Airflow's own API hands them to its pages: real DAG runs and a real MLflow server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_dag_runs import DAG_FILE

from airflow_triton.demo.dag_runs import DagRuns
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository

pytestmark = pytest.mark.timeout(600)

ASKS = """
import json, sys
from airflow.api_fastapi.app import create_app
from fastapi.testclient import TestClient

with TestClient(create_app()) as client:
    token = client.get("/auth/token").json()["access_token"]
    for path in sys.argv[1:]:
        answer = client.get(f"/api/v2/dags/{path}/links", headers={"Authorization": f"Bearer {token}"})
        print("links:", json.dumps(answer.json()["extra_links"]))
"""


@pytest.fixture(scope="module")
def settings(triton: LocalTriton, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Airflow's processes have in their environment; everyone who asks its API is an administrator."""
    return {
        "MLFLOW_TRACKING_URI": mlflow_server,
        "TRITON_MODEL_REPO": str(triton.repository),
        "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": triton.http_url}),
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }


@pytest.fixture(scope="module")
def airflow(settings: dict[str, str], holdout: Path) -> Iterator[DagRuns]:
    """An Airflow whose DAG folder has the spec of `blobs`."""
    home = Path(settings["AIRFLOW_HOME"])
    (home / "dags" / "deployments").mkdir(parents=True)
    (home / "dags" / "all.py").write_text(DAG_FILE)
    spec = {
        "name": "blobs",
        "model": "models:/blobs@challenger",
        "servers": ["triton_default"],
        "validate": {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}},
    }
    (home / "dags" / "deployments" / "blobs.yaml").write_text(json.dumps(spec))
    with DagRuns(home, home / "dags", settings, print) as runs:
        yield runs


def links(settings: dict[str, str], *tasks: str) -> list[dict[str, str | None]]:
    """What Airflow's API answers for these tasks (`DAG/dagRuns/RUN/taskInstances/TASK`)."""
    folders = {"AIRFLOW__CORE__DAGS_FOLDER": f"{settings['AIRFLOW_HOME']}/dags"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    asked = subprocess.run(
        [sys.executable, "-c", ASKS, *tasks],
        env={**inherited, **settings, **folders},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr[-3000:]
    return [json.loads(line.removeprefix("links: ")) for line in asked.stdout.splitlines() if line.startswith("links: ")]


def test_tasks_link_to_the_report_whatever_became_of_them(airflow: DagRuns, settings: dict[str, str], repository: LocalRepository) -> None:
    """The task that does it all, after a promotion and after a rejection; and the one that validates: a rejection fails both."""
    del repository  # it is emptied
    runs: list[tuple[str, dict[str, Any]]] = []
    for dag_id, version in (("whole", 1), ("whole", 2), ("deploy_blobs", 2)):
        Registry(settings["MLFLOW_TRACKING_URI"]).set_alias("blobs", "challenger", version)
        runs.append((dag_id, airflow.run(dag_id)))
    assert [run["state"] for _, run in runs] == ["success", "failed", "failed"]

    tasks = [f"{dag_id}/dagRuns/{run['run_id']}/taskInstances/{'deploy' if dag_id == 'whole' else 'validate'}" for dag_id, run in runs]
    told = links(settings, *tasks)

    for version, (_, run), found in zip((1, 2, 2), runs, told, strict=True):
        assert found["Validation report"] == run["report"]["links"]["report"]
        assert urlsplit(str(found["Validation report"])).fragment.endswith(f"/artifacts/triton/blobs/{version}/report.html")
        assert found["Model version in MLflow"] == f"{settings['MLFLOW_TRACKING_URI']}/#/models/blobs/versions/{version}"
