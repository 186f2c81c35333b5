"""Whether a candidate may serve: parity, metrics, report, data, the questions put to a real server, and the probe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from sklearn import metrics as sklearn_metrics

from airflow_triton import model_config
from airflow_triton.errors import ServerError, ValidationDataError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import Probe
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.validation import (
    CheckResult,
    ValidationReport,
    as_model_gives,
    as_server_takes,
    ask,
    load_dataset,
    metric_check,
    parity_check,
)
from airflow_triton.validation.metrics import METRICS
from airflow_triton.validation.probe import MOST_ELEMENTS, check_probe, make_probe

RTOL, ATOL = 0.5, 0.25  # exact in binary, so that a boundary is one


def _parity(answer: Any, expected: Any) -> CheckResult:
    return parity_check({"y": np.asarray(answer)}, {"y": np.asarray(expected)}, rtol=RTOL, atol=ATOL, server="s")


# --- parity


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([2.0], [2.0]),
        ([3.25], [2.0]),  # 2 + 0.25 + 0.5 * 2
        ([0.75], [2.0]),
        ([-3.25], [-2.0]),
        ([0.25], [0.0]),
        (np.array([1.0], dtype=np.float32), np.array([1.0], dtype=np.float64)),
        (np.array([1.0], dtype=np.float16), np.array([1.0], dtype=np.float32)),
        ([1, 2], [1, 2]),
        (np.array([1], dtype=np.int32), np.array([1], dtype=np.int64)),
        ([True, False], [True, False]),
        (np.array([b"a", "é".encode()], dtype=object), np.array(["a", "é"], dtype=object)),
        (np.array(["a"]), np.array([b"a"], dtype=object)),
        (np.array([b"\xff"], dtype=object), np.array([b"\xff"], dtype=object)),
        (np.float32(1.0), np.float32(1.0)),
    ],
    ids=[
        "equal",
        "upper boundary",
        "lower boundary",
        "negative boundary",
        "absolute boundary",
        "float32 and float64",
        "float16 and float32",
        "integers",
        "integers of two widths",
        "booleans",
        "bytes and text",
        "text and bytes",
        "no UTF-8",
        "scalars",
    ],
)
def test_answers_within_the_tolerance_pass(answer: Any, expected: Any) -> None:
    """The tolerance is inclusive and relative to what the model gave; text is equal whether it came as bytes or not."""
    result = _parity(answer, expected)

    assert result.passed, result.summary
    assert (result.name, result.server, result.limits) == ("parity", "s", {"rtol": RTOL, "atol": ATOL})
    assert "largest difference" in result.summary


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("answer", "expected", "told"),
    [
        ([np.nextafter(3.25, 4.0)], [2.0], "apart by up to 1.25 in 1 of 1"),
        ([0.75 - 2**-40], [2.0], "apart by up to 1.25 in 1 of 1"),
        ([2.0, 9.0, 9.0], [2.0, 2.0, 2.0], "apart by up to 7 in 2 of 3"),
        ([NAN], [1.0], "1 elements that are NaN or infinite"),
        ([1.0], [NAN], "1 elements that are NaN or infinite"),
        ([NAN], [NAN], "1 elements that are NaN or infinite"),
        ([INF], [INF], "1 elements that are NaN or infinite"),
        ([1.0, -INF], [1.0, 1.0], "1 elements that are NaN or infinite"),
        ([1e308], [-1e308], "apart by up to 1.8e+308 in 1 of 1"),
        ([[1.0]], [1.0], "shaped [1, 1] on the server, [1] in MLflow"),
        ([1.0, 1.0], [1.0], "shaped [2] on the server, [1] in MLflow"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "is empty"),
        ([1, 2, 3], [1, 2, 4], "differs in 1 of 3"),
        ([2**53 + 1], [2**53], "differs in 1 of 1"),
        ([1.5], [1], "differs in 1 of 1"),
        ([NAN], [1], "differs in 1 of 1"),
        ([True], [False], "differs in 1 of 1"),
        (np.array([b"a", b"b"], dtype=object), np.array(["a", "c"], dtype=object), "differs in 1 of 2"),
        (np.array([b"\xff"], dtype=object), np.array([b"\xfe"], dtype=object), "differs in 1 of 1"),
        (np.array([b"1.0"], dtype=object), [1.0], "is object on the server, float64 in MLflow"),
        (np.array([b"1"], dtype=object), [1], "differs in 1 of 1"),
        ([1.0], np.array(["a"], dtype=object), "differs in 1 of 1"),
    ],
    ids=[
        "above the boundary",
        "below the boundary",
        "two of three",
        "NaN from the server",
        "NaN from MLflow",
        "NaN on both sides",
        "infinity on both sides",
        "infinity from the server",
        "a difference beyond float64",
        "another rank",
        "another length",
        "empty",
        "integers",
        "large integers",
        "fraction for an integer",
        "NaN for an integer",
        "booleans",
        "texts",
        "bytes that are no text",
        "text for a float",
        "text for an integer",
        "a float for text",
    ],
)
def test_other_answers_do_not_pass(answer: Any, expected: Any, told: str) -> None:
    """Beyond the tolerance, not finite, of another shape or kind: never a pass, and the summary says how far off."""
    result = _parity(answer, expected)

    assert not result.passed
    assert told in result.summary
    assert CheckResult.model_validate_json(result.model_dump_json()) == result


def test_a_missing_output_does_not_pass() -> None:
    """Each output of the model is looked for; what the server has besides them does not matter."""
    one = np.ones(1)

    assert not parity_check({"y": one}, {"y": one, "z": one}, rtol=1, atol=1).passed
    assert "`z` is missing" in parity_check({"y": one}, {"y": one, "z": one}, rtol=1, atol=1).summary
    assert parity_check({"y": one, "z": one}, {"y": one}, rtol=1, atol=1).passed


def test_nothing_to_compare_with_does_not_pass() -> None:
    """A check that compares nothing is closed."""
    assert not parity_check({"y": np.ones(1)}, {}, rtol=1, atol=1).passed


@pytest.mark.parametrize(("rtol", "atol"), [(NAN, 1.0), (1.0, NAN)])
def test_a_tolerance_that_is_no_number_does_not_pass(rtol: float, atol: float) -> None:
    """NaN as a tolerance allows nothing."""
    assert not parity_check({"y": np.ones(1)}, {"y": np.ones(1)}, rtol=rtol, atol=atol).passed


# --- metrics

RANDOM = np.random.default_rng(5)
CLASSES = RANDOM.integers(0, 3, 60)
PROBABILITIES = RANDOM.dirichlet([1, 1, 1], 60).astype(np.float32)
PROBABILITIES /= PROBABILITIES.sum(axis=1, keepdims=True)
GUESSED = RANDOM.integers(0, 3, 60)
YES = RANDOM.integers(0, 2, 60)
SCORES = RANDOM.random(60).astype(np.float32)
TARGETS = RANDOM.normal(size=60)
VALUES = (TARGETS + RANDOM.normal(size=60)).astype(np.float32)
NAMES = np.array(["ham", "spam", "é"], dtype=object)


def _bytes(texts: np.ndarray) -> np.ndarray:
    return np.array([text.encode() for text in texts], dtype=object)


@pytest.mark.parametrize(
    ("name", "answers", "labels", "value"),
    [
        ("accuracy", {"label": GUESSED}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"label": GUESSED[:, None]}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"label": GUESSED}, CLASSES.astype(float), sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"p": PROBABILITIES, "label": GUESSED}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"p": PROBABILITIES}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, PROBABILITIES.argmax(1))),
        ("accuracy", {"label": _bytes(NAMES[GUESSED])}, NAMES[CLASSES], sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"label": _bytes(GUESSED.astype(str))}, CLASSES, sklearn_metrics.accuracy_score(CLASSES, GUESSED)),
        ("accuracy", {"s": SCORES}, YES, sklearn_metrics.accuracy_score(YES, SCORES >= 0.5)),
        ("accuracy", {"s": SCORES[:, None]}, YES.astype(bool), sklearn_metrics.accuracy_score(YES, SCORES >= 0.5)),
        ("f1", {"label": GUESSED}, CLASSES, sklearn_metrics.f1_score(CLASSES, GUESSED, average="macro")),
        ("f1", {"label": NAMES[GUESSED]}, NAMES[CLASSES], sklearn_metrics.f1_score(CLASSES, GUESSED, average="macro")),
        ("f1", {"s": SCORES}, YES, sklearn_metrics.f1_score(YES, SCORES >= 0.5, average="macro")),
        ("auc", {"p": PROBABILITIES}, CLASSES, sklearn_metrics.roc_auc_score(CLASSES, PROBABILITIES, multi_class="ovr")),
        (
            "auc",
            {"label": GUESSED, "p": PROBABILITIES},
            NAMES[CLASSES],
            sklearn_metrics.roc_auc_score(CLASSES, PROBABILITIES, multi_class="ovr"),
        ),
        ("auc", {"s": SCORES}, YES, sklearn_metrics.roc_auc_score(YES, SCORES)),
        ("auc", {"s": SCORES[:, None]}, YES, sklearn_metrics.roc_auc_score(YES, SCORES)),
        ("auc", {"p": np.stack([1 - SCORES, SCORES], axis=1)}, NAMES[YES], sklearn_metrics.roc_auc_score(YES, SCORES)),
        ("rmse", {"y": VALUES}, TARGETS, sklearn_metrics.root_mean_squared_error(TARGETS, VALUES)),
        ("rmse", {"y": VALUES[:, None]}, TARGETS, sklearn_metrics.root_mean_squared_error(TARGETS, VALUES)),
        ("mae", {"y": VALUES[:, None]}, TARGETS[:, None], sklearn_metrics.mean_absolute_error(TARGETS, VALUES)),
        ("mae", {"y": GUESSED}, TARGETS, sklearn_metrics.mean_absolute_error(TARGETS, GUESSED)),
        ("r2", {"y": VALUES[:, None]}, TARGETS, sklearn_metrics.r2_score(TARGETS, VALUES)),
    ],
    ids=[
        "accuracy-classes",
        "accuracy-classes [N, 1]",
        "accuracy-labels as floats",
        "accuracy-classes beside probabilities",
        "accuracy-probabilities only",
        "accuracy-texts",
        "accuracy-numbers as text",
        "accuracy-binary scores",
        "accuracy-scores [N, 1], boolean labels",
        "f1-classes",
        "f1-texts",
        "f1-binary scores",
        "auc-probabilities",
        "auc-text labels",
        "auc-binary scores",
        "auc-scores [N, 1]",
        "auc-two columns, text labels",
        "rmse-[N]",
        "rmse-[N, 1]",
        "mae-labels [N, 1]",
        "mae-integers",
        "r2-[N, 1]",
    ],
)
def test_a_metric_is_scikit_learns(name: str, answers: dict[str, np.ndarray], labels: np.ndarray, value: float) -> None:
    """The figure is what scikit-learn's own function gives for the same values, and its limits are inclusive on both sides."""
    value = float(value)

    assert metric_check(name, answers, labels, minimum=-9).figures == {name: pytest.approx(value, rel=1e-9)}
    exact = metric_check(name, answers, labels, minimum=-9).figures[name]
    assert metric_check(name, answers, labels, minimum=exact, maximum=exact).passed
    assert not metric_check(name, answers, labels, minimum=np.nextafter(exact, INF)).passed
    assert not metric_check(name, answers, labels, maximum=np.nextafter(exact, -INF)).passed


