"""Real models of every flavor, logged by MLflow, converted, deployed to the real Triton and asked there.

A sample here; all of them in `make conformance`, which writes the table of docs/conversion.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance.pages import Row, write_conversion_table
from conformance.zoo import Exhibit, exhibits
from conftest import register
from test_convert import add_example
from test_rollout import run

from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import Repository
from airflow_triton.rollout import Rollout

WHOLE = os.environ.get("AIRFLOW_TRITON_CONFORMANCE") == "1"
SAMPLE = ("XGBClassifier after OrdinalEncoder, categories and missing values",)


@pytest.fixture(scope="module")
def triton(triton_on_disk: LocalTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """The server of the tests; for all the models, one that also has PyTorch."""
    if not WHOLE:
        yield triton_on_disk
        return
    folder = tmp_path_factory.mktemp("with-torch") / "models"
    with LocalTriton(folder, with_={"torch"}, extra_args=["--disable-auto-complete-config"]) as server:
        yield server


def logged(exhibit: Exhibit, uri: str) -> int:
    """Log and register it as its team would; its number in the registry."""
    import cloudpickle
    import conformance.networks
    import conformance.pyfuncs
    from mlflow.models import infer_signature

    for module in (conformance.networks, conformance.pyfuncs):  # a team's own modules would be logged with `code_paths`
        cloudpickle.register_pickle_by_value(module)
    model, example, options = exhibit.make()
    if exhibit.flavor != "transformers":
        options.setdefault("signature", infer_signature(example))
    if exhibit.flavor == "pyfunc":
        model, options = None, {**options, "python_model": model}
    options = {"pip_requirements": [], **options}
    return register(uri, "exhibit", model, flavor=exhibit.flavor, change=lambda folder: add_example(folder, example), **options)


def shown(exhibit: Exhibit, home: Path, repository: Repository, triton: LocalTriton) -> Row:
    """Log it, deploy it, and hold what Triton answers against the MLflow model."""
    uri = f"sqlite:///{home}/mlflow.db"
    version = logged(exhibit, uri)
    spec = {
        "name": f"exhibit-{home.name}",
        "model": f"models:/exhibit/{version}",
        "repository": str(repository),
        "servers": [triton.grpc_url],
        "tracking_uri": uri,
        "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
        "convert": {"to": exhibit.to, **exhibit.convert},
        "promote": {"keep": 0},
    }

    def deployed(rollout: Rollout) -> Row:
        source = rollout.resolve()
        try:
            converted = rollout.convert(source)
            candidate = rollout.stage(converted, rollout.configure(converted))
            report = rollout.validate(candidate)
            outcome = rollout.promote(candidate, report)
        finally:
            rollout.clean_up(source)
        assert outcome.action == "promoted"
        assert converted.agreement is not None
        (parity,) = report.checks
        return Row(
            exhibit.name, exhibit.flavor, exhibit.to, converted.servable, converted.agreement, converted.conversion_seconds, parity.figures
        )

    row: Row = run(spec, deployed)
    return row


@pytest.mark.skipif(WHOLE, reason="all of them run")
@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_models(name: str, tmp_path: Path, repository: Repository, triton: LocalTriton) -> None:
    """Converted, proven, served, and asked on the server."""
    exhibit = next(each for each in exhibits() if each.name == name)

    row = shown(exhibit, tmp_path, repository, triton)

    assert row.agreement.passed
    assert row.served


@pytest.mark.skipif(not WHOLE, reason="takes some minutes: make conformance")
@pytest.mark.timeout(3600)
def test_every_model_of_the_table(tmp_path: Path, repository: Repository, triton: LocalTriton) -> None:
    """At least 25; the table says what each came to, and one that fails fails this test."""
    rows, failed = [], {}
    for index, exhibit in enumerate(exhibits()):
        home = tmp_path / str(index)
        home.mkdir()
        try:
            rows.append(shown(exhibit, home, repository, triton))
        except Exception as error:  # noqa: BLE001 - the others are still looked at
            failed[exhibit.name] = f"{type(error).__name__}: {error}"
        print(exhibit.name, failed.get(exhibit.name, "is served"), flush=True)  # noqa: T201 - progress
    assert not failed
    assert len(rows) >= 25
    write_conversion_table(rows)


def test_names_are_told_once() -> None:
    """A row of the table is found by its name."""
    names: list[Any] = [each.name for each in exhibits()]
    assert len(names) == len(set(names))
