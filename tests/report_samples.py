"""Validation reports as a deployment makes them, with every kind of plot; written by hand, so that each is the same every time."""

from __future__ import annotations

import numpy as np

from airflow_triton.validation import CheckResult, ValidationReport
from airflow_triton.validation.report.plots import Histogram, Matrix, Plot, Scatter, Table

SPECIES = ("setosa", "versicolor", "virginica")


def parity(server: str, *, passed: bool = True) -> CheckResult:
    """Two outputs; where it does not pass, some rows of one are far off."""
    random = np.random.default_rng(1)
    right = random.random(900)
    got = right + random.normal(scale=2e-6, size=right.size)
    if not passed:
        got[:40] = random.random(40)
    worst = [(str(row), "probabilities", f"[{got[row]:.6f}, 0.02]", f"[{right[row]:.6f}, 0.02]", f"{right[row]:.3g}") for row in range(6)]
    plots: list[Plot] = [
        Scatter(title="parity: probabilities", x_label="MLflow model", y_label="Triton", x=tuple(right), y=tuple(got), diagonal=True)
    ]
    if not passed:
        plots.append(Table(title="parity: worst rows", columns=("row", "output", "answer", "expected", "apart by"), rows=tuple(worst)))
    told = (
        "largest difference 7.2e-06 over 90,000 rows of 1 runs"
        if passed
        else "the output 'probabilities' is out of tolerance in 40 of 900 elements (worst in row 4 of holdout.csv: 0.31 instead of 0.95)"
        " (tolerance 1e-05 + 0.0001 x expected)"
    )
    return CheckResult(
        name="parity",
        passed=passed,
        summary=f"parity: {told}",
        figures={
            "label.elements": 300.0,
            "label.apart": 0.0,
            "label.max_abs": 0.0,
            "label.max_rel": 0.0,
            "probabilities.elements": 900.0,
            "probabilities.apart": 0.0 if passed else 40.0,
            "probabilities.max_abs": float(np.abs(got - right).max()),
            "probabilities.max_rel": 0.000213,
            "probabilities.cosine": 0.999999,
            "probabilities.argmax": 1.0 if passed else 0.94,
        },
        limits={"rtol": 1e-4, "atol": 1e-5, "argmax": 0.99},
        plots=tuple(plots),
        server=server,
    )


def accuracy(server: str, *, passed: bool = True) -> CheckResult:
    """With a confusion matrix and the champion's figure."""
    counts = ((29_812, 41, 2), (87, 29_540, 310), (4, 260, 29_944)) if passed else ((120, 29_700, 35), (51, 211, 29_675), (29_800, 44, 364))
    value = 0.9921 if passed else 0.0077
    worst = [(str(row), "virginica", "versicolor", "0.02") for row in (17, 4_401, 88_213)]
    return CheckResult(
        name="accuracy",
        passed=passed,
        summary=f"accuracy {value}" + ("" if passed else " is below 0.9, and 0.9843 below the champion's 0.992"),
        figures={"accuracy": value, "champion": 0.992, "drop": 0.992 - value},
        limits={"min": 0.9, "max_drop": 0.01},
        plots=(
            Matrix(title="confusion matrix", row_label="label", column_label="prediction", rows=SPECIES, columns=SPECIES, counts=counts),
            Table(title="accuracy: worst rows", columns=("row", "label", "prediction", "score of the label"), rows=tuple(worst)),
        ),
        server=server,
    )


