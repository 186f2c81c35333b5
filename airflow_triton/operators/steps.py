"""One operator for each step of the pipeline. What they hand on is small and plain JSON; the model never travels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_triton.operators.base import TritonOperator, report_pushed
from airflow_triton.operators.links import REPORT_LINKS
from airflow_triton.operators.serving import ServingOperator


class ResolveModelOperator(TritonOperator):
    """Check that registry, repository and servers answer, and turn the spec's model into one concrete version.

    Answers the source (`name`, `version`, `run_id`, `digest`, ...). Where there is nothing to do, the task is skipped, and so is
    what follows: the version is released already (a server that lacks it is brought to it first), or, with
    `skip_rejected`, it was rejected before when it was held against this very spec.

    :param spec: see TritonOperator (templated)
    :param skip_rejected: do not try a version again that was rejected; for DAGs that run often (default: false)
    """

    def __init__(self, *, skip_rejected: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skip_rejected = skip_rejected

    def execute(self, context: Context) -> Any:
        """See the class."""
        with self.rollout() as rollout:
            source = rollout.resolve()
            if outcome := rollout.unchanged(source):
                context["ti"].xcom_push(key="outcome", value=outcome.model_dump(mode="json"))
                raise AirflowSkipException(outcome.summary)
            if self.skip_rejected and rollout.verdicts.was_rejected(source, spec_digest=rollout.spec.digest()):
                raise AirflowSkipException(f"{source} was rejected before by this spec: register a new version, or change the spec")
        return source.model_dump(mode="json")


class ConvertModelOperator(TritonOperator):
    """Make the files that Triton serves. They stay in the repository's work area; the answer describes them.

    A model that does not answer as the MLflow model, once it is converted, fails the task for good, after its report was
    pushed (XCom `report`).

    :param spec: see TritonOperator (templated)
    :param source: what ResolveModelOperator answered (templated)
    """

    template_fields: Sequence[str] = ("spec", "source")

    def __init__(self, *, source: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.registry import ModelSource

        with self.rollout() as rollout, report_pushed(context):
            return rollout.convert(ModelSource.model_validate(self.source)).model_dump(mode="json")


class BuildPlanOperator(TritonOperator):
    """Build a TensorRT plan of the converted model, on the GPU of the worker that runs the task. Answers what is known of it.

    Without TensorRT or a GPU the task fails at once, naming what is missing. The plan is compared with the ONNX model that it was
    built of; one that answers otherwise fails the task for good, after its report was pushed (XCom `report`).

    :param spec: see TritonOperator (templated)
    :param converted: what ConvertModelOperator answered (templated)
    :param kind: which of the spec's `convert.tensorrt.gpus` this worker has; "" where the spec names none
    """

    template_fields: Sequence[str] = ("spec", "converted")

    def __init__(self, *, converted: Any, kind: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.converted = converted
        self.kind = kind

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.rollout import Converted

        with self.rollout() as rollout, report_pushed(context):
            built = rollout.build_plan(Converted.model_validate(self.converted), self.kind)
        return None if built is None else built.model_dump(mode="json")


class AssemblePlansOperator(TritonOperator):
    """Put TensorRT plans together as one version, once the servers' TensorRT was compared with theirs. Answers what is served.

    :param spec: see TritonOperator (templated)
    :param converted: what ConvertModelOperator answered (templated)
    :param plans: what each BuildPlanOperator answered (templated)
    """

    template_fields: Sequence[str] = ("spec", "converted", "plans")

    def __init__(self, *, converted: Any, plans: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.converted = converted
        self.plans = plans

    def execute(self, context: Context) -> Any:  # noqa: ARG002 Airflow's signature
        """See the class."""
        from airflow_triton.rollout import BuiltPlan, Converted

        with self.rollout() as rollout:
            built = [BuiltPlan.model_validate(plan) for plan in self.plans if plan is not None]
            return rollout.assemble(Converted.model_validate(self.converted), built).model_dump(mode="json")


class ConfigureModelOperator(TritonOperator):
    """Build config.pbtxt of the model's own inputs and outputs, the spec's `config` merged over it. Answers its text.

    :param spec: see TritonOperator (templated)
    :param converted: what ConvertModelOperator answered (templated)
    """

    template_fields: Sequence[str] = ("spec", "converted")

    def __init__(self, *, converted: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.converted = converted

    def execute(self, context: Context) -> Any:  # noqa: ARG002 Airflow's signature
        """See the class."""
        from airflow_triton.rollout import Converted

        with self.rollout() as rollout:
            return rollout.configure(Converted.model_validate(self.converted))


class StageModelOperator(TritonOperator):
    """Publish the candidate under a name of its own and load it on every server. Answers the candidate.

    :param spec: see TritonOperator (templated)
    :param converted: what ConvertModelOperator answered (templated)
    :param config: what ConfigureModelOperator answered (templated)
    """

    template_fields: Sequence[str] = ("spec", "converted", "config")

    def __init__(self, *, converted: Any, config: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.converted = converted
        self.config = config

    def execute(self, context: Context) -> Any:  # noqa: ARG002 Airflow's signature
        """See the class."""
        from airflow_triton.rollout import Converted

        converted = Converted.model_validate(self.converted)
        with self.rollout(converted.source) as rollout:
            return rollout.stage(converted, self.config).model_dump(mode="json")


class ValidateModelOperator(TritonOperator):
    """Ask the candidate on the servers and hold its answers against the spec. Answers the report.

    A candidate that does not pass fails the task for good, after its report was pushed (XCom `report`).

    :param spec: see TritonOperator (templated)
    :param candidate: what StageModelOperator answered (templated)
    """

    template_fields: Sequence[str] = ("spec", "candidate")
    operator_extra_links = REPORT_LINKS

    def __init__(self, *, candidate: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.candidate = candidate

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.rollout import Candidate

        candidate = Candidate.model_validate(self.candidate)
        with self.rollout(candidate.converted.source) as rollout:
            report = rollout.validate(candidate)
        answer = report.model_dump(mode="json")
        context["ti"].xcom_push(key="report", value=answer)
        if not report.passed:
            raise AirflowFailException(report.verdict)
        return answer


class PromoteModelOperator(ServingOperator):
    """Let the validated version serve on every server, or put back what served. Answers the outcome. It is an event of the model's asset.

    :param spec: see TritonOperator (templated)
    :param candidate: what StageModelOperator answered (templated)
    :param report: what ValidateModelOperator answered (templated)
    :param approval: what ApproveModelOperator answered, where the spec has `promote.approval` (templated)
    """

    template_fields: Sequence[str] = ("spec", "candidate", "report", "approval")

    def __init__(self, *, candidate: Any, report: Any, approval: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.candidate = candidate
        self.report = report
        self.approval = approval

    def execute(self, context: Context) -> Any:
        """See the class."""
        from airflow_triton.rollout import Candidate
        from airflow_triton.validation import ValidationReport

        approved_by = self.approval["by"] if self.approval and self.approval["approved"] else None
        with self.rollout(approved_by=approved_by) as rollout:
            report = ValidationReport.model_validate(self.report)
            outcome = rollout.promote(Candidate.model_validate(self.candidate), report)
            outcome = outcome.model_copy(update={"action": "promoted"})  # perhaps by an earlier try of this task
            self.tell_serving(context, outcome, store=rollout.store, servers=rollout.servers, tracking_uri=rollout.registry.tracking_uri)
            return outcome.model_dump(mode="json", exclude={"report"})


class CleanUpModelOperator(TritonOperator):
    """Remove the candidate, the converted files, and the versions that are not kept for rollback.

    Make it the teardown of ResolveModelOperator, so that it runs whatever became of the steps between.

    :param spec: see TritonOperator (templated)
    :param source: what ResolveModelOperator answered (templated)
    """

    template_fields: Sequence[str] = ("spec", "source")

    def __init__(self, *, source: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def execute(self, context: Context) -> None:  # noqa: ARG002 Airflow's signature
        """See the class."""
        from airflow_triton.registry import ModelSource

        with self.rollout() as rollout:
            rollout.clean_up(ModelSource.model_validate(self.source))
