"""Where the report of a validation is kept: as artifacts and metrics of the model version's MLflow run, and in a folder on request.

MLflow tells, it does not decide: where it does not answer, or the version has no run, the deployment goes on with a warning.
"""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

from airflow_triton.errors import RegistryError
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.validation.report import ValidationReport

PAGE, DATA = "report.html", "report.json"
_DOCS = "data_docs/index.html"
_MOST_CHARACTERS = 250
"""Of a metric's name, in MLflow."""


class Reports:
    """The reports of one deployment.

    `kept` is a folder with what the checks left beside their results, such as Data Docs: it is kept with the report, which is written
    into it. `copies` is a folder that gets NAME-VERSION.html and .json as well.
    """

    def __init__(self, registry: Registry, deployment: str, kept: Path, copies: Path | None = None) -> None:
        self._registry = registry
        self._deployment = deployment
        self._kept = kept
        self._copies = copies

    def keep(self, report: ValidationReport, source: ModelSource, *, again: bool = False) -> tuple[ValidationReport, list[str]]:
        """Keep the report; answer it with links to what is kept, and warnings of what could not be.

        The artifacts lie in `triton/DEPLOYMENT/VERSION` of the run: `report.html`, `report.json` and what the checks left. What an earlier
        validation of the version left under the same names is replaced. With `again`, of what serves already, they lie in its folder
        `revalidation`. The links are those of `ValidationReport.links`.
        """
        kept, warnings = report, []
        try:
            kept = self._to_mlflow(report, source, again=again)
        except Exception as error:  # noqa: BLE001 - the verdict does not hang on its picture
            warnings.append(f"the validation report is not kept in MLflow: {_told(error)}")
        try:
            self._registry.log_metrics(source, metrics_of(report, self._deployment))
        except RegistryError as error:
            warnings.append(f"the validation's figures are no metrics in MLflow: {error}")
        try:
            self._copy(kept, source)
        except Exception as error:  # noqa: BLE001 - the verdict does not hang on its picture
            warnings.append(f"the validation report is not written to {self._copies}: {_told(error)}")
        return kept, warnings

    def _to_mlflow(self, report: ValidationReport, source: ModelSource, *, again: bool) -> ValidationReport:
        run_id = source.run_id
        if run_id is None:
            raise RegistryError(f"{source} has no run whose artifact it could become")
        folder = f"triton/{self._deployment}/{source.version}{'/revalidation' if again else ''}"
        artifacts = {"report": PAGE} | ({"data_docs": _DOCS} if (self._kept / _DOCS).exists() else {})
        links = {name: self._registry.artifact_link(run_id, f"{folder}/{path}") for name, path in artifacts.items()}
        links["model"] = self._registry.version_link(source)
        linked = report.model_copy(update={"links": {name: link for name, link in links.items() if link}})
        write(linked, self._kept / PAGE, self._kept / DATA)
        self._registry.keep_folder(source, self._kept, folder)
        return linked

    def _copy(self, report: ValidationReport, source: ModelSource) -> None:
        if self._copies is None:
            return
        page, data = (self._copies / f"{self._deployment}-{source.version}.{kind}" for kind in ("html", "json"))
        if report.links:  # written already, as it is
            self._copies.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._kept / PAGE, page)
            shutil.copyfile(self._kept / DATA, data)
        else:
            write(report, page, data)


def _told(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{error}; install airflow-provider-triton[validation]"
    return str(error) if isinstance(error, (RegistryError, OSError)) else f"{type(error).__name__}: {error}"


def write(report: ValidationReport, page: Path, data: Path) -> None:
    """Write the report for a person, and the same for a machine."""
    from airflow_triton.validation.report.page import html

    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html(report), encoding="utf-8")
    data.write_text(report.model_dump_json(indent=1), encoding="utf-8")


def metrics_of(report: ValidationReport, deployment: str) -> dict[str, float]:
    """The figures as metrics: `triton.DEPLOYMENT.passed` (1 or 0), and `triton.DEPLOYMENT.CHECK.FIGURE` or `triton.DEPLOYMENT.CHECK`.

    The short form is that of a check's chief figure, which has its name. Of several servers it is the first that a check rejected on,
    else the first. What is no finite number is left out, and MLflow takes only some characters.
    """
    found = {f"triton.{deployment}.passed": float(report.passed)}
    for check in sorted(report.checks, key=lambda check: check.passed):
        for figure, value in check.figures.items():
            name = f"triton.{deployment}.{check.name}{'' if figure == check.name else f'.{figure}'}"
            if math.isfinite(value):
                found.setdefault(re.sub(r"[^A-Za-z0-9_. -]", "_", name)[:_MOST_CHARACTERS], value)
    return found