def test_the_verdict_of_a_metric_says_figure_and_limit() -> None:
    """Below, above and within, in words; the limits travel with the figures."""
    answers, labels = {"label": np.array([1, 1, 0, 0])}, np.array([1, 1, 1, 0])

    low = metric_check("accuracy", answers, labels, minimum=0.9, server="s")
    assert (low.passed, low.summary, low.limits, low.server) == (False, "accuracy 0.75 is below 0.9", {"min": 0.9}, "s")
    assert metric_check("accuracy", answers, labels, maximum=0.5).summary == "accuracy 0.75 is above 0.5"
    assert metric_check("accuracy", answers, labels, minimum=0.5, maximum=0.8).summary == "accuracy 0.75"


def test_a_metric_without_limits_does_not_pass() -> None:
    """A check that demands nothing is closed."""
    assert not metric_check("accuracy", {"label": CLASSES}, CLASSES).passed


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("name", METRICS)
def test_an_answer_that_is_not_finite_never_passes(name: str, bad: float) -> None:
    """One NaN or infinity in the output that the metric needs: not passed, whatever the limits, and no traceback."""
    labels = TARGETS if name in ("rmse", "mae", "r2") else YES
    scores = SCORES.copy()
    scores[np.argmin(labels)] = bad

    for answers in ({"s": scores}, {"s": scores[:, None]}):
        result = metric_check(name, answers, labels, minimum=-9e9, maximum=9e9)

        assert not result.passed
        assert result.summary == f"{name} nan is no number"
        assert ValidationReport.model_validate_json(ValidationReport(candidate="c", data="d", rows=1, checks=(result,)).model_dump_json())


