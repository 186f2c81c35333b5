"""A person's approval between the validation and the promotion."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context, Param

from airflow_triton.operators.base import errors_for_airflow, spec_of, target_of
from airflow_triton.operators.links import REPORT_LINKS

if TYPE_CHECKING:
    from airflow_triton.validation import ValidationReport

WAITS = timedelta(days=7)
"""So long the converted files of a candidate are kept, too."""
_NOBODY = "nobody"


class ApproveModelOperator(ApprovalOperator):
    """Wait until a person has approved or refused the validated candidate, in Airflow's pages or through its API.

    The person sees the verdict, what serves now, and the way to the report, and may leave a comment. Answers `approved`, `by`, `at` and
    `comment`. A refusal skips what follows, so that nothing is promoted, and is told to MLflow (verdict `refused`); the teardown
    CleanUpModelOperator removes the candidate. No answer in time is a refusal by nobody.

    While it waits the task takes no worker (from Airflow 3.3 on no triggerer either); the candidate stays loaded on the servers.

    :param spec: see TritonOperator (templated)
    :param candidate: what StageModelOperator answered (templated)
    :param report: what ValidateModelOperator answered (templated)
    :param response_timeout: how long to wait (default: 7 days)

    The other parameters are ApprovalOperator's, such as `assigned_users` and `notifiers`.
    """

    template_fields: Collection[str] = ("spec", "candidate", "report", "subject", "body")
    template_fields_renderers = {"spec": "json"}  # noqa: RUF012 Airflow's attribute
    operator_extra_links = REPORT_LINKS
    ui_color = "#76b900"

    def __init__(
        self,
        *,
        spec: str | Mapping[str, Any],
        candidate: Any,
        report: Any,
        response_timeout: timedelta | None = WAITS,
        **kwargs: Any,
    ) -> None:
        comment = Param("", type=["string", "null"], description="for the record, such as why it is refused")
        kwargs = {"subject": "", "params": {"comment": comment}, "defaults": self.REJECT, **kwargs}
        super().__init__(response_timeout=response_timeout, **kwargs)
        self.spec = spec
        self.candidate = candidate
        self.report = report

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.validation import ValidationReport

        report = ValidationReport.model_validate(self.report)
        context["ti"].xcom_push(key="report", value=self.report)
        self.subject = self.subject or f"Let {report.model} serve as `{report.name}`?"
        self.body = self.body or asked(report)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take the answer. A refusal leaves through Airflow's signal that skips what follows."""
        if "error" not in event:
            answer = answer_of(event, approved=self.APPROVE in event["chosen_options"])
            context["ti"].xcom_push(key="return_value", value=answer)
            if not answer["approved"]:
                self._refuse(answer)
        super().execute_complete(context, event)
        return answer

    def _refuse(self, answer: Mapping[str, Any]) -> None:
        from airflow_triton.rollout import Candidate, opened

        with errors_for_airflow():
            spec = spec_of(self.spec, self.task_id)
            with opened(spec, target_of(spec), progress=self.log.info) as rollout:
                source = Candidate.model_validate(self.candidate).converted.source
                rollout.refuse(source, by=answer["by"], comment=answer["comment"])


def answer_of(event: Mapping[str, Any], *, approved: bool) -> dict[str, Any]:
    """What a person answered, as it travels on."""
    user: Mapping[str, Any] = event.get("responded_by_user") or {}
    at: Any = event.get("responded_at")
    return {
        "approved": approved,
        "by": user.get("name") or user.get("id") or _NOBODY,
        "at": at.isoformat() if hasattr(at, "isoformat") else at,
        "comment": str((event.get("params_input") or {}).get("comment") or ""),
    }


def asked(report: ValidationReport) -> str:
    """What the person is shown, in Markdown: the verdict, each check, what serves now, and the way to the report."""
    serves = f"version {report.champion} serves now" if report.champion else "nothing serves under this name yet"
    rows = [f"| {check.name} | {'passed' if check.passed else 'warning'} | {_cell(check.summary)} |" for check in report.checks]
    links = {"the report": report.links.get("report"), "the model version in MLflow": report.links.get("model")}
    told = [f"[{name}]({link})" if link.startswith("http") else f"{name}: `{link}`" for name, link in links.items() if link]
    return "\n".join(
        [
            f"{report.model} passed its validation on {report.rows} rows ({report.data}); {serves}.",
            "",
            "| check | result | found |",
            "| --- | --- | --- |",
            *rows,
            "",
            "; ".join(told) or "the report is not kept in MLflow: see the XCom `report` of this task",
        ]
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
