"""A fleet: two replicas serve from one repository, a new version reaches them one by one, and a smoke test may take it back.

The spec (`fleet/spec.yaml`) names the connections `triton_a` and `triton_b`. Promotion loads the version on one, asks it, and goes on to
the other; what fails on either leaves both as they were. Then `smoke_test` asks every replica as a client would. If it fails, `roll_back`
brings the version back that served before, on both, and the run fails.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_triton.task_groups import deploy_model, rollback_on_failure

SPEC = Path(__file__).parent / "fleet" / "spec.yaml"


@task(retries=0)
def smoke_test(outcome: dict[str, Any]) -> list[str]:
    """Ask each replica for the digit of an empty image; answer which ones have answered."""
    import numpy as np

    from airflow_triton.hooks.triton import TritonHook

    asked = []
    for connection in ("triton_a", "triton_b"):
        with TritonHook(connection).get_conn() as client:
            found = client.infer(outcome["name"], {"input": np.zeros((1, 64), np.float32)}, version=outcome["version"])
        if not all(np.isfinite(answer).all() for answer in found.values()):
            raise RuntimeError(f"{connection} answers {found}")
        asked.append(connection)
    return asked


with DAG(
    "deploy_digits_fleet",
    description="two replicas, one after the other, and a smoke test",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "airflow-triton", "retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["triton", "deployment"],
    doc_md=__doc__,
):
    deployed = deploy_model(str(SPEC), group_id="deploy")
    rollback_on_failure(deployed, smoke_test(deployed.outcome))
