"""Where a report is kept: in a real MLflow (its database, and its server with its pages), and as files."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from browsing import chromium
from conftest import CENTRES, classifier
from stores.proxy import Proxy, Rule, hang, on
from test_cli import shell
from test_rollout import run

from airflow_triton.errors import RejectedError
from airflow_triton.registry import ModelSource, Registry
from airflow_triton.repository import Repository, releases
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.rollout.reports import Reports
from airflow_triton.spec import spec_from_mapping
from airflow_triton.validation import ValidationReport

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite that `blobs` holds."""
    path = tmp_path / "suite.yaml"
    between = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "probabilities_0", "min_value": 0, "max_value": 1}}
    path.write_text(yaml.safe_dump({"expectations": [between]}))
    return path


@pytest.fixture
def checked(mapping: Make, holdout: Path, suite: Path) -> Make:
    """As `mapping`, with a suite beside the metric."""

    def make(version: int, **keys: Any) -> dict[str, Any]:
        validate = {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}, "expectations": str(suite)}
        return mapping(version, **{"validate": validate, **keys})

    return make


def source_of(tracking_uri: str, version: int) -> ModelSource:
    return Registry(tracking_uri).resolve(f"models:/blobs/{version}")


def artifacts(client: mlflow.MlflowClient, run_id: str, folder: str) -> set[str]:
    """The files below a folder of a run's artifacts."""
    found: set[str] = set()
    for each in client.list_artifacts(run_id, folder):
        found |= artifacts(client, run_id, each.path) if each.is_dir else {each.path}
    return found


def kept(tracking_uri: str, version: int, tmp_path: Path) -> ValidationReport:
    """The report as MLflow has it now."""
    path = f"triton/blobs/{version}/report.json"
    file = Registry(tracking_uri).artifact(str(source_of(tracking_uri, version).run_id), path, tmp_path / "downloaded")
    return ValidationReport.model_validate_json(file.read_text(encoding="utf-8"))


def test_a_report_becomes_artifacts_metrics_and_tags(checked: Make, tracking_uri: str, tmp_path: Path) -> None:
    """The page, the same as data and the Data Docs; the figures as metrics; the verdict as tags. All of the version's own run."""
    outcome = run(checked(1))

    assert outcome.warnings == ()
    client, run_id = mlflow.MlflowClient(tracking_uri), str(source_of(tracking_uri, 1).run_id)
    files = artifacts(client, run_id, "triton")
    assert {f"triton/blobs/1/{name}" for name in ("report.html", "report.json", "data_docs/index.html")} <= files
    whole = kept(tracking_uri, 1, tmp_path)
    assert whole.brief() == outcome.report
    assert {plot.kind for check in whole.checks for plot in check.plots} >= {"scatter", "table"}

    metrics = client.get_run(run_id).data.metrics
    assert metrics["triton.blobs.passed"] == 1.0
    assert metrics["triton.blobs.accuracy"] == next(check.figures["accuracy"] for check in whole.checks if check.name == "accuracy")
    assert metrics["triton.blobs.parity.probabilities.apart"] == 0.0
    assert metrics["triton.blobs.expectations.successful"] == 1.0

    tags = client.get_model_version("blobs", "1").tags
    assert tags["triton.blobs.verdict"] == "passed"
    assert tags["triton.blobs.why"] == outcome.report.verdict
    assert tags["triton.blobs.at"] == whole.at
    assert tags["triton.blobs.report"] == outcome.report.links["report"]
    page = Path(urllib.parse.unquote(urllib.parse.urlsplit(tags["triton.blobs.report"]).path))
    assert "models:/blobs/1</b> may serve" in page.read_text(encoding="utf-8")
    assert Path(urllib.parse.unquote(urllib.parse.urlsplit(outcome.report.links["data_docs"]).path)).exists()
    assert "model" not in outcome.report.links  # a database has no pages


def test_a_second_validation_replaces_the_first(mapping: Make, checked: Make, holdout: Path, tracking_uri: str, tmp_path: Path) -> None:
    """A version that was rejected, and passes a milder spec: the new report, the new verdict, and both figures in MLflow's history."""
    with pytest.raises(RejectedError) as rejected:
        run(checked(2))
    assert rejected.value.report is not None
    assert kept(tracking_uri, 2, tmp_path).brief() == rejected.value.report
    assert "report" in rejected.value.report.links

    run(mapping(2, validate={"data": str(holdout), "metrics": {"accuracy": {"min": 0.0}}}))

    assert kept(tracking_uri, 2, tmp_path).passed
    client = mlflow.MlflowClient(tracking_uri)
    history = client.get_metric_history(str(source_of(tracking_uri, 2).run_id), "triton.blobs.passed")
    assert [each.value for each in sorted(history, key=lambda each: each.timestamp)][-2:] == [0.0, 1.0]
    assert client.get_model_version("blobs", "2").tags["triton.blobs.verdict"] == "passed"


