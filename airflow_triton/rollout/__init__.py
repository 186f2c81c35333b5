"""The pipeline: from a spec to a model that serves, and back.

`pipeline` is the sequence itself; `converted_files`, `conversions`, `plans` and `examination` its longer steps; `records` what
travels between its steps; `serving` the servers of one model taken together;
`verdicts` what MLflow is told; `target` where it all goes; `rollback`, `adoption`, `delete`, `plan` (what would be done), `status` (with
`drift`, its words) and `history` what their names say.
"""

from airflow_triton.rollout.adoption import adopt
from airflow_triton.rollout.author import author
from airflow_triton.rollout.delete import Deleted, Deletion, delete
from airflow_triton.rollout.history import Event, history
from airflow_triton.rollout.pipeline import Rollout, deploy
from airflow_triton.rollout.plan import Plan, plan
from airflow_triton.rollout.plans import BuiltPlan
from airflow_triton.rollout.records import Candidate, Converted, Outcome
from airflow_triton.rollout.revalidation import revalidate
from airflow_triton.rollout.rollback import rollback
from airflow_triton.rollout.status import Status, status, status_of_all
from airflow_triton.rollout.target import Connections, Target, find_target, opened

__all__ = [
    "BuiltPlan",
    "Candidate",
    "Connections",
    "Converted",
    "Deleted",
    "Deletion",
    "Event",
    "Outcome",
    "Plan",
    "Rollout",
    "Status",
    "Target",
    "adopt",
    "author",
    "delete",
    "deploy",
    "find_target",
    "history",
    "opened",
    "plan",
    "revalidate",
    "rollback",
    "status",
    "status_of_all",
]