def latency(server: str, *, passed: bool = True) -> CheckResult:
    """The candidate's beside the champion's, in the same bins."""
    random = np.random.default_rng(2)
    own, champion = random.gamma(6, 0.35, 400) + (0.6 if passed else 14), random.gamma(6, 0.33, 400) + 0.6
    edges = np.histogram_bin_edges(np.concatenate([own, champion]), bins=40)
    counts = {
        name: tuple(np.histogram(each, edges)[0].tolist()) for name, each in (("candidate", own), ("the version that serves", champion))
    }
    told = {f"p{percent}_ms": float(np.percentile(own, percent)) for percent in (50, 95, 99)}
    theirs = {f"champion.p{percent}_ms": float(np.percentile(champion, percent)) for percent in (50, 95, 99)}
    return CheckResult(
        name="latency",
        passed=passed,
        severity="critical",
        summary=f"latency: p99 {told['p99_ms']:.3g} ms" + (", 1.04 times the champion's median" if passed else " is above 6 ms"),
        figures={**told, "throughput": 15_830.4, "requests": 400.0, **theirs, "slowdown": told["p50_ms"] / theirs["champion.p50_ms"]},
        limits={"p99_ms": 6.0, "max_slowdown": 1.5},
        plots=(Histogram(title="time of a request", x_label="milliseconds", edges=tuple(edges), counts=counts, marks={"p99_ms": 6.0}),),
        server=server,
    )


def expectations(server: str, *, passed: bool = True) -> CheckResult:
    """A suite that only warns."""
    name = "expectations (warning)"
    found = "3.76" if passed else "5.1"
    rows = (
        ("expect_column_values_to_be_in_set", "label", "value_set=[0, 1, 2]", "all", "", "yes"),
        ("expect_column_values_to_be_between", "probabilities_0", "min_value=0, max_value=1", "all", "", "yes"),
        ("expect_column_mean_to_be_between", "petal_length", "min_value=3, max_value=4", found, "", "yes" if passed else "no"),
    )
    told = "3 of 3 hold on 90000 rows" if passed else "expect_column_mean_to_be_between(petal_length) found 5.1 (on 90000 rows)"
    columns = ("expectation", "columns", "arguments", "found", "unexpected values", "holds")
    return CheckResult(
        name=name,
        passed=passed,
        severity="warning",
        summary=f"{name}: {told}",
        figures={"evaluated": 3.0, "successful": 3.0 if passed else 2.0, "unexpected_percent": 0.0, "rows": 90_000.0},
        limits={"successful": 3.0},
        plots=(Table(title=name, columns=columns, rows=rows, marked=() if passed else (2,)),),
        server=server,
    )


def report(*checks: CheckResult, **fields: object) -> ValidationReport:
    """A report with all that a deployment tells."""
    told = {
        "candidate": "iris--candidate-8-3f9a1c",
        "name": "iris",
        "model": "models:/iris/8",
        "champion": 7,
        "data": "s3://data/iris/holdout.parquet",
        "rows": 90_000,
        "seconds": {"reading": 0.4, "MLflow model": 6.1, "asking": 11.3, "accuracy": 0.2, "latency": 2.9},
        "links": {
            "report": "http://mlflow.example:5000/#/experiments/1/runs/af/artifacts/triton/iris/8/report.html",
            "data_docs": "http://mlflow.example:5000/#/experiments/1/runs/af/artifacts/triton/iris/8/data_docs/index.html",
            "model": "http://mlflow.example:5000/#/models/iris/versions/8",
        },
        "at": "2026-11-28T14:03:22+00:00",
    }
    return ValidationReport.model_validate({**told, **fields, "checks": checks})


def servers(count: int) -> list[str]:
    """Names as a fleet has them."""
    return [f"grpc://triton-{number}.models.svc:8001" for number in range(count)]


def passing(count: int = 1) -> ValidationReport:
    """Everything holds on each of `count` servers."""
    return report(*(make(server) for server in servers(count) for make in (parity, accuracy, latency, expectations)))


def warned() -> ValidationReport:
    """It passes, and something that only warns does not hold."""
    (server,) = servers(1)
    return report(parity(server), accuracy(server), latency(server), expectations(server, passed=False))


def rejected(count: int = 1) -> ValidationReport:
    """The last server gives wrong classes, and is slow; a warning beside it."""
    *good, bad = servers(count)
    checks = [make(server) for server in good for make in (parity, accuracy, latency, expectations)]
    last = [parity(bad), accuracy(bad, passed=False), latency(bad, passed=False), expectations(bad, passed=False)]
    return report(*checks, *last)
