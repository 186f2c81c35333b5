"""`history`: what served when, who let it, what its validation found; and what was rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from test_rollout import roll_back, run

from airflow_triton import repository as repo
from airflow_triton.cli import main
from airflow_triton.errors import RejectedError, SpecError
from airflow_triton.registry import Registry
from airflow_triton.repository import Repository
from airflow_triton.repository import release as journal
from airflow_triton.rollout import Event, history
from airflow_triton.rollout.author import author
from airflow_triton.rollout.records import in_short
from airflow_triton.validation.report import CheckResult, ValidationReport

Make = Callable[..., dict[str, Any]]
OLDER = """# Written by airflow-provider-triton. Change the spec and apply it; `airflow-triton rollback` goes back.
version_policy {
  specific {
    versions: 3
  }
}
max_batch_size: 32
backend: "onnxruntime"
# airflow-triton-journal: {"layout": 1, "releases": [{"alias": null, "at": "2026-11-20T10:00:00+00:00", "config": "backend: \
\\"onnxruntime\\"\\nmax_batch_size: 16\\n", "how": "adopt", "id": "a", "original": "max_batch_size: 16\\n", \
"servable_id": "s1", "version": 1}, {"alias": "champion", "at": "2026-11-21T10:00:00+00:00", "config": null, "how": "promote", \
"id": "b", "servable_id": "s3", "version": 3}]}
"""
"""A config.pbtxt as it was written before releases had an author and a verdict."""


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch, mapping: Make) -> None:
    """Who releases in these tests; and no verdict of another test in MLflow."""
    monkeypatch.setenv("AIRFLOW_TRITON_BY", "ada")
    client = Registry(mapping()["tracking_uri"]).client
    for version in client.search_model_versions("name='blobs'"):
        for key in version.tags:
            client.delete_model_version_tag("blobs", version.version, key)


def events(mapping: dict[str, Any], store: Repository) -> list[Event]:
    """The history of `blobs`."""
    return history("blobs", store, Registry(mapping["tracking_uri"]))


def test_history_tells_who_what_and_why(mapping: Make, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release, a rejection, a release, a rollback by someone else: each with its author, model, digest, verdict, figures and change."""
    run(mapping(1))
    with pytest.raises(RejectedError):
        run(mapping(2))
    run(mapping(3, config={"max_batch_size": 16}))
    monkeypatch.setenv("AIRFLOW_TRITON_BY", "grace\nhopper")
    roll_back(mapping())

    found = events(mapping(), repository)

    releases = [event for event in found if event.how != "rejected"]
    assert [(event.version, event.how, event.by) for event in releases] == [
        (1, "rollback", "grace hopper"),
        (3, "promote", "ada"),
        (1, "promote", "ada"),
    ]
    digests = {number: Registry(mapping()["tracking_uri"]).resolve(f"models:/blobs/{number}").digest for number in (1, 3)}
    assert [(event.source, event.digest) for event in releases] == [(f"models:/blobs/{each}", digests[each]) for each in (1, 3, 1)]
    assert all((event.verdict or "").startswith("passed: ") for event in releases)
    assert all(event.figures["accuracy"] >= 0.9 for event in releases)
    assert all(event.stored for event in releases)
    assert ["+max_batch_size: 16" in event.diff for event in releases] == [False, True, False]
    assert "+max_batch_size: 64" in releases[0].diff
    assert releases[-1].diff == ""
    (rejected,) = [event for event in found if event.how == "rejected"]
    assert (rejected.version, rejected.source, rejected.stored) == (2, "models:/blobs/2", False)
    assert "is below 0.9" in (rejected.verdict or "")
    assert sorted((event.at for event in found), reverse=True) == [event.at for event in found]


def test_the_same_is_kept_with_the_version_and_in_mlflow(mapping: Make, repository: Repository) -> None:
    """The manifest of the version and the tags of the MLflow version say who released it; the manifest, what its validation found."""
    run(mapping(1))

    manifest = repository.manifest("blobs", 1)

    assert manifest is not None
    (release,) = repo.releases(repository, "blobs")
    assert (manifest.by, manifest.verdict, manifest.figures) == ("ada", release.verdict, release.figures)
    assert manifest.figures["accuracy"] >= 0.9
    assert Registry(mapping()["tracking_uri"]).tags("blobs", 1)["triton.blobs.by"] == "ada"