def test_a_probability_that_is_not_finite_never_passes() -> None:
    """NaN is not taken for the largest entry of its row."""
    probabilities = np.eye(3, dtype=np.float32)[CLASSES]
    probabilities[0, CLASSES[0]] = NAN

    assert not metric_check("accuracy", {"p": probabilities}, CLASSES, minimum=0.0).passed


@pytest.mark.filterwarnings("ignore:Only one class is present")
def test_a_metric_that_is_undefined_never_passes() -> None:
    """The area under a curve of one class is no number."""
    assert not metric_check("auc", {"s": SCORES}, np.zeros(60, dtype=int), minimum=0.0).passed


@pytest.mark.parametrize(
    ("name", "answers", "labels"),
    [
        ("accuracy", {"y": np.zeros((59, 3))}, CLASSES),
        ("auc", {"label": GUESSED}, CLASSES),
        ("auc", {"p": PROBABILITIES}, YES),
        ("rmse", {"p": PROBABILITIES}, TARGETS),
        ("rmse", {"y": VALUES}, NAMES[CLASSES]),
        ("mae", {"y": _bytes(NAMES[GUESSED])}, TARGETS),
        ("mae", {"y": VALUES}, np.where(TARGETS > 1, np.nan, TARGETS)),
        ("accuracy", {"label": GUESSED}, TARGETS),
        ("r2", {}, TARGETS),
    ],
    ids=[
        "other rows",
        "auc of classes",
        "more columns than classes",
        "a matrix",
        "text labels for numbers",
        "text for numbers",
        "missing labels",
        "numbers as classes",
        "no output",
    ],
)
def test_what_a_metric_cannot_be_computed_of_is_an_error(name: str, answers: dict[str, np.ndarray], labels: np.ndarray) -> None:
    """ValidationDataError that names the outputs or the labels, and no traceback of scikit-learn's."""
    with pytest.raises(ValidationDataError, match=r"no output holds|cannot be computed of"):
        metric_check(name, answers, labels, minimum=0.0)


