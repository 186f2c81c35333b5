"""One DAG for each spec in the folder `deployments` beside this file."""

from pathlib import Path

from airflow_triton.dag_factory import deployment_dags

globals().update(deployment_dags(Path(__file__).parent / "deployments"))
