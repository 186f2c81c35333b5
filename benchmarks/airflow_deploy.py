"""What Airflow adds to a deployment: from the start of a run to its end, of a model that needs no conversion.

PostgreSQL, Airflow's four processes (LocalExecutor) and Triton on this machine. "This package" is the run of the DAG of a spec; "the other"
is first the same pipeline called in a process that is up already, then a DAG of the same shape whose tasks do nothing, which is Airflow's
own share.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from _measure import ROUNDS, row, table
from conftest import CENTRES, classifier, register
from live.airflow import Airflow
from live.postgres import PostgreSQL
from mlflow import MlflowClient

from airflow_triton.local_triton import LocalTriton
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.spec import spec_from_mapping

DAG_FILE = """
from pathlib import Path
from airflow.sdk import DAG, task
from airflow_triton.dag_factory import deployment_dags

globals().update(deployment_dags(Path(__file__).parent / "deployments"))

@task
def nothing(value=None):
    return {}

with DAG("nothing", schedule=None, max_active_runs=1):
    resolve = nothing.override(task_id="resolve")()
    convert = nothing.override(task_id="convert")(resolve)
    configure = nothing.override(task_id="configure")(convert)
    stage = nothing.override(task_id="stage")(configure)
    validate = nothing.override(task_id="validate")(stage)
    promote = nothing.override(task_id="promote")(validate)
    promote >> nothing.override(task_id="clean_up")(resolve)
"""


def between(run: dict[str, str]) -> float:
    """Seconds from the moment that a run was queued to its end."""
    return (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["queued_at"])).total_seconds()


def took(airflow: Airflow, dag_id: str) -> float:
    """Seconds of one run by hand."""
    run_id = airflow.api.trigger(dag_id)
    state = airflow.api.await_end(dag_id, run_id)
    assert state == "success", airflow.api.tasks(dag_id, run_id)
    return between(airflow.api.run(dag_id, run_id))


def main() -> None:
    """Print the table."""
    home = Path(tempfile.mkdtemp(prefix="airflow-triton-bench-"))
    tracking = f"sqlite:///{home}/mlflow.db"
    os.environ["AIRFLOW_TRITON_CACHE"] = "false"
    MlflowClient(tracking).create_experiment("tests", artifact_location=(home / "artifacts").as_uri())
    for _ in range(2 * ROUNDS + 1):
        register(tracking, "blobs", classifier(CENTRES.T), input_example={"input": CENTRES})
    with LocalTriton(home / "models", extra_args=["--disable-auto-complete-config"]) as triton, PostgreSQL(home / "postgres") as database:
        spec = {
            "name": "blobs",
            "model": "models:/blobs@next",
            "servers": [triton.grpc_url],
            "tracking_uri": tracking,
            "repository": str(home / "models"),
            "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
        }
        (home / "dags" / "deployments").mkdir(parents=True)
        (home / "dags" / "deployments" / "blobs.yaml").write_text(json.dumps(spec))
        (home / "dags" / "all.py").write_text(DAG_FILE)
        airflow = Airflow(home / "airflow", home / "dags", database.url("airflow"), {"AIRFLOW_TRITON_CACHE": "false"})
        airflow.migrate()
        with airflow:
            compare(airflow, spec)


def compare(airflow: Airflow, spec: dict[str, object]) -> None:
    """Each way in turns, the same number of times, each deployment of a version that was not there before."""
    from airflow_triton.registry import Registry

    registry, versions = Registry(str(spec["tracking_uri"])), iter(range(1, 2 * ROUNDS + 2))

    def called() -> float:
        registry.set_alias("blobs", "next", next(versions))
        parsed = spec_from_mapping(spec)
        started = time.perf_counter()
        with opened(parsed, find_target(parsed)) as rollout:
            assert deploy(rollout).action == "promoted"
        return time.perf_counter() - started

    for dag_id in ("deploy_blobs", "nothing"):
        airflow.api.await_dag(dag_id)
    called()  # whatever is imported for the first time
    in_process, by_airflow, empty = [], [], []
    for _ in range(ROUNDS):
        in_process.append(called())
        empty.append(took(airflow, "nothing"))
        registry.set_alias("blobs", "next", next(versions))
        by_airflow.append(took(airflow, "deploy_blobs"))
    table("A deployment with nothing to convert, from the start of the run to its end", " ".join((__doc__ or "").split("\n\n")[1].split()))
    row("against the pipeline in one process", by_airflow, in_process)
    row("against a DAG of the same shape that does nothing", by_airflow, empty)
    share = statistics.median(one / two for one, two in zip(empty, by_airflow, strict=True))
    print(f"\nAirflow's own share: {share:.0%} of {statistics.median(by_airflow):.1f} s, for seven tasks one after the other.", flush=True)


if __name__ == "__main__":
    main()
