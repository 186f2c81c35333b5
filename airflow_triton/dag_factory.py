"""A DAG for each spec of a folder.

A DAG file needs three lines:

    from pathlib import Path
    from airflow_triton.dag_factory import deployment_dags
    globals().update(deployment_dags(Path(__file__).parent / "deployments"))
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, get_parsing_context
from airflow.sdk.exceptions import AirflowFailException

from airflow_triton.errors import SpecError
from airflow_triton.spec import Spec, find_spec_files, load_spec
from airflow_triton.task_groups import deployment_tasks

_DEFAULTS: dict[str, Any] = {"owner": "airflow-triton", "retries": 2, "retry_delay": timedelta(seconds=30)}


def deployment_dags(folder: str | Path) -> dict[str, DAG]:
    """One DAG `deploy_<name>` for each spec (`*.yaml`, `*.yml`, `*.json`) of `folder`, by id.

    A spec that is broken breaks only its own DAG: it becomes a DAG without a schedule, tagged `broken spec`, whose one task
    fails with what is wrong; Airflow shows the same as a warning of the DAG file.

    Nothing but the specs is read: no connection, no registry, no server.
    """
    found: dict[str, Spec | SpecError] = {}
    # All are read before one is built: in turn, each would drive the other out of the processor's cache.
    for path in find_spec_files(folder):
        try:
            spec = load_spec(path)
            dag_id = f"deploy_{spec.name}"
            if dag_id in found:
                raise SpecError(f"{path}: name: another spec in {folder} has the name {spec.name}")  # noqa: TRY301 said as any other
            found[dag_id] = spec
        except SpecError as error:
            warnings.warn(str(error), stacklevel=2)
            found.setdefault(f"deploy_{Path(path).stem}", error)
    wanted = get_parsing_context().dag_id  # on a worker: the one DAG that it is to run
    return {dag_id: _built(dag_id, declared) for dag_id, declared in found.items() if wanted in (None, dag_id)}


def _built(dag_id: str, declared: Spec | SpecError) -> DAG:
    """The DAG of a spec, or of what is wrong with it."""
    if isinstance(declared, SpecError):
        return _broken_dag(dag_id, declared)
    try:
        return deployment_dag(declared, dag_id=dag_id)
    except SpecError as error:
        warnings.warn(str(error), stacklevel=3)
        return _broken_dag(dag_id, error)


def deployment_dag(spec: Spec, *, dag_id: str | None = None) -> DAG:
    """The DAG of one spec: resolve, convert, configure, stage, validate, promote, and a clean-up whatever happens.

    With `schedule: registry` a watcher in the triggerer starts it when the registry asks for another version, or the spec has changed.

    With `promote.approval`, the task `approve` waits for a person before the promotion.
    """
    registry = spec.schedule == "registry"
    mapping = spec.written()  # Airflow looks through it for templates, once for each task: the shorter the better
    with DAG(
        dag_id or f"deploy_{spec.name}",
        description=f"{spec.model} to Triton, as `{spec.name}`",
        schedule=[_watched(spec)] if registry else spec.schedule,
        catchup=False,
        max_active_runs=1,
        default_args=_DEFAULTS,
        tags=["triton", "deployment"],
        doc_md=f"The spec:\n```yaml\n{_yaml(mapping)}\n```",
    ) as dag:
        deployment_tasks(mapping, plans=spec.convert.plans, approval=spec.promote.approval, skip_rejected=registry)
    return dag


def _yaml(mapping: Mapping[str, Any]) -> str:
    """The mapping in YAML, a line for each key: JSON is YAML, too, and far quicker to make."""
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in mapping.items())


def _watched(spec: Spec) -> Any:
    """Imported where a spec needs it: the others' DAG files do without the triggers."""
    from airflow_triton.triggers.registry import watched

    return watched(spec)


class BrokenSpecOperator(BaseOperator):
    """Fails with what is wrong in a spec.

    :param problem: what is wrong
    """

    def __init__(self, *, problem: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problem = problem

    def execute(self, context: Any) -> None:  # noqa: ARG002 Airflow's signature
        """See the class."""
        raise AirflowFailException(self.problem)


def _broken_dag(dag_id: str, error: SpecError) -> DAG:
    with DAG(dag_id, description="broken spec", schedule=None, tags=["triton", "broken spec"], doc_md=f"```\n{error}\n```") as dag:
        BrokenSpecOperator(task_id="broken_spec", problem=str(error))
    return dag
