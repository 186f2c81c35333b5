"""The whole pipeline in one task, the way back, and another look at what serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_triton.operators.base import TritonOperator, errors_for_airflow, report_pushed
from airflow_triton.operators.links import REPORT_LINKS, SERVING_LINKS
from airflow_triton.operators.serving import ServingOperator

if TYPE_CHECKING:
    from airflow_triton.repository import Repository

_FAILED = {"failed", "upstream_failed"}


class DeployModelOperator(ServingOperator):
    """All steps of the pipeline in one task. Answers the outcome: `action` (promoted, unchanged, loaded), `version`, `previous`, ...

    A candidate that does not pass fails the task for good, after its report was pushed (XCom `report`). A spec with `promote.approval`
    is refused before anything is staged: that wants the steps as tasks (`airflow_triton.task_groups.deploy_model`).
    A promotion is an event of the model's asset.

    :param spec: see TritonOperator (templated)
    """

    operator_extra_links = (*REPORT_LINKS, *SERVING_LINKS)

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.repository import releases
        from airflow_triton.rollout import deploy

        with self.rollout() as rollout, report_pushed(context):
            outcome = deploy(rollout)
            by_this_task = releases(rollout.store, outcome.name)[-1].by == rollout.by  # perhaps by an earlier try of it
            if outcome.action == "promoted" or by_this_task:
                self.tell_serving(
                    context, outcome, store=rollout.store, servers=rollout.servers, tracking_uri=rollout.registry.tracking_uri
                )
        if outcome.report is not None:
            context["ti"].xcom_push(key="report", value=outcome.report.model_dump(mode="json"))
        return outcome.model_dump(mode="json", exclude={"report"})


class RollbackModelOperator(ServingOperator):
    """Let what served before serve again. Answers the outcome. It is an event of the model's asset, as a promotion is.

    A second try of the same task goes no further back than the first one did.

    :param spec: see TritonOperator (templated)
    :param to: the version to go to (templated); default: what served before the current release
    :param after: what PromoteModelOperator or DeployModelOperator answered in this run (templated). Then it goes back only if that let a
        new version serve, which still does, and one of `checks` failed; else it is skipped.
    :param checks: the ids of the tasks, upstream of this one, whose failure takes the promotion back
    """

    template_fields: Sequence[str] = ("spec", "to", "after")

    def __init__(self, *, to: int | str | None = None, after: Any = None, checks: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.after = after
        self.checks = checks

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.registry import Registry
        from airflow_triton.rollout import rollback
        from airflow_triton.rollout.promotion import all_servers

        if self.checks:
            self._skip_unless_failed(context)
        with errors_for_airflow():
            spec = self.loaded_spec()
            registry = Registry(spec.tracking_uri)
            with self.target(spec).connected() as fleets, self.killable():
                first, *others = fleets
                outcome = rollback(
                    spec.name,
                    store=first.store,
                    servers=first.servers,
                    others=others,
                    registry=registry,
                    to=self._to(spec.name, first.store),
                    progress=self.log.info,
                )
                self.tell_serving(context, outcome, store=first.store, servers=all_servers(fleets), tracking_uri=registry.tracking_uri)
        return outcome.model_dump(mode="json")

    def _skip_unless_failed(self, context: Context) -> None:
        if not isinstance(self.after, Mapping) or self.after.get("action") != "promoted":
            raise AirflowSkipException("this run has promoted nothing: there is nothing to take back")
        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, task_ids=list(self.checks), run_ids=[ti.run_id]).get(ti.run_id, {})
        failed = sorted(task_id for task_id, state in states.items() if str(state) in _FAILED)
        if not failed:
            raise AirflowSkipException(f"{', '.join(self.checks)} did not fail: version {self.after['version']} stays")
        self.log.info("%s failed: version %s is taken back", ", ".join(failed), self.after["version"])

    def _to(self, model: str, store: Repository) -> int | None:
        """The version to go to; None: what served before."""
        from airflow_triton.repository import releases
        from airflow_triton.rollout import author

        if self.to not in (None, ""):
            return int(str(self.to))
        found = releases(store, model)
        if found and found[-1].how == "rollback" and found[-1].by == author():
            return found[-1].version  # an earlier try of this task came so far
        if isinstance(self.after, Mapping) and found and found[-1].version != self.after["version"]:
            raise AirflowSkipException(f"version {found[-1].version} was released meanwhile: there is nothing to take back")
        return None


class RevalidateModelOperator(TritonOperator):
    """Hold what serves against its spec again, on every server. Stages and promotes nothing. Answers the report.

    A version that does not pass any more fails the task for good, after its report was pushed (XCom `report`); it goes on serving.
    Where nothing is released yet, the task is skipped.

    :param spec: see TritonOperator (templated)
    """

    operator_extra_links = REPORT_LINKS

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.repository import releases
        from airflow_triton.rollout import revalidate

        with self.rollout() as rollout:
            if not releases(rollout.store, rollout.spec.name):
                raise AirflowSkipException(f"nothing is released of `{rollout.spec.name}`")
            report = revalidate(rollout)
        answer = report.model_dump(mode="json")
        context["ti"].xcom_push(key="report", value=answer)
        if not report.passed:
            raise AirflowFailException(f"{report.model}, which serves as `{report.name}`, is {report.verdict}; it goes on serving")
        return answer
