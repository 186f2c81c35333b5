"""The links of a task in Airflow's pages: to the report of its validation, to the model version in MLflow, to the model on Triton."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.sdk import BaseOperatorLink


class _Link(BaseOperatorLink):
    """Made of what the task pushed; none where a browser could not follow it. It is asked once, by the worker, when the task is done."""

    key: ClassVar[str]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 Airflow's signature
        """See Airflow's class."""
        link = self._found(ti_key)
        return link if link.startswith(("http://", "https://")) else ""

    def _found(self, ti_key: Any) -> str:
        """One of the links of the report that the task pushed (XCom `report`)."""
        report = _pushed(ti_key, "report")
        return str(report.get("links", {}).get(self.key, "")) if isinstance(report, dict) else ""


class ValidationReportLink(_Link):
    """To the report, among the artifacts of the model version's MLflow run."""

    name = "Validation report"
    key = "report"


class ModelVersionLink(_Link):
    """To the page of the model version in MLflow."""

    name = "Model version in MLflow"
    key = "model"


class TritonModelLink(_Link):
    """To the version that serves, as the first server says it that speaks HTTP (XCom `model_url`)."""

    name = "Model on Triton"
    key = "model_url"

    def _found(self, ti_key: Any) -> str:
        return str(_pushed(ti_key, self.key) or "")


def _pushed(ti_key: Any, key: str) -> Any:
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_value(ti_key=ti_key, key=key)


REPORT_LINKS = (ValidationReportLink(), ModelVersionLink())
SERVING_LINKS = (TritonModelLink(),)
