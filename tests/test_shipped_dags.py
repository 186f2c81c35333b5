"""The DAGs of `dags/`, as they are shipped, in a real Airflow against a real MLflow and two replicas of the local Triton."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from airflow_triton.demo.dag_runs import DagRuns
from airflow_triton.demo.models import train_and_register
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, releases
from airflow_triton.server import ServerAddress, TritonClient

DAGS = Path(__file__).parents[1] / "dags"


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalTriton, LocalTriton]]:
    """Two servers over one repository."""
    folder = tmp_path_factory.mktemp("replicas") / "models"
    with LocalTriton(folder) as first, LocalTriton(folder) as second:
        yield first, second


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real MLflow store with the digits of the tour: versions 1 and 3 are good, version 2 is not."""
    return f"sqlite:///{tmp_path_factory.mktemp('digits')}/mlflow.db"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, replicas: tuple[LocalTriton, LocalTriton], tracking: str) -> Iterator[DagRuns]:
    """An Airflow with the shipped DAG folder, its two connections, and what the environment has to say."""
    home = tmp_path_factory.mktemp("airflow")
    shutil.copytree(DAGS, home / "dags")
    settings = {
        "MLFLOW_TRACKING_URI": tracking,
        "TRITON_MODEL_REPO": str(replicas[0].repository),
        "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": replicas[0].grpc_url}),
        "AIRFLOW_CONN_TRITON_A": json.dumps({"conn_type": "triton", "host": replicas[0].grpc_url}),
        "PYTHONWARNINGS": "default::DeprecationWarning",
        "AIRFLOW_CONN_TRITON_B": json.dumps({"conn_type": "triton", "host": replicas[1].http_url}),
    }
    with DagRuns(home, home / "dags", settings, print) as runs:
        artifacts = tmp_path_factory.mktemp("artifacts")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)  # MLflow puts the artifacts of new experiments below the working directory
            train_and_register(tracking, artifacts, home / "dags" / "deployments" / "digits-holdout.csv", print)
        yield runs


@pytest.fixture(scope="module")
def store(replicas: tuple[LocalTriton, LocalTriton]) -> LocalRepository:
    return LocalRepository(replicas[0].repository)


def test_retraining_promotes_only_what_is_good(airflow: DagRuns, store: LocalRepository, tmp_path: Path) -> None:
    """Good rows end in a promotion; bad rows before the training; a model that learned nothing before the promotion."""
    came = airflow.run("retrain_digits")
    assert came["state"] == "success"
    assert came["answers"]["check_data"]["rows"] == 1797
    assert came["answers"]["deploy.promote"]["action"] == "promoted"
    assert [event["uri"] for event in came["events"]] == ["triton://models/digits-weekly"]

    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rows = pd.DataFrame(images, columns=[f"pixel_{number}" for number in range(64)]).assign(label=labels)
    torn = rows.copy()
    torn.loc[3, "pixel_36"] = np.nan
    torn.to_csv(tmp_path / "torn.csv", index=False)
    came = airflow.run("retrain_digits", {"data": str(tmp_path / "torn.csv")})
    assert (came["state"], came["tasks"]["check_data"], came["tasks"]["train"]) == ("failed", "failed", "upstream_failed")
    assert "pixel_36" in airflow.log.read_text()

    shuffled = rows.assign(label=np.random.default_rng(0).permutation(labels))
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    came = airflow.run("retrain_digits", {"data": str(tmp_path / "shuffled.csv")})
    assert (came["state"], came["tasks"]["train"], came["tasks"]["deploy.validate"]) == ("failed", "success", "failed")
    assert {check["name"] for check in came["report"]["checks"] if not check["passed"]} >= {"accuracy"}
    assert [release.version for release in releases(store, "digits-weekly")] == [1]
    assert store.candidates("digits-weekly") == []


def test_the_registry_the_night_and_the_way_back(airflow: DagRuns, store: LocalRepository, tracking: str) -> None:
    """An alias that moves is followed; what serves is validated again; a form brings the version before back."""
    registry = Registry(tracking)
    registry.set_alias("digits", "challenger", 1)
    assert airflow.run("revalidate")["tasks"] == {"revalidate[0]": "skipped"}  # nothing serves yet
    for version in (1, 3):
        registry.set_alias("digits", "challenger", version)
        assert airflow.run("deploy_digits")["state"] == "success"
    came = airflow.run("deploy_digits-live")
    assert (came["state"], came["events"][0]["extra"]["version"]) == ("success", 3)
    assert airflow.run("after_digits_live")["state"] == "success"

    came = airflow.run("revalidate")
    assert came["tasks"] == {"revalidate[0]": "success"}
    assert came["report"]["passed"]

    came = airflow.run("roll_back", {"name": "digits"})
    assert (came["state"], came["answers"]["roll_back"]["version"]) == ("success", 1)
    came = airflow.run("roll_back", {"name": "digits", "version": 3})
    assert (came["state"], came["answers"]["roll_back"]["version"]) == ("success", 3)
    assert [release.version for release in releases(store, "digits")] == [1, 3, 1, 3]


def test_the_fleet_follows_together(airflow: DagRuns, replicas: tuple[LocalTriton, LocalTriton], tracking: str) -> None:
    """Both replicas serve the new version, and both were asked by the smoke test."""
    Registry(tracking).set_alias("digits", "challenger", 1)

    came = airflow.run("deploy_digits_fleet")

    assert (came["state"], came["answers"]["smoke_test"], came["tasks"]["roll_back"]) == ("success", ["triton_a", "triton_b"], "skipped")
    for replica in replicas:
        with TritonClient(ServerAddress.parse(replica.grpc_url)) as client:
            assert client.ready_versions("digits-fleet") == (1,)


def test_no_run_used_what_is_deprecated(airflow: DagRuns) -> None:
    """Neither the operators nor the DAGs: Python names the file whose line did it."""
    told = [line for line in airflow.log.read_text().splitlines() if re.search(r"/(airflow_triton|dags)/\S+\.py:\d+: \w*Warning", line)]

    assert [line for line in told if "UserWarning" not in line] == []


def test_every_shipped_dag_was_run() -> None:
    """A DAG that is added to `dags/` wants a run here."""
    found: set[Any] = {path.stem for path in DAGS.glob("*.py")}

    assert found == {"deployments", "fleet", "registry", "retraining", "revalidation", "rollback"}