# --- the report


def _report(*passed: bool) -> ValidationReport:
    checks = tuple(CheckResult(name=f"c{n}", passed=ok, summary=f"c{n} {'fine' if ok else 'bad'}") for n, ok in enumerate(passed))
    return ValidationReport(candidate="m--candidate-1", data="rows.csv", rows=3, checks=checks)


@pytest.mark.parametrize(
    ("passed", "verdict"),
    [
        ((), "rejected: nothing was checked"),
        ((True,), "passed: c0 fine"),
        ((True, True), "passed: c0 fine; c1 fine"),
        ((True, False, True), "rejected: c1 bad"),
        ((False, False), "rejected: c0 bad; c1 bad"),
    ],
    ids=["nothing checked", "one", "all", "all but one", "none"],
)
def test_a_report_passes_where_all_checks_did(passed: tuple[bool, ...], verdict: str) -> None:
    """At least one check, and every one passed; the verdict names the checks that decided."""
    report = _report(*passed)

    assert report.passed == verdict.startswith("passed")
    assert report.verdict == verdict


def test_a_report_travels_as_json() -> None:
    """It comes back equal, with the probe, and its JSON carries the verdict."""
    report = _report(True).model_copy(update={"probe": make_probe({"x": np.ones((2, 2))}, {"y": np.ones(2)}, batching=True)})

    assert ValidationReport.model_validate_json(report.model_dump_json()) == report
    assert ValidationReport.model_validate(json.loads(report.model_dump_json())) == report
    assert json.loads(report.model_dump_json())["passed"] is True


# --- data


