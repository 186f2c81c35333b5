"""Conversions are kept by what they are made of, on disk and on a real object store, whoever else writes there at the time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import register
from sklearn.linear_model import LinearRegression, LogisticRegression
from stores.seaweed import SeaweedFS
from test_convert import save_sklearn
from test_rollout import Make, run

from airflow_triton import convert as conversion
from airflow_triton.convert import cache
from airflow_triton.convert.base import Conversion, Options
from airflow_triton.convert.cache import ConversionCache, cache_key, open_cache
from airflow_triton.errors import RejectedError
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, open_repository
from airflow_triton.repository.base import MODELS
from airflow_triton.rollout import Rollout
from airflow_triton.spec import Parity

X = np.random.default_rng(5).normal(size=(60, 3))
KEY = "k" * 64


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where conversions are kept: a folder that is not there yet, or a prefix of a bucket."""
    if request.param == "disk":
        yield str(tmp_path / "kept")
        return
    seaweed: SeaweedFS = request.getfixturevalue("seaweed")
    url = seaweed.url("models", f"kept-{tmp_path.name}")
    yield url
    store = open_repository(url)
    for name in store.folders(MODELS):
        store.remove(MODELS / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversion, Path]:
    """A real conversion and its files."""
    home = tmp_path_factory.mktemp("made")
    source = save_sklearn(home / "model", LinearRegression().fit(X, X.sum(axis=1)), X[:3])
    return conversion.convert(source, home / "files"), home / "files"


def test_what_was_kept_comes_back_byte_for_byte(place: str, made: tuple[Conversion, Path], tmp_path: Path) -> None:
    """With its description and its proof; a key that nobody kept is nothing."""
    kept = open_cache(place)
    assert kept is not None
    (tmp_path / "none").mkdir()
    assert kept.fetch(KEY, tmp_path / "none") is None

    assert kept.keep(KEY, *made) is None
    (tmp_path / "again").mkdir()
    assert kept.fetch(KEY, tmp_path / "again") == made[0]
    assert [path.read_bytes() for path in (tmp_path / "again").iterdir()] == [path.read_bytes() for path in made[1].iterdir()]
    assert kept.fetch("l" * 64, tmp_path / "none") is None


def test_a_damaged_entry_is_told_dropped_and_made_anew(made: tuple[Conversion, Path], tmp_path: Path) -> None:
    """Nothing of it is used."""
    kept = ConversionCache(LocalRepository(tmp_path / "kept"))
    kept.keep(KEY, *made)
    file = tmp_path / "kept" / KEY / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (tmp_path / "again").mkdir()

    assert kept.fetch(KEY, tmp_path / "again") == f"{file} is damaged"
    (tmp_path / "more").mkdir()
    assert kept.fetch(KEY, tmp_path / "more") is None

    kept.keep(KEY, *made)
    (tmp_path / "kept" / KEY / "conversion.json").write_text("{")
    assert "conversion.json cannot be read" in str(kept.fetch(KEY, tmp_path / "more"))


def test_a_cache_that_cannot_be_used_is_no_error(made: tuple[Conversion, Path], tmp_path: Path) -> None:
    """It is told, and the model is converted."""
    (tmp_path / "file").write_text("not a folder")
    kept = open_cache(str(tmp_path / "file"))
    assert kept is not None

    assert "file" in str(kept.keep(KEY, *made))
    (tmp_path / "into").mkdir()
    assert kept.fetch(KEY, tmp_path / "into") is None or isinstance(kept.fetch(KEY, tmp_path / "into"), str)


def test_entries_that_nobody_uses_go_and_used_ones_stay(made: tuple[Conversion, Path], tmp_path: Path) -> None:
    """Of a folder: by their last use."""
    kept = ConversionCache(LocalRepository(tmp_path / "kept"))
    long_ago = time.time() - (cache.KEEP_DAYS + 1) * 86400
    for name in ("old", "used"):
        kept.keep(name, *made)
    for name in ("old", "used"):
        os.utime(tmp_path / "kept" / name / "conversion.json", (long_ago, long_ago))
    (tmp_path / "into").mkdir()
    assert isinstance(kept.fetch("used", tmp_path / "into"), Conversion)

    kept.keep("new", *made)

    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["new", "used"]