def test_who_released_stays_when_another_applies_the_same(mapping: Make, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """An apply that changes nothing has released nothing."""
    run(mapping(1))
    monkeypatch.setenv("AIRFLOW_TRITON_BY", "grace")

    run(mapping(1))

    assert [release.by for release in repo.releases(repository, "blobs")] == ["ada"]
    assert Registry(mapping()["tracking_uri"]).tags("blobs", 1)["triton.blobs.by"] == "ada"


def test_journal_of_before_is_read_and_continued() -> None:
    """A config.pbtxt that an older release of ours wrote: what it does not say is not known, and the next release keeps its rows."""
    found = journal.parse(OLDER, "config.pbtxt")

    assert [(release.version, release.how, release.by, release.verdict, release.figures) for release in found] == [
        (1, "adopt", None, None, {}),
        (3, "promote", None, None, {}),
    ]
    new = found[-1].model_copy(update={"id": "c", "version": 4, "by": "ada", "figures": {"accuracy": 0.5}})
    assert journal.parse(journal.render([*found, new]), "config.pbtxt") == [*found, new]


def test_history_of_before_is_completed_by_the_manifests(mapping: Make, repository: Repository) -> None:
    """Where the journal does not say which MLflow version it was, the manifest of the stored version does."""
    run(mapping(1))
    (release,) = repo.releases(repository, "blobs")
    older = release.model_copy(update={"by": None, "source": None, "digest": None, "verdict": None, "figures": {}})
    stored = repository.read_config("blobs")
    repository.swap_config("blobs", journal.render([older]), expected=stored.etag if stored else None)

    (event,) = events(mapping(), repository)

    assert (event.by, event.source, event.digest, event.verdict) == (None, "models:/blobs/1", release.digest, None)


def test_history_without_mlflow_warns_and_shows_the_rest(mapping: Make, repository: Repository) -> None:
    """Rejections are MLflow's to tell: where it does not answer, a line on stderr says so and the releases are shown."""
    run(mapping(1))
    where = ["--repository", str(repository)]

    ended = CliRunner().invoke(
        main,
        ["history", "blobs", *where, "--json"],
        env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
    )

    assert ended.exit_code == 0
    assert "`blobs` that were rejected are not known: MLflow at http://127.0.0.1:9 does not answer" in ended.stderr
    assert [event["version"] for event in json.loads(ended.stdout)] == [1]


def test_history_for_a_person(mapping: Make, repository: Repository) -> None:
    """The table names who, which model and whether it can serve again; --diff shows how config.pbtxt changed."""
    run(mapping(1))
    run(mapping(1, config={"max_batch_size": 16}))
    arguments = ["history", "blobs", "--repository", str(repository)]
    environment = {"MLFLOW_TRACKING_URI": mapping()["tracking_uri"], "COLUMNS": "250"}

    plain = CliRunner().invoke(main, arguments, env=environment)
    diff = CliRunner().invoke(main, [*arguments, "--diff"], env=environment)

    assert [word in plain.stdout for word in ("ada", "models:/blobs/1", "passed: accuracy", "yes")] == [True] * 4
    assert "max_batch_size" not in plain.stdout
    assert "+max_batch_size: 16" in diff.stdout


def test_first_version_rejected_has_a_history_too(mapping: Make, repository: Repository) -> None:
    """Of a model that never came to serve, the spec says where in MLflow to look; without one nothing is known, and that is said."""
    with pytest.raises(RejectedError):
        run(mapping(2))
    registry = Registry(mapping()["tracking_uri"])

    (event,) = history("blobs", repository, registry, model="models:/blobs@challenger")

    assert (event.how, event.version) == ("rejected", 2)
    with pytest.raises(SpecError, match="`blobs` has no releases in"):
        history("blobs", repository, registry)


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        ("ada", {"AIRFLOW_TRITON_BY": "grace"}, "ada"),
        (None, {"AIRFLOW_TRITON_BY": "grace", "AIRFLOW_CTX_DAG_ID": "d"}, "grace"),
        (None, {"AIRFLOW_CTX_DAG_ID": "d", "AIRFLOW_CTX_DAG_RUN_ID": "r", "AIRFLOW_CTX_TASK_ID": "t"}, "airflow: d r t"),
        ("x" * 300, {}, "x" * 200),
    ],
)
def test_author_is_the_given_one_else_the_environments(given: str | None, environment: dict[str, str], told: str) -> None:
    """Who is named wins over the variable, that over the task of Airflow."""
    assert author(given, environment=environment) == told


def test_author_at_a_terminal_is_the_user() -> None:
    """Without anything that says more, it is user@host."""
    user, host = author(environment={}).split("@")

    assert user
    assert host


def test_history_stays_small() -> None:
    """However many figures a report has, twenty are kept, the chief ones first, rounded, and none that is no number."""
    many = {f"figure{number}": number / 3 for number in range(50)}
    checks = (
        CheckResult(name="parity", passed=True, summary="s" * 1000, figures=many),
        CheckResult(name="accuracy", passed=True, summary="s", figures={"accuracy": 0.987654321, "odd": float("nan")}),
    )

    kept = in_short(ValidationReport(candidate="c", data="d", rows=1, checks=checks))

    assert len(kept["figures"]) == 20
    assert next(iter(kept["figures"].items())) == ("accuracy", 0.987654)
    assert kept["figures"]["parity.figure1"] == 0.333333
    assert "accuracy.odd" not in kept["figures"]
    assert len(kept["verdict"]) == 300