def _servable(*inputs: tuple[str, str, tuple[int, ...]], outputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()) -> Servable:
    def specs(rows: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, datatype=datatype, shape=shape) for name, datatype, shape in rows)

    taken, given = specs(inputs), specs(outputs or inputs)
    return Servable(
        backend="onnxruntime",
        default_model_filename="model.onnx",
        inputs=taken,
        outputs=given,
        batching=all(spec.shape[:1] == (-1,) for spec in (*taken, *given)),
        flavor="onnx",
        converter="as-is",
    )


MATRIX = _servable(("x", "FP32", (-1, 2)))
TWO = _servable(("age", "INT64", (-1, 1)), ("name", "BYTES", (-1, 1)))
ROWS = np.array([[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=np.float32)


def _save(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_a_table_becomes_a_matrix(tmp_path: Path, suffix: str) -> None:
    """The feature columns side by side, in the order of the file or of `columns`; the labels apart; the same again when read again."""
    path = _save(tmp_path / f"rows{suffix}", pd.DataFrame({"b": ROWS[:, 1], "label": [0, 1, 0], "a": ROWS[:, 0]}))

    for _ in range(2):
        dataset = load_dataset(path, MATRIX, columns=["a", "b"])
        np.testing.assert_array_equal(dataset.inputs["x"], ROWS)
        assert dataset.inputs["x"].dtype == np.float32
        assert dataset.labels is not None
        assert dataset.labels.tolist() == [0, 1, 0]
        assert (dataset.origin, dataset.rows) == (str(path), 3)
    np.testing.assert_array_equal(load_dataset(path, MATRIX).inputs["x"], ROWS[:, ::-1])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_a_table_becomes_one_array_for_each_input(tmp_path: Path, suffix: str) -> None:
    """Columns named as the inputs, with their types; another label column, and none at all."""
    table = pd.DataFrame({"name": ["a", "é"], "age": [7, 2**53 + 1], "wanted": ["yes", "no"]})
    path = _save(tmp_path / f"rows{suffix}", table)

    dataset = load_dataset(path, TWO, label="wanted")
    assert dataset.inputs["name"].tolist() == [["a"], ["é"]]
    assert dataset.inputs["age"].tolist() == [[7], [2**53 + 1]]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == ["yes", "no"]
    assert load_dataset(_save(path, table.drop(columns="wanted")), TWO).labels is None


def test_json_is_taken_as_it_is_written(tmp_path: Path) -> None:
    """Digits in quotes stay text, and a column named `date` is no date."""
    servable = _servable(("zip", "BYTES", (-1,)), ("date", "INT64", (-1,)), ("created_at", "FP32", (-1,)))
    path = tmp_path / "rows.json"
    path.write_text('[{"zip": "007", "date": 1700000000, "created_at": 1.5, "label": "01"}]')

    dataset = load_dataset(path, servable)

    assert {name: array.tolist() for name, array in dataset.inputs.items()} == {"zip": ["007"], "date": [1700000000], "created_at": [1.5]}
    assert dataset.labels is not None
    assert dataset.labels.tolist() == ["01"]


def test_an_npz_holds_the_inputs_as_they_are(tmp_path: Path) -> None:
    """One array for each input, with more axes and text; labels by their name."""
    servable = _servable(("image", "FP32", (-1, 2, 2)), ("text", "BYTES", (-1,)))
    images = np.arange(12, dtype=np.float64).reshape(3, 2, 2)
    path = tmp_path / "rows.npz"
    np.savez(path, image=images, text=np.array(["a", "é", ""]), y=np.array([1, 2, 3]))

    dataset = load_dataset(path, servable, label="y")

    np.testing.assert_array_equal(dataset.inputs["image"], images)
    assert dataset.inputs["image"].dtype == np.float32
    assert dataset.inputs["text"].tolist() == ["a", "é", ""]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 2, 3]


def _npz(**arrays: Any) -> Any:
    return lambda path: np.savez(path, **arrays)


def _text(content: str | bytes) -> Any:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("name", "write", "servable", "told"),
    [
        ("a.npz", None, MATRIX, ["there is no data file"]),
        ("a.txt", _text("1"), MATRIX, ["unknown kind of data", ".npz, .parquet, .csv, .json"]),
        ("a.npz", _npz(z=ROWS), MATRIX, ["['z']", "['x']"]),
        ("a.npz", _npz(x=ROWS, z=ROWS), MATRIX, ["['x', 'z']", "['x']"]),
        ("a.npz", _npz(x=ROWS[:, :1]), MATRIX, ["[3, 1]", "[-1, 2]"]),
        ("a.npz", _npz(x=ROWS[:2, :1]), MATRIX, ["[2, 1]", "rows"]),
        ("a.npz", _npz(x=np.array([["a", "b"]])), MATRIX, ["text", "FP32"]),
        ("a.npz", _npz(x=ROWS[:0]), MATRIX, ["no rows"]),
        ("a.npz", _npz(x=ROWS, label=np.zeros(2)), MATRIX, ["2 labels for 3 rows"]),
        ("a.npz", _npz(age=np.zeros((3, 1), int), name=np.array([["a"], ["b"]])), TWO, ["'age': 3", "'name': 2"]),
        ("a.npz", _npz(age=np.array([[1.5]]), name=np.array([["a"]])), TWO, ["`age`", "INT64"]),
        ("a.npz", _npz(x=np.array([{}], dtype=object)), MATRIX, ["cannot be read"]),
        ("a.npz", _text(b"PK\3\4 no zip"), MATRIX, ["cannot be read"]),
        ("a.npz", _text(""), MATRIX, ["cannot be read"]),
        ("a.csv", _text("a,b,c\n1,2,3\n"), TWO, ["missing ['age', 'name']", "unexpected ['a', 'b', 'c']"]),
        ("a.csv", _text("a,b,c\n1,2,3\n"), MATRIX, ["[1, 3]", "[-1, 2]"]),
        ("a.csv", _text("a,label\n1,0\n2,1\n"), MATRIX, ["2 rows", "['a']", "'x': [1, 2]"]),
        ("a.csv", _text("a,b\n1,x\n"), MATRIX, ["'b'", "FP32"]),
        ("a.csv", _text("age,name\n1,a\n,b\n"), TWO, ["'age'", "INT64"]),
        ("a.csv", _text("a,b\n"), MATRIX, []),
        ("a.csv", _text(""), MATRIX, ["cannot be read as a table"]),
        ("a.csv", _text(b"\xff\xfe\x00"), MATRIX, ["cannot be read as a table"]),
        ("a.csv", _text("a,b\n1,2\n1,2,3,4\n"), MATRIX, ["cannot be read as a table"]),
        ("a.parquet", _text("PAR1"), MATRIX, ["cannot be read as a table"]),
        ("a.json", _text("{"), MATRIX, ["cannot be read as a table"]),
        ("a.json", _text("5"), MATRIX, ["no list of records"]),
        ("a.json", _text('{"a": 1}'), MATRIX, ["cannot be read as a table"]),
        ("a.json", _text("[]"), MATRIX, []),
        ("a.json", _text("null"), MATRIX, ["no list of records"]),
        ("a.json", _text("[1, 2]"), MATRIX, ["no list of records"]),
    ],
    ids=[
        "missing file",
        "unknown suffix",
        "npz-another array",
        "npz-one array too many",
        "npz-shape",
        "npz-a column for a row",
        "npz-text for numbers",
        "npz-empty",
        "npz-labels",
        "npz-lengths differ",
        "npz-fractions for integers",
        "npz-pickle",
        "npz-corrupt",
        "npz-no bytes",
        "csv-columns",
        "csv-too many columns",
        "csv-a column for a row",
        "csv-text for a number",
        "csv-missing value",
        "csv-no rows",
        "csv-no bytes",
        "csv-no text",
        "csv-ragged",
        "parquet-corrupt",
        "json-corrupt",
        "json-a number",
        "json-no list",
        "json-empty",
        "json-null",
        "json-numbers",
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, name: str, write: Any, servable: Servable, told: list[str]) -> None:
    """ValidationDataError that names the file and both sides, what came and what the model takes; the same when asked again."""
    path = tmp_path / name
    if write:
        write(path)

    messages = []
    for _ in range(2):
        with pytest.raises(ValidationDataError) as caught:
            load_dataset(path, servable)
        messages.append(str(caught.value))

    assert messages[0] == messages[1]
    assert all(words in messages[0] for words in [str(path), *told]), messages[0]


# --- shapes towards the server


@pytest.mark.parametrize(
    ("servable", "own", "sent"),
    [
        (_servable(("t", "FP32", (-1,))), (5,), (5, 1)),
        (_servable(("t", "FP32", (-1, 3))), (5, 3), (5, 3)),
        (_servable(("t", "FP32", (-1, 2, 2))), (5, 2, 2), (5, 2, 2)),
        (_servable(("t", "FP32", ())), (), (1,)),
        (_servable(("t", "FP32", (1,))), (1,), (1,)),
        (_servable(("t", "FP32", (2, 3))), (2, 3), (2, 3)),
    ],
    ids=["one number a row", "matrix", "tensor", "scalar", "one number", "no batching"],
)
def test_shapes_to_the_server_and_back(servable: Servable, own: tuple[int, ...], sent: tuple[int, ...]) -> None:
    """What the server takes has the shape of its config; what it answers gets the model's own shape again."""
    config = model_config.build(servable, name="m")
    array = np.arange(int(np.prod(own)), dtype=np.float32).reshape(own)

    taken = as_server_takes(config, {"t": array})
    given = as_model_gives(config, servable, taken)

    assert taken["t"].shape == sent
    assert given["t"].shape == own
    np.testing.assert_array_equal(given["t"], array)


# --- on the real server

ECHO = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy())]) for r in requests]
"""


def _graph(operator: str) -> Any:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], operator, ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _write(root: Path, name: str, backend: str, kind: str, dims: str) -> Path:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    sides = "".join(f'{side} {{ name: "{tensor}" data_type: {kind} dims: {dims} }}\n' for side, tensor in (("input", "x"), ("output", "y")))
    head = f'backend: "{backend}"\nmax_batch_size: 8\ninstance_group {{ count: 1 kind: KIND_CPU }}\n'
    (folder.parent / "config.pbtxt").write_text(head + sides)
    return folder


@pytest.fixture(scope="module")
def asked(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the real server with `same` (y = x) and `other` (y = -x), both ONNX, and `texts`, which answers the texts it gets."""
    root = Path(triton.repository)
    for name, operator in (("same", "Identity"), ("other", "Neg")):
        onnx.save(_graph(operator), _write(root, name, "onnxruntime", "TYPE_FP32", "[2]") / "model.onnx")
    (_write(root, "texts", "python", "TYPE_STRING", "[1]") / "model.py").write_text(ECHO)
    names = ("same", "other", "texts")
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        for name in names:
            client.load(name)
        yield client
        for name in names:
            client.unload(name)
            client.wait_unloaded(name)


