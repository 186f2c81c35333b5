"""The whole pipeline in one task, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from airflow_triton.operators.base import TritonOperator, errors_for_airflow, report_pushed


class DeployModelOperator(TritonOperator):
    """All steps of the pipeline in one task. Answers the outcome: `action` (promoted, unchanged, loaded), `version`, `previous`, ...

    A candidate that does not pass fails the task for good, after its report was pushed (XCom `report`).

    :param spec: see TritonOperator (templated)
    """

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.rollout import deploy

        with self.rollout() as rollout, report_pushed(context):
            outcome = deploy(rollout)
        if outcome.report is not None:
            context["ti"].xcom_push(key="report", value=outcome.report.model_dump(mode="json"))
        return outcome.model_dump(mode="json", exclude={"report"})


class RollbackModelOperator(TritonOperator):
    """Let what served before serve again. Answers the outcome.

    :param spec: see TritonOperator (templated)
    :param to: the version to go to (templated); default: what served before the current release
    """

    template_fields: Sequence[str] = ("spec", "to")

    def __init__(self, *, to: int | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to

    def execute(self, context: Context) -> Any:  # noqa: ARG002 Airflow's signature
        """See the class."""
        from airflow_triton.registry import Registry
        from airflow_triton.rollout import rollback
        from airflow_triton.rollout.serving import Servers

        with errors_for_airflow():
            spec = self.loaded_spec()
            target = self.target(spec)
            with Servers.connected(target.addresses) as servers:
                outcome = rollback(
                    spec.name,
                    store=target.store,
                    servers=servers,
                    registry=Registry(spec.tracking_uri),
                    to=int(self.to) if self.to not in (None, "") else None,
                    progress=self.log.info,
                )
        return outcome.model_dump(mode="json")
