"""The gate before a training: new rows, held against Great Expectations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from airflow_triton.hooks import airflow_connections
from airflow_triton.operators.base import errors_for_airflow

if TYPE_CHECKING:
    from airflow_triton.spec import Expectations


class CheckDataOperator(BaseOperator):
    """Hold the rows of a table against a suite of Great Expectations. Answers `verdict`, `rows` and the `figures`.

    Rows that do not hold fail the task for good, and nothing is trained on them. A gate that checks nothing is closed: no rows, an empty
    suite, an expectation that is unknown or could not run, and missing values that no expectation allows never pass.

    :param data: a .csv, .json or .parquet file: a path, an object of a store (s3://, gs://, as://), or `runs:/RUN_ID/FILE` (templated)
    :param suite: a .yaml or .json file; with `gx_context`, the name of a suite that is kept there (templated)
    :param gx_context: the folder of a Great Expectations project (templated)
    :param tracking_uri: MLflow's, for `runs:/`; default: the environment's (templated)
    """

    template_fields: Sequence[str] = ("data", "suite", "gx_context", "tracking_uri")
    ui_color = "#76b900"

    def __init__(
        self, *, data: str, suite: str | Path, gx_context: str | None = None, tracking_uri: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.suite = suite
        self.gx_context = gx_context
        self.tracking_uri = tracking_uri

    def execute(self, context: Context) -> Any:  # noqa: ARG002 Airflow's signature
        """See the class."""
        import tempfile

        from airflow_triton.registry import Registry
        from airflow_triton.validation import Places, check_rows

        connections = airflow_connections()
        with errors_for_airflow(), tempfile.TemporaryDirectory(prefix="airflow-triton-") as folder:
            places = Places(Path(folder), Registry(self.tracking_uri), None, connections.session if connections else None)
            rules = self._rules()
            report = check_rows(places.bring(str(self.data)), rules, origin=str(self.data))
        if not report.passed:
            raise AirflowFailException(f"{self.data} is {report.verdict}; nothing was trained on it")
        figures = {name: value for check in report.checks for name, value in check.figures.items()}
        self.log.info("%s", report.verdict)
        return {"verdict": report.verdict, "rows": report.rows, "figures": figures}

    def _rules(self) -> Expectations:
        from pydantic import ValidationError

        from airflow_triton.errors import SpecError
        from airflow_triton.spec import Expectations

        try:
            return Expectations(context=self.gx_context, suite=str(self.suite))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise SpecError(f"the suite of task `{self.task_id}`: {problems}") from None