@pytest.mark.parametrize(("total", "rows"), [(1001, 8), (16, 8), (7, 8), (1, 1), (9, 2)], ids=str)
def test_rows_keep_their_order(asked: TritonClient, total: int, rows: int) -> None:
    """Many requests in flight, and a last one that is short: the answers come back row by row."""
    values = np.arange(total * 2, dtype=np.float32).reshape(total, 2)

    answers = ask(asked, "same", {"x": values}, rows=rows)

    np.testing.assert_array_equal(answers["y"], values)


def test_without_batching_everything_is_one_request(asked: TritonClient) -> None:
    """`rows` 0 sends it all at once: more than the model's largest batch is refused by the server."""
    values = np.ones((8, 2), dtype=np.float32)

    np.testing.assert_array_equal(ask(asked, "same", {"x": values}, rows=0)["y"], values)
    with pytest.raises(ServerError, match="must be <= 8"):
        ask(asked, "same", {"x": np.ones((9, 2), dtype=np.float32)}, rows=0)


def test_a_request_that_fails_is_raised(asked: TritonClient) -> None:
    """One refused request of many is an error, with the server's reason."""
    with pytest.raises(ServerError, match="unexpected inference input 'z'"):
        ask(asked, "same", {"z": np.ones((40, 2), dtype=np.float32)}, rows=8)


