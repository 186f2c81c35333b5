"""The steps of a deployment as tasks: of a DAG of their own, or as a group in a team's DAG; and what takes a promotion back.

A DAG of a team's own needs three lines:

    deployed = deploy_model("/opt/airflow/dags/deployments/iris.yaml", model="models:/iris/{{ ti.xcom_pull(task_ids='train') }}")
    train() >> deployed
    rollback_on_failure(deployed, smoke_test(deployed.outcome))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow.sdk import BaseOperator, TaskGroup

from airflow_triton.assets import served_model
from airflow_triton.errors import SpecError
from airflow_triton.operators.deploy import RollbackModelOperator
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
from airflow_triton.spec import Promote, TensorRT, Worker, load_spec, spec_from_mapping
from airflow_triton.spec.convert import Convert


class DeployedModel(TaskGroup):
    """The group of `deploy_model`. What follows it follows the promotion: it is skipped where there was nothing to do, or a refusal."""

    tasks: DeploymentTasks

    @property
    def outcome(self) -> Any:
        """What PromoteModelOperator answers, for other tasks: `outcome["version"]`."""
        return self.tasks.promote.output


def deploy_model(
    spec: str | Mapping[str, Any], *, model: Any = None, group_id: str = "deploy_model", skip_rejected: bool = False, **arguments: Any
) -> DeployedModel:
    """The steps that a spec's own DAG has, as a task group: resolve, convert, configure, stage, validate, promote, and the clean-up.

    With `promote.approval` in the spec, the task `approve` is between the last two.

    Args:
        spec: the path of a spec file, which is read now, or its content as a mapping, whose values may hold Jinja templates and outputs
            of other tasks. What decides about the tasks (`name`, `convert`, `promote.approval`) must not.
        model: the model URI, instead of the spec's; perhaps a template, or the output of another task.
        group_id: the group's id in its DAG.
        skip_rejected: do not try a version again that this very spec has rejected (default: false).
        arguments: for all the operators, such as `retries` or `pool`.

    Raises:
        SpecError: the spec cannot be read, or is not right.

    """
    mapping = _mapping(spec, model)
    plans, approval = _section(mapping, "convert", Convert).plans, _section(mapping, "promote", Promote).approval
    group = DeployedModel(group_id, prefix_group_id=True, tooltip="an MLflow model to Triton")
    with group:
        group.tasks = deployment_tasks(mapping, plans=plans, approval=approval, skip_rejected=skip_rejected, **arguments)
    return group


def rollback_on_failure(deployed: DeployedModel, *checks: Any, task_id: str = "roll_back") -> RollbackModelOperator:
    """Let `checks` follow the deployment, and take its promotion back where one of them fails.

    `checks` are tasks or task groups. The task that goes back is a teardown: it runs once they are done, whatever became of them; it is
    skipped where they have not failed, where nothing was promoted, or where something else serves by now. The run fails with the check.
    """
    tasks = deployed.tasks
    followed = [task for check in checks for task in _tasks_of(check)]
    if not followed:
        raise SpecError("rollback_on_failure needs at least one task that may fail")
    back = RollbackModelOperator(
        task_id=task_id,
        spec=tasks.mapping,
        after=tasks.promote.output,
        checks=[task.task_id for task in followed],
        outlets=tasks.promote.outlets,
    )
    for check in checks:
        deployed >> check
    for task in followed:
        task >> back
    back.as_teardown(setups=tasks.resolve)
    return back


def _tasks_of(check: Any) -> list[Any]:
    """The tasks of a check: itself, those of a task group, or the one whose output it is."""
    if isinstance(check, TaskGroup):
        return list(check)
    return [getattr(check, "operator", check)]


@dataclass(frozen=True)
class DeploymentTasks:
    """The tasks of one deployment that others may want to follow, and the spec that they share."""

    mapping: Mapping[str, Any]
    resolve: ResolveModelOperator
    validate: ValidateModelOperator
    promote: PromoteModelOperator
    clean_up: CleanUpModelOperator


def deployment_tasks(
    mapping: Mapping[str, Any], *, plans: TensorRT | None, approval: bool, skip_rejected: bool = False, **arguments: Any
) -> DeploymentTasks:
    """The tasks of one deployment, in the DAG or the group that is open: one for each step, and a clean-up whatever happens.

    Args:
        mapping: the spec, which all tasks share, perhaps with templates in it.
        plans: the spec's `convert.plans`: how TensorRT plans are built, each by a task of its own; None where none are.
        approval: the spec's `promote.approval`: whether a task waits for a person.
        skip_rejected: do not try a version again that this very spec has rejected.
        arguments: for all the operators.

    Raises:
        SpecError: see `placed`.

    """
    shared = {"spec": mapping, **arguments}
    resolve = ResolveModelOperator(task_id="resolve", skip_rejected=skip_rejected, **shared)
    convert = ConvertModelOperator(task_id="convert", source=resolve.output, **shared)
    converted = convert.output if plans is None else _assembled(convert, plans, shared).output
    configure = ConfigureModelOperator(task_id="configure", converted=converted, **shared)
    stage = StageModelOperator(task_id="stage", converted=converted, config=configure.output, **shared)
    validate = ValidateModelOperator(task_id="validate", candidate=stage.output, **shared)
    promote = PromoteModelOperator(
        task_id="promote",
        candidate=stage.output,
        report=validate.output,
        approval=_approval(stage, validate, shared) if approval else None,
        outlets=[served_model(mapping["name"])],
        **shared,
    )
    clean_up = CleanUpModelOperator(task_id="clean_up", source=resolve.output, **shared)
    promote >> clean_up.as_teardown(setups=resolve)
    return DeploymentTasks(mapping, resolve, validate, promote, clean_up)


def _mapping(spec: str | Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The spec as a mapping, with another model where one is given; what holds no templates is checked now."""
    mapping = dict(spec) if isinstance(spec, Mapping) else load_spec(spec).to_mapping()
    if model is not None:
        mapping["model"] = model
    if _late(mapping.get("name", "")):
        raise SpecError("`name` decides which asset there is, so it cannot be a template or the output of a task")
    return mapping if _late(mapping) else spec_from_mapping(mapping).to_mapping()


