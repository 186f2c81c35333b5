"""Every night, what serves is held against its spec again, on its servers: the same checks as before its promotion, on today's data.

One task for each spec in the folder `deployments`. A version that does not pass any more fails its task, which is when a pager should
ring; it goes on serving, for nothing is staged, promoted or taken back here. A spec of which nothing serves yet is skipped.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from airflow.sdk import DAG

from airflow_triton.operators.deploy import RevalidateModelOperator
from airflow_triton.spec import find_spec_files

SPECS = find_spec_files(Path(__file__).parent / "deployments")

with DAG(
    "revalidate",
    description="what serves, held against its spec again",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "airflow-triton", "retries": 2, "retry_delay": timedelta(minutes=1)},
    tags=["triton", "revalidation"],
    doc_md=__doc__,
):
    RevalidateModelOperator.partial(task_id="revalidate", map_index_template="{{ task.spec.split('/')[-1] }}").expand(spec=SPECS)