def test_a_probe_tells_one_model_from_another(asked: TritonClient) -> None:
    """The model that answered when the probe was made gives its answer again; another one raises ServerError that names it."""
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    made = make_probe({"x": rows}, {"y": ask(asked, "same", {"x": rows}, rows=8)["y"]}, batching=True)
    assert made is not None
    probe = Probe.model_validate_json(made.model_dump_json())

    check_probe(asked, "same", 1, probe)
    with pytest.raises(ServerError, match="version 1 of `other` answers otherwise than when it was validated"):
        check_probe(asked, "other", 1, probe)
    check_probe(asked, "other", 1, None)


@pytest.mark.parametrize(
    "sent",
    ["plain", "é", "日本語", b"plain", b"\xff\x00\xfe", ""],
    ids=["ASCII", "Latin-1", "beyond Latin-1", "bytes", "no UTF-8", "empty"],
)
def test_a_probe_of_text_asks_what_was_asked(asked: TritonClient, sent: str | bytes) -> None:
    """Text goes to the server in the very bytes of the validated request, also after its way through JSON."""
    inputs = {"x": np.array([[sent]], dtype=object)}
    made = make_probe(inputs, ask(asked, "texts", inputs, rows=8), batching=True)
    assert made is not None
    probe = Probe.model_validate_json(made.model_dump_json())

    check_probe(asked, "texts", 1, probe)
    with pytest.raises(ServerError, match="differs in 1 of 1"):
        check_probe(asked, "texts", 1, Probe(inputs=probe.inputs, outputs={"y": {**probe.outputs["y"], "data": ["else"]}}))