def _late(value: Any) -> bool:
    """Whether a value is known only when the task runs."""
    if isinstance(value, Mapping):
        return any(map(_late, value.values()))
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Sequence):
        return any(map(_late, value))
    return not isinstance(value, bool | int | float | None)


def _section(mapping: Mapping[str, Any], key: str, kind: Any) -> Any:
    """A section of the spec that decides about the tasks."""
    section = mapping.get(key, {})
    if _late(section):
        raise SpecError(f"`{key}` decides which tasks there are, so it cannot hold templates or outputs of tasks")
    return kind.model_validate(section)


def _approval(stage: BaseOperator, validate: BaseOperator, shared: Mapping[str, Any]) -> Any:
    """What a person answers who is asked."""
    from airflow_triton.operators.approve import ApproveModelOperator

    return ApproveModelOperator(task_id="approve", candidate=stage.output, report=validate.output, **shared).output


def _assembled(convert: ConvertModelOperator, plans: TensorRT, shared: Mapping[str, Any]) -> AssemblePlansOperator:
    """The task that puts the TensorRT plans of a conversion together, each built by a task on its own worker."""
    built = [
        BuildPlanOperator(
            **{
                "task_id": f"build_plan_{kind}" if kind else "build_plan",
                "converted": convert.output,
                "kind": kind,
                **shared,
                **placed(worker),
            }
        )
        for kind, worker in plans.workers().items()
    ]
    return AssemblePlansOperator(task_id="assemble", converted=convert.output, plans=[plan.output for plan in built], **shared)


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
