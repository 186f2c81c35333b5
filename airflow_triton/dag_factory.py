"""A DAG for each spec of a folder.

A DAG file needs three lines:

    from pathlib import Path
    from airflow_triton.dag_factory import deployment_dags
    globals().update(deployment_dags(Path(__file__).parent / "deployments"))
"""

from __future__ import annotations

import json
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, get_parsing_context
from airflow.sdk.exceptions import AirflowFailException

from airflow_triton.errors import SpecError
from airflow_triton.operators.steps import (
    AssemblePlansOperator,
    BuildPlanOperator,
    CleanUpModelOperator,
    ConfigureModelOperator,
    ConvertModelOperator,
    PromoteModelOperator,
    ResolveModelOperator,
    StageModelOperator,
    ValidateModelOperator,
)
from airflow_triton.spec import Spec, Worker, find_spec_files, load_spec

REGISTRY_INTERVAL = timedelta(minutes=5)
"""How often a deployment with `schedule: registry` looks at the registry; a run that finds nothing new is quick."""

_DEFAULTS: dict[str, Any] = {"owner": "airflow-triton", "retries": 2, "retry_delay": timedelta(seconds=30)}
_START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def deployment_dags(folder: str | Path) -> dict[str, DAG]:
    """One DAG `deploy_<name>` for each spec (`*.yaml`, `*.yml`, `*.json`) of `folder`, by id.

    A spec that is broken breaks only its own DAG: it becomes a DAG without a schedule, tagged `broken spec`, whose one task
    fails with what is wrong; Airflow shows the same as a warning of the DAG file.

    Nothing but the specs is read: no connection, no registry, no server.
    """
    wanted = get_parsing_context().dag_id  # on a worker: the one DAG that it is to run
    dags: dict[str, DAG] = {}
    for path in find_spec_files(folder):
        try:
            spec = load_spec(path)
            dag_id, taken = f"deploy_{spec.name}", f"deploy_{spec.name}" in dags
            if taken:
                raise SpecError(f"{path}: name: another spec in {folder} has the name {spec.name}")  # noqa: TRY301 said as any other
            if wanted in (None, dag_id):
                dags[dag_id] = deployment_dag(spec, dag_id=dag_id)
        except SpecError as error:
            warnings.warn(str(error), stacklevel=2)
            dag_id = f"deploy_{path.stem}"
            if wanted in (None, dag_id) and dag_id not in dags:
                dags[dag_id] = _broken_dag(dag_id, error)
    return dags


def deployment_dag(spec: Spec, *, dag_id: str | None = None) -> DAG:
    """The DAG of one spec: resolve, convert, configure, stage, validate, promote, and a clean-up whatever happens."""
    registry = spec.schedule == "registry"
    mapping = spec.to_mapping()
    with DAG(
        dag_id or f"deploy_{spec.name}",
        description=f"{spec.model} to Triton, as `{spec.name}`",
        schedule=REGISTRY_INTERVAL if registry else spec.schedule,
        start_date=_START,
        catchup=False,
        max_active_runs=1,
        default_args=_DEFAULTS,
        tags=["triton", "deployment"],
        doc_md=f"The spec:\n```json\n{json.dumps(mapping, indent=2)}\n```",
    ) as dag:
        resolve = ResolveModelOperator(task_id="resolve", spec=mapping, skip_rejected=registry)
        convert = ConvertModelOperator(task_id="convert", spec=mapping, source=resolve.output)
        converted = _with_plans(spec, mapping, convert).output
        configure = ConfigureModelOperator(task_id="configure", spec=mapping, converted=converted)
        stage = StageModelOperator(task_id="stage", spec=mapping, converted=converted, config=configure.output)
        validate = ValidateModelOperator(task_id="validate", spec=mapping, candidate=stage.output)
        promote = PromoteModelOperator(task_id="promote", spec=mapping, candidate=stage.output, report=validate.output)
        clean_up = CleanUpModelOperator(task_id="clean_up", spec=mapping, source=resolve.output)
        promote >> clean_up.as_teardown(setups=resolve)
    return dag


def _with_plans(spec: Spec, mapping: dict[str, Any], convert: ConvertModelOperator) -> BaseOperator:
    """The task whose answer is what Triton serves: the conversion, or what puts its TensorRT plans together, each built on its worker."""
    if spec.convert.plans is None:
        return convert
    plans = [
        BuildPlanOperator(
            task_id=f"build_plan_{kind}" if kind else "build_plan", spec=mapping, converted=convert.output, kind=kind, **placed(worker)
        )
        for kind, worker in spec.convert.plans.workers().items()
    ]
    return AssemblePlansOperator(task_id="assemble", spec=mapping, converted=convert.output, plans=[plan.output for plan in plans])


def placed(worker: Worker) -> dict[str, Any]:
    """Where a task runs, as the arguments of an operator: its queue (Celery), pool, executor, and pod (Kubernetes).

    Raises:
        SpecError: `pod_override` is no pod, or needs the provider for Kubernetes, which is not installed.

    """
    chosen: dict[str, Any] = worker.model_dump(exclude_none=True, exclude={"pod_override"})
    if worker.pod_override is None:
        return chosen
    try:
        from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    except ImportError as error:
        reason = f"convert.tensorrt.pod_override needs the package apache-airflow-providers-cncf-kubernetes ({error})"
        raise SpecError(reason) from error
    try:
        pod = PodGenerator.deserialize_model_dict(worker.pod_override)
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"convert.tensorrt.pod_override is no Kubernetes pod: {error}") from error
    return {**chosen, "executor_config": {"pod_override": pod}}


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
    with DAG(
        dag_id, description="broken spec", schedule=None, start_date=_START, tags=["triton", "broken spec"], doc_md=f"```\n{error}\n```"
    ) as dag:
        BrokenSpecOperator(task_id="broken_spec", problem=str(error))
    return dag
