"""Every kind of check as a gate of the whole pipeline, on the real server: what promotes, what rejects, what is refused first.

A disk is enough: what a check sees and decides is the same over an object store.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import everything_in
from test_own_checks import install
from test_rollout import Make, run, seen

from airflow_triton.errors import DeployError, RejectedError, SpecError, ValidationDataError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import Repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.rollout import Outcome
from airflow_triton.server import ServerAddress, TritonClient

OWN = '''
from airflow_triton.validation import CheckResult


def sure(answers, labels):
    return float(answers["probabilities"].max(axis=1).mean())


class Confident:
    """Every answer has a class that is likelier than `least`."""

    name = "confident"
    needs = frozenset({"champion"})

    def __init__(self, least):
        self.least, self.lowest, self.champions = least, 1.0, 0

    def fit(self, dataset, servable):
        pass

    def see(self, seen):
        self.lowest = min(self.lowest, float(seen.answers["probabilities"].max(axis=1).min()))
        self.champions += seen.champion is not None

    def results(self, bench):
        first = {name: array[:1] for name, array in bench.inputs.items()}
        asked = bench.client.infer(bench.candidate[0], first, version=bench.candidate[1])
        assert set(asked) == {"label", "probabilities"}
        summary = f"the least sure answer is {self.lowest:.3f}, {self.champions} parts of a champion"
        return [CheckResult(name="confident", passed=self.lowest > self.least, summary=summary, figures={"confident": self.lowest})]
'''


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a metric and a check."""
    install(tmp_path, "own_checks_of_blobs", {"confident": "own_checks_of_blobs:Confident"}, OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def gate(mapping: Make, version: int, **rules: Any) -> dict[str, Any]:
    """The spec of a version that these rules decide on."""
    return mapping(version, validate={"data": mapping()["validate"]["data"], "parity": False, **rules})


def summaries(outcome: Outcome) -> dict[str, str]:
    """What each check said of a promoted version."""
    assert outcome.action == "promoted"
    return {check.name: check.summary for check in outcome.report.checks}


def rejected(spec: dict[str, Any], client: TritonClient, serves: dict[str, tuple[int, ...]] | None = None) -> str:
    """Why the version was rejected; what served still does, and nothing else."""
    with pytest.raises(RejectedError) as caught:
        run(spec)
    assert seen(client) == (serves or {})
    return str(caught.value)


def test_the_latency_decides(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """An absurd limit rejects, a generous one promotes; the first version passes without one that serves, the next is held against it."""
    told = rejected(gate(mapping, 1, latency={"p99_ms": 0.001, "requests": 20}), client)
    assert "latency: p99 " in told
    assert "ms is above 0.001 (20 requests of 32 rows, 4 at a time)" in told

    limits = {"p50_ms": 30_000, "p99_ms": 60_000, "throughput": 0.1, "max_slowdown": 1000}
    rules = {"latency": {**limits, "requests": 40, "concurrency": 8, "batch_size": 64}}
    first = run(gate(mapping, 1, **rules))
    assert "nothing serves yet: `max_slowdown` has nothing to hold it against" in summaries(first)["latency"]
    assert summaries(first)["latency"].endswith("(40 requests of 64 rows, 8 at a time)")
    assert first.report.seconds.keys() >= {"asking", "latency"}

    second = run(gate(mapping, 3, **rules))
    (latency,) = second.report.checks
    assert latency.figures["slowdown"] == pytest.approx(latency.figures["p50_ms"] / latency.figures["champion.p50_ms"])
    assert (second.previous, second.report.champion) == (1, 1)


def test_a_drop_and_a_metric_of_ones_own_decide(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """A worse candidate is rejected, an equal one promoted; the first one needs a limit that does not look at what serves."""
    function = "own_checks_of_blobs:sure"
    drop: dict[str, Any] = {"accuracy": {"max_drop": 0.01}}
    told = rejected(gate(mapping, 1, metrics=drop), client)
    assert "every check only warns; accuracy 1 (nothing serves yet: `max_drop` has nothing to hold it against)" in told
    run(gate(mapping, 1, metrics={"accuracy": {"max_drop": 0.01, "min": 0.9}, "sure": {"function": function, "min": 0.4}}))

    worse = rejected(gate(mapping, 2, metrics=drop | {"sure": {"function": function, "min": 1.5}}), client, {"blobs": (1,)})
    assert "is worse than the 1 of the version that serves by 1, more than 0.01; sure 0." in worse
    assert "is below 1.5" in worse
    equal = run(gate(mapping, 3, metrics=drop | {"sure": {"function": function, "max_drop": 0.0}}))
    assert summaries(equal)["accuracy"] == "accuracy 1 (the version that serves: 1)"
    accuracy, sure = equal.report.checks
    assert accuracy.figures == {"accuracy": 1.0, "champion": 1.0, "drop": 0.0}
    assert sure.figures["drop"] < 0  # version 3 has larger weights


def test_a_check_of_ones_own_decides(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """An installed package's check sees the rows, also what the version that serves answers, and may ask by itself."""
    assert "the least sure answer is 0." in rejected(gate(mapping, 1, checks={"confident": {"least": 0.999999}}), client)
    first = run(gate(mapping, 1, checks={"confident": {"least": 0.3}}))
    assert summaries(first)["confident"].endswith(", 0 parts of a champion")

    second = run(gate(mapping, 3, checks={"confident": {"least": 0.3}}))
    assert summaries(second)["confident"].endswith(", 1 parts of a champion")


def test_warnings_promote(mapping: Make, repository: Repository, client: TritonClient) -> None:
    """Every kind of check that only warns: none of them holds, all are told, and the one that can reject decides."""
    warning = {"severity": "warning"}
    rules = {
        "parity": {"rtol": 0, "atol": 0, "outputs": {"probabilities": {"rtol": 0, "atol": 0}}, "argmax": 1, "cosine": 1, **warning},
        "latency": {"p99_ms": 0.001, "requests": 8, **warning},
        "metrics": {
            "accuracy": {"min": 0.9},
            "f1": {"max": 0.1, **warning},
            "auc": {"max": 0.1, **warning},
            "sure": {"function": "own_checks_of_blobs:sure", "min": 2, **warning},
        },
        "checks": {"confident": {"least": 1.0, **warning}},
    }
    outcome = run(gate(mapping, 1, **rules))

    assert outcome.action == "promoted"
    failed = {check.name for check in outcome.report.checks if not check.passed}
    assert failed - {"parity"} == {"latency", "f1", "auc", "sure", "confident"}
    assert len(outcome.report.warnings) == len(failed)
    assert not any(check.rejects for check in outcome.report.checks)


@pytest.mark.parametrize(
    ("rules", "kind", "told"),
    [
        (
            {"data": "no_labels.csv", "metrics": {"accuracy": {"min": 0}}},
            ValidationDataError,
            "has no labels, which the check 'metrics' needs",
        ),
        ({"data": "empty.csv", "metrics": {"accuracy": {"min": 0}}}, ValidationDataError, "has no rows: nothing can be validated with it"),
        ({"data": "other.csv", "latency": {"p99_ms": 1}}, ValidationDataError, r"does not fit 'input'"),
        ({"data": "text.csv", "metrics": {"rmse": {"max": 1}}}, ValidationDataError, "the labels are text, and no numbers"),
        ({"metrics": {"accuracy": {"min": 0, "function": "own_checks_of_blobs:none"}}}, ValidationDataError, "cannot be imported"),
        ({"latency": {"p99_ms": 1, "batch_size": 65}}, ValidationDataError, "is 65, above the model's max_batch_size 64"),
        ({"checks": {"confidant": {}}}, ValidationDataError, r"there are: .*confident.*did you mean confident\?"),
        ({"checks": {"confident": {"most": 1}}}, ValidationDataError, r"does not take these options \(most\)"),
        ({"parity": {"outputs": {"label": {"rtol": "much"}}}}, SpecError, "expected a number, got 'much'"),
        ({"parity": {"outputs": {"labels": {"rtol": 1}}}}, ValidationDataError, r"names \['labels'\], and the model's outputs are"),
        ({"golden": "holdout.npz"}, ValidationDataError, "holdout.npz"),
    ],
    ids=[
        "labels missing",
        "no rows",
        "other columns",
        "labels of another kind",
        "no such function",
        "a batch too large",
        "no such check",
        "other options",
        "a tolerance of another type",
        "a tolerance for no output",
        "no recorded answers",
    ],
)
def test_what_cannot_be_checked_is_refused_before_it_is_staged(  # noqa: PLR0917 pytest
    mapping: Make,
    repository: Repository,
    client: TritonClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rules: dict[str, Any],
    kind: type[DeployError],
    told: str,
) -> None:
    """One clear error; the server was never asked to load anything, and no file is left."""
    import numpy as np

    header = "x0,x1,x2,x3"
    (tmp_path / "no_labels.csv").write_text(f"{header}\n1,2,3,4\n")
    (tmp_path / "empty.csv").write_text(f"{header},label\n")
    (tmp_path / "other.csv").write_text("a,b,label\n1,2,0\n")
    (tmp_path / "text.csv").write_text(f"{header},label\n1,2,3,4,much\n1,2,3,4,little\n")
    np.savez(tmp_path / "holdout.npz", input=np.zeros((3, 4), np.float32))
    paths = {key: str(tmp_path / value) for key, value in rules.items() if key in ("data", "golden")}
    monkeypatch.setattr(TritonClient, "load", lambda *_: pytest.fail("a model was loaded"))

    with pytest.raises(kind, match=told) as refused:
        run(gate(mapping, 1, **{**rules, **paths}))

    assert len(str(refused.value).splitlines()) == 1
    assert seen(client) == {}
    assert everything_in(repository, MODELS) == set()
    assert everything_in(repository, WORK) == set()
