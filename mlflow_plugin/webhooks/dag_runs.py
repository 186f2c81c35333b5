"""Runs of Airflow: the DAG `deploy_<name>`, started once for each thing that the registry asks for."""

from __future__ import annotations

import contextlib
from typing import Protocol

from airflow_triton.rollout.following import RUN_PREFIX, Wanted
from mlflow_plugin.webhooks.starting import StartError, deploys, next_run_id


class UnknownDagError(Exception):
    """Airflow has no such DAG (yet)."""


class Airflow(Protocol):
    """What is needed of an Airflow. Both raise UnknownDagError, or StartError where Airflow does not answer or refuses."""

    def newest_run(self, dag_id: str, prefix: str) -> str | None:
        """The id of the DAG's newest run whose id starts with `prefix`; None where there is none."""

    def start_run(self, dag_id: str, run_id: str) -> bool:
        """Start a run; false where there is one of this id already."""

    def tell_watcher(self, wanted: Wanted) -> None:
        """Let the watcher of the deployment's asset know what a run was started for: it would start another one."""


class DagStarter:
    """Starts DAG runs. Nothing of it is kept here: Airflow knows its runs, whoever else starts them."""

    def __init__(self, airflow: Airflow) -> None:
        self._airflow = airflow
        self._there: dict[str, Wanted] = {}

    def begin(self) -> None:
        """Do nothing: Airflow itself goes on with its runs."""

    def end(self) -> None:
        """Do nothing: see `begin`."""

    def start(self, wanted: Wanted, *, told: bool) -> str:
        """See Starter. Where only the state of the registry asks, Airflow is asked once for each thing."""
        dag_id = f"deploy_{wanted.name}"
        if not told and self._there.get(wanted.name) == wanted:
            return f"the DAG `{dag_id}` has the run of {wanted} already"
        try:
            answer = self._start(dag_id, wanted)
        except UnknownDagError:
            return f"warning: Airflow has no DAG `{dag_id}` for {wanted}: it comes with the DAG file of the specs"
        self._there[wanted.name] = wanted
        return answer

    def _start(self, dag_id: str, wanted: Wanted) -> str:
        newest = self._airflow.newest_run(dag_id, RUN_PREFIX)
        if newest is not None and deploys(newest, wanted):
            return f"the DAG `{dag_id}` has the run `{newest}` already"
        same = self._airflow.newest_run(dag_id, wanted.run_id)
        run_id = next_run_id(wanted, same if same and deploys(same, wanted) else None)
        if not self._airflow.start_run(dag_id, run_id):
            return f"the DAG `{dag_id}` has the run `{run_id}` already"
        with contextlib.suppress(StartError):  # its run would find the version released, and be skipped
            self._airflow.tell_watcher(wanted)
        return f"the DAG `{dag_id}` has the new run `{run_id}`, for {wanted}"