def test_the_links_lead_to_mlflows_pages(checked: Make, mlflow_server: str) -> None:
    """Through a server, each link is an address at which MLflow shows what it says, in a browser."""
    links = run(checked(1, tracking_uri=mlflow_server)).report.links

    source = source_of(mlflow_server, 1)
    assert set(links) == {"report", "data_docs", "model"}
    file = urllib.parse.urlencode({"path": "triton/blobs/1/report.html", "run_uuid": source.run_id})
    with urllib.request.urlopen(f"{mlflow_server}/get-artifact?{file}", timeout=60) as answer:
        assert b"models:/blobs/1</b> may serve" in answer.read()

    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(links["report"])
        shown = page.frame_locator("iframe").locator("header.verdict")
        shown.wait_for()
        assert "models:/blobs/1 may serve" in shown.inner_text()
        page.goto("about:blank")  # within its own pages MLflow does not look at the address again
        page.goto(links["data_docs"])
        page.frame_locator("iframe").get_by_text("Data Docs autogenerated using").wait_for()
        page.goto(links["model"])
        page.get_by_text("triton.blobs.verdict").first.wait_for()


def test_a_version_without_a_run_is_deployed_all_the_same(mapping: Make, tracking_uri: str, repository: Repository, tmp_path: Path) -> None:
    """There is no run to keep the report in: a warning says so, and the copy is there."""
    mlflow.onnx.save_model(classifier(CENTRES.T), tmp_path / "model")
    client = mlflow.MlflowClient(tracking_uri)
    client.create_registered_model("runless")
    client.create_model_version("runless", (tmp_path / "model").as_uri())
    spec = spec_from_mapping(mapping(name="runless", model="models:/runless/1"))

    told: list[str] = []
    with opened(spec, find_target(spec), copies=tmp_path / "copies", progress=told.append) as rollout:
        deploy(rollout)

    assert [line for line in told if line.startswith("warning: ") and "models:/runless/1 has no run" in line]
    assert [release.version for release in releases(repository, "runless")] == [1]
    assert client.get_model_version("runless", "1").tags["triton.runless.report"] == ""
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["runless-1.html", "runless-1.json"]


def test_mlflow_that_goes_silent_stops_nothing(
    mapping: Make, mlflow_server: str, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the validation on: the version is validated, its report written as a file, and promoted, each loss with a warning."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    told: list[str] = []
    with Proxy(mlflow_server) as mlflow_proxy:
        spec = spec_from_mapping(mapping(1, tracking_uri=mlflow_proxy.endpoint))
        with opened(spec, find_target(spec), copies=tmp_path / "copies", progress=told.append) as rollout:
            source = rollout.resolve()
            converted = rollout.convert(source)
            candidate = rollout.stage(converted, rollout.configure(converted))
            with mlflow_proxy.faults(Rule(on(), hang(60), times=None)):
                report = rollout.validate(candidate)
                outcome = rollout.promote(candidate, report)
                rollout.clean_up(source)

    assert report.passed
    assert report.links == {}
    assert outcome.action == "promoted"
    assert [release.version for release in releases(repository, "blobs")] == [1]
    assert "models:/blobs/1</b> may serve" in (tmp_path / "copies" / "blobs-1.html").read_text(encoding="utf-8")
    silent = [line for line in told if line.startswith("warning: ") and "does not answer" in line]
    for lost in ("the validation report is not kept in MLflow", "the validation's figures are no metrics", "read the tags", "aliases"):
        assert [line for line in silent if lost in line], (lost, told)


def test_a_report_that_cannot_be_drawn_or_written_is_a_warning(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict does not hang on its picture."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError("nothing can be drawn")

    report = ValidationReport(candidate="c", data="d", rows=1, checks=())
    source = source_of(tracking_uri, 3)
    (tmp_path / "file").write_text("")
    unwritable = Reports(Registry(tracking_uri), "blobs", tmp_path / "kept", tmp_path / "file" / "below")
    told, warnings = unwritable.keep(report, source)
    assert "report" in told.links
    assert len(warnings) == 1
    assert f"is not written to {tmp_path}/file/below: " in warnings[0]

    monkeypatch.setattr("airflow_triton.validation.report.page.html", broken)
    told, warnings = Reports(Registry(tracking_uri), "blobs", tmp_path / "kept").keep(report, source)
    assert told == report
    assert warnings == ["the validation report is not kept in MLflow: ZeroDivisionError: nothing can be drawn"]


def test_apply_writes_the_reports_into_a_folder(mapping: Make, repository: Repository, tmp_path: Path) -> None:
    """Of what passed and of what was rejected, by name and version, whatever MLflow keeps."""
    specs = tmp_path / "specs"
    specs.mkdir()
    for version in (1, 2):
        name = f"blobs_{version}"
        (specs / f"{version}.json").write_text(json.dumps(mapping(version, name=name)))

    told = shell("apply", specs, "--report", tmp_path / "reports" / "today", "--json")

    assert told.returncode == 3, told.stderr
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "reports" / "today").iterdir()}
    assert sorted(written) == ["blobs_1-1.html", "blobs_1-1.json", "blobs_2-2.html", "blobs_2-2.json"]
    assert "models:/blobs/1</b> may serve" in written["blobs_1-1.html"]
    assert "models:/blobs/2</b> may not serve" in written["blobs_2-2.html"]
    reported = {row["name"]: row["report"]["passed"] for row in json.loads(told.stdout)}
    assert {name: json.loads(written[f"{name}-{name[-1]}.json"])["passed"] for name in reported} == reported
    assert [release.version for release in releases(repository, "blobs_1")] == [1]
