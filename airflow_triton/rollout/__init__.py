"""The pipeline: from a spec to a model that serves, and back.

`pipeline` is the sequence itself; `conversions`, `plans` and `examination` its longer steps; `records` what
travels between its steps; `serving` the servers of one model taken together;
`verdicts` what MLflow is told; `target` where it all goes; `rollback`, `adoption` and `status` what their names say.
"""

from airflow_triton.rollout.adoption import adopt
from airflow_triton.rollout.pipeline import Rollout, deploy
from airflow_triton.rollout.plans import BuiltPlan
from airflow_triton.rollout.records import Candidate, Converted, Outcome
from airflow_triton.rollout.rollback import rollback
from airflow_triton.rollout.status import Status, status, status_of_all
from airflow_triton.rollout.target import Connections, Target, find_target, opened

__all__ = [
    "BuiltPlan",
    "Candidate",
    "Connections",
    "Converted",
    "Outcome",
    "Rollout",
    "Status",
    "Target",
    "adopt",
    "deploy",
    "find_target",
    "opened",
    "rollback",
    "status",
    "status_of_all",
]