def test_the_key_changes_with_everything_that_takes_part() -> None:
    """And with nothing else."""
    same: dict[str, Any] = {"tolerance": Parity(), "largest": 64, "tools": {"onnx": "1", "torch": "2"}}
    key = cache_key("d", Options(), **same)

    assert cache_key("d", Options(), **{**same, "tools": {"torch": "2", "onnx": "1"}}) == key
    others = [
        cache_key("e", Options(), **same),
        cache_key("d", Options(opset=17), **same),
        cache_key("d", Options(to="python"), **same),
        cache_key("d", Options(), **{**same, "tolerance": Parity(rtol=0.1)}),
        cache_key("d", Options(), **{**same, "largest": 1}),
        cache_key("d", Options(), **{**same, "tools": {"onnx": "1.1", "torch": "2"}}),
    ]
    assert len({key, *others}) == len(others) + 1


@pytest.mark.parametrize("value", [False, "false"])
def test_no_cache_where_it_is_switched_off(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the spec, or in the environment."""
    monkeypatch.setenv(cache.VARIABLE, "false" if value == "false" else "/somewhere")

    assert open_cache(None if value == "false" else value) is None


_KEEP = """
import sys
from pathlib import Path
from airflow_triton.convert.base import Conversion
from airflow_triton.convert.cache import open_cache
place, files, into = sys.argv[1:]
made = Conversion.model_validate_json(Path(files).with_name("made.json").read_text())
kept = open_cache(place)
sys.stdin.read()
problem = kept.keep("raced", made, Path(files))
assert problem is None, problem
assert kept.fetch("raced", Path(into)) == made
"""


def test_eight_processes_keep_the_same_at_once(place: str, made: tuple[Conversion, Path], tmp_path: Path) -> None:
    """Each finds it whole, at once; one entry stays, and nothing is left over."""
    made[1].with_name("made.json").write_text(made[0].model_dump_json())
    processes = []
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        command = [sys.executable, "-c", _KEEP, place, str(made[1]), str(tmp_path / str(number))]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # go
    for process in processes:
        assert process.stderr is not None
        noise = process.stderr.read()
        assert process.wait(timeout=120) == 0, noise

    store = open_repository(place)
    assert store.folders(MODELS) == ["raced"]
    if isinstance(store, LocalRepository):
        assert not list((store.work / "staging").iterdir())


# The pipeline.


@pytest.fixture
def scaled(tracking_uri: str) -> str:
    """A registered scikit-learn model: the address of its version."""
    model = LogisticRegression().fit(X, X[:, 0] > 0)
    version = register(tracking_uri, "scaled", model, flavor="sklearn", input_example=X[:3], serialization_format="cloudpickle")
    return f"models:/scaled/{version}"


def test_a_second_deployment_of_a_version_converts_nothing(place: str, scaled: str, mapping: Make) -> None:
    """Under another name, from the same cache: no child converts, and what is published is the same to the byte."""
    spec = mapping(model=scaled, convert={"cache": place}, validate={}, promote={})
    told: list[str] = []

    def deployed(rollout: Rollout) -> Any:
        told.clear()
        rollout.conversions.progress = told.append
        source = rollout.resolve()
        try:
            return rollout.convert(source).files
        finally:
            rollout.clean_up(source)

    first = run({**spec, "name": "one"}, deployed)
    assert any("as the MLflow model" in line for line in told)
    second = run({**spec, "name": "two"}, deployed)

    assert told == [f"convert: found in the cache ({open_cache(place)}), nothing to convert"]
    assert first == second
    run({**spec, "name": "three", "convert": {"cache": place, "parity": {"rtol": 0.01}}}, deployed)
    assert any("as the MLflow model" in line for line in told)


def test_a_conversion_that_answers_otherwise_is_rejected_and_noted(tracking_uri: str, mapping: Make) -> None:
    """Exit code 3, a report as of any rejection, the verdict in MLflow; nothing is published, and it is not kept."""
    large = X + np.array([1e8, 1e8, 0])
    model = LinearRegression().fit(large, large[:, 0] - large[:, 1])
    version = register(tracking_uri, "loses", model, flavor="sklearn", input_example=large[:3], serialization_format="cloudpickle")
    spec = mapping(model=f"models:/loses/{version}", validate={}, promote={})

    with pytest.raises(RejectedError, match=r"models:/loses/\d+.*'variable' is out of tolerance.*what served still serves") as caught:
        run(spec)

    assert caught.value.exit_code == 3
    assert [check.name for check in caught.value.report.checks] == ["conversion"]
    assert caught.value.report.checks[0].figures["variable.apart"] > 0
    assert Registry(tracking_uri).tags("loses", version)["triton.blobs.verdict"] == "rejected"
