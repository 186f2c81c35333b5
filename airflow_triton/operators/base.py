"""What the operators share: the spec, the connections behind it, how errors reach Airflow, and what a killed task leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTerminated

from airflow_triton.errors import DeployError, RejectedError
from airflow_triton.hooks import airflow_connections

if TYPE_CHECKING:
    from airflow_triton.registry import ModelSource
    from airflow_triton.rollout import Rollout, Target
    from airflow_triton.spec import Spec


class TritonOperator(BaseOperator):
    """The base of all operators of this provider.

    An error that a retry cannot mend (a bad spec, a rejected model, a conflict) fails the task for good; one that may go away by
    itself (a server or a registry that does not answer) fails it so that Airflow retries.

    A task that is killed while it works stops where it is: its child process ends, a promotion or a rollback that was under way is put
    back, and a candidate that the task was staging or validating is removed. Airflow grants five seconds for that.

    :param spec: the deployment: the path of a spec file, or its content as a mapping (templated, each value of a mapping too)
    """

    template_fields: Sequence[str] = ("spec",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"spec": "json"}
    ui_color = "#76b900"

    def __init__(self, *, spec: str | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self._at_work = False

    def loaded_spec(self) -> Spec:
        """The spec, read and checked."""
        return spec_of(self.spec, self.task_id)

    def target(self, spec: Spec | None, **where: Any) -> Target:
        """The repository and the servers, connection ids looked up in Airflow."""
        return target_of(spec, **where)

    @contextlib.contextmanager
    def rollout(self, staged: ModelSource | None = None, *, approved_by: str | None = None) -> Iterator[Rollout]:
        """A rollout of the spec that tells the task's log what it does. Where the task is killed, the candidate of `staged` goes."""
        from airflow_triton.rollout import opened

        with errors_for_airflow():
            spec = self.loaded_spec()
            with opened(spec, self.target(spec), progress=self.log.info, approved_by=approved_by) as rollout, self.killable():
                try:
                    yield rollout
                except AirflowTaskTerminated:
                    if staged is not None:
                        rollout.withdraw(staged)
                    raise

    @contextlib.contextmanager
    def killable(self) -> Iterator[None]:
        """What `on_kill` may break off."""
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False

    def on_kill(self) -> None:
        """Break off what the task is doing: Airflow calls this in the main thread, in the middle of `execute`.

        Raises:
            AirflowTaskTerminated: the first time, through `execute`, so that everything on the way is closed and put back.

        """
        if self._at_work:
            self._at_work = False
            raise AirflowTaskTerminated(f"the task `{self.task_id}` was killed")


def target_of(spec: Spec | None, **where: Any) -> Target:
    """The repository and the servers of a spec, connection ids looked up in Airflow."""
    from airflow_triton.rollout import find_target

    return find_target(spec, connections=airflow_connections(), **where)


def spec_of(spec: str | Mapping[str, Any], task_id: str) -> Spec:
    """The spec of a task, from a file or from a mapping, checked."""
    from airflow_triton.spec import load_spec, spec_from_mapping

    if isinstance(spec, Mapping):
        return spec_from_mapping(spec, where=f"the spec of task `{task_id}`")
    return load_spec(spec)


@contextlib.contextmanager
def errors_for_airflow() -> Iterator[None]:
    """Turn our errors into Airflow's: a failure for good, or one to retry."""
    try:
        yield
    except DeployError as error:
        kind = AirflowException if error.transient else AirflowFailException
        raise kind(f"{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def report_pushed(context: Context) -> Iterator[None]:
    """Push the report of a rejection (XCom `report`) before the task fails with it."""
    try:
        yield
    except RejectedError as error:
        if error.report is not None:
            context["ti"].xcom_push(key="report", value=error.report.model_dump(mode="json"))
        raise
