"""Back to what served before, by hand: start it, choose the deployment, and perhaps a version.

The exact files and the exact configuration of an earlier release serve again, compared with their digests first. Without a version it
is what served before the current release.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, Param

from airflow_triton.operators.deploy import RollbackModelOperator
from airflow_triton.spec import find_spec_files

SPECS = {Path(path).stem: path for path in find_spec_files(Path(__file__).parent / "deployments")}

with DAG(
    "roll_back",
    description="an earlier release serves again",
    schedule=None,
    max_active_runs=1,
    default_args={"owner": "airflow-triton"},
    params={
        "name": Param(next(iter(SPECS), ""), type="string", enum=[*SPECS], description="the deployment: its spec's file"),
        "version": Param(None, type=["null", "integer"], minimum=1, description="the version; default: what served before"),
    },
    user_defined_macros={"specs": SPECS},
    tags=["triton", "rollback"],
    doc_md=__doc__,
):
    RollbackModelOperator(task_id="roll_back", spec="{{ specs[params.name] }}", to="{{ params.version or '' }}")