PROBED: dict[str, np.ndarray] = {
    "BOOL": np.array([True, False]),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15)], np.int16),
    "INT32": np.array([-(2**31)], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "UINT8": np.array([255], np.uint8),
    "UINT16": np.array([2**16 - 1], np.uint16),
    "UINT32": np.array([2**32 - 1], np.uint32),
    "UINT64": np.array([2**64 - 1], np.uint64),
    "FP16": np.array([0.1, -65504], np.float16),
    "FP32": np.array([0.1, 1e-30, NAN, INF, -INF], np.float32),
    "FP64": np.array([0.1, 1e-300, NAN, INF, -INF], np.float64),
    "BYTES": np.array([b"a", b"\xff\x00", "é".encode()], object),
}


@pytest.mark.parametrize("datatype", PROBED)
def test_a_probe_survives_json_in_every_type(datatype: str) -> None:
    """Every value, the smallest and the largest, NaN, infinities and bytes that are no text, comes back bit for bit."""
    from airflow_triton.validation.probe import _read

    array = PROBED[datatype]
    made = make_probe({"x": array}, {"y": array[None]}, batching=False)
    assert made is not None
    probe = Probe.model_validate(json.loads(json.dumps(json.loads(made.model_dump_json()), allow_nan=False)))

    for back, given in ((_read(probe.inputs)["x"], array), (_read(probe.outputs)["y"], array[None])):
        assert (back.dtype, back.shape) == (given.dtype, given.shape)
        assert back.tolist() == given.tolist() if datatype == "BYTES" else back.tobytes() == given.tobytes()
    assert probe.inputs["x"]["datatype"] == datatype


@pytest.mark.parametrize("batching", [True, False])
def test_a_probe_is_one_row_where_the_model_batches(batching: bool) -> None:  # noqa: FBT001
    """The first row, or all of it for a model that does not batch."""
    probe = make_probe({"x": ROWS}, {"y": ROWS[:, 0]}, batching=batching)

    assert probe is not None
    assert probe.inputs["x"]["shape"] == ([1, 2] if batching else [3, 2])
    assert probe.outputs["y"]["data"] == ([1.5] if batching else [1.5, 3.0, 5.0])


@pytest.mark.parametrize(
    ("inputs", "kept"),
    [
        (np.zeros((1, MOST_ELEMENTS - 1)), True),
        (np.zeros((1, MOST_ELEMENTS)), False),
        (np.array([[b"x" * MOST_ELEMENTS]], dtype=object), False),
        (np.array([["x" * 100]], dtype=object), True),
    ],
    ids=["just small enough", "too large", "a text that is too large", "a short text"],
)
def test_a_probe_that_is_too_large_is_not_kept(inputs: np.ndarray, kept: bool) -> None:  # noqa: FBT001
    """It travels in the report and the manifest, so a large one is None; a text counts by its length."""
    assert (make_probe({"x": inputs}, {"y": np.zeros(1)}, batching=True) is not None) == kept
