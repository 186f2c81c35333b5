"""Parity and golden answers: what agrees, what does not, how it is told; and the verdict of a report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.spec import Golden, Parity, ServedParity
from airflow_triton.validation import CheckResult, Dataset, Part, Seen, ValidationReport
from airflow_triton.validation.checks.parity import AgreementCheck
from airflow_triton.validation.probe import make_probe

RTOL, ATOL = 0.5, 0.25  # exact in binary, so that a boundary is one
NO_BENCH: Any = None  # parity asks nothing by itself


def _check(answers: Any, expected: Any, **rules: Any) -> CheckResult:
    check = AgreementCheck.parity(ServedParity(**{"rtol": RTOL, "atol": ATOL, **rules}))
    check._case = "rows.csv"
    check.see(Seen(Part(0, {}), answers, expected=expected))
    return check.results(NO_BENCH)[0]


def _parity(answer: Any, expected: Any) -> CheckResult:
    return _check({"y": np.asarray(answer)}, {"y": np.asarray(expected)})


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
    assert (result.name, result.limits) == ("parity", {"rtol": RTOL, "atol": ATOL})
    assert "largest difference" in result.summary


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("answer", "expected", "told"),
    [
        ([np.nextafter(3.25, 4.0)], [2.0], "out of tolerance in 1 of 1 elements (worst in row 0 of rows.csv: 3.25 instead of 2)"),
        ([0.75 - 2**-40], [2.0], "out of tolerance in 1 of 1"),
        ([2.0, 9.0, 9.5], [2.0, 2.0, 2.0], "out of tolerance in 2 of 3 elements (worst in row 2 of rows.csv: 9.5 instead of 2)"),
        ([NAN], [1.0], "nan instead of 1"),
        ([1.0], [NAN], "1 instead of nan"),
        ([NAN], [NAN], "'y' has no finite element"),
        ([INF], [INF], "'y' has no finite element"),
        ([1.0, -INF], [1.0, 1.0], "-inf instead of 1"),
        ([1e308], [-1e308], "1e+308 instead of -1e+308"),
        ([[1.0]], [1.0], "the shape [1, 1] instead of the shape [1]"),
        ([1.0, 1.0], [1.0], "the shape [2] instead of the shape [1]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "gave no element to compare"),
        ([1, 2, 3], [1, 2, 4], "out of tolerance in 1 of 3"),
        ([2**53 + 1], [2**53], "out of tolerance in 1 of 1"),
        ([1.5], [1], "out of tolerance in 1 of 1"),
        ([NAN], [1], "out of tolerance in 1 of 1"),
        ([True], [False], "out of tolerance in 1 of 1"),
        (np.array([b"a", b"b"], dtype=object), np.array(["a", "c"], dtype=object), "out of tolerance in 1 of 2"),
        (np.array([b"\xff"], dtype=object), np.array([b"\xfe"], dtype=object), "out of tolerance in 1 of 1"),
        (np.array([b"1.0"], dtype=object), [1.0], "out of tolerance in 1 of 1"),
        (np.array([b"1"], dtype=object), [2], "out of tolerance in 1 of 1"),
        ([1.0], np.array(["a"], dtype=object), "out of tolerance in 1 of 1"),
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

    missing = _check({"y": one}, {"y": one, "z": one})
    assert not missing.passed
    assert "the output 'z' is out of tolerance in 1 of 1 elements (worst in row 0 of rows.csv: nothing instead of" in missing.summary
    assert _check({"y": one, "z": one}, {"y": one}).passed


def test_nothing_to_compare_with_does_not_pass() -> None:
    """A check that compares nothing is closed, and so is one that saw nothing at all."""
    assert not _check({"y": np.ones(1)}, {}).passed
    assert not AgreementCheck.parity(ServedParity()).results(NO_BENCH)[0].passed


def test_a_nan_that_both_sides_give_for_a_row_agrees() -> None:
    """A model that answers NaN for missing values may do so on the server, too, as long as there are numbers to compare."""
    values = np.array([1.0, NAN, INF])

    assert _check({"y": values}, {"y": values}).passed
    assert _check({"y": values}, {"y": values}).figures["y.nan"] == 1


@pytest.mark.parametrize(("rtol", "atol"), [(NAN, 1.0), (1.0, NAN)])
def test_a_tolerance_that_is_no_number_does_not_pass(rtol: float, atol: float) -> None:
    """NaN as a tolerance allows nothing; a spec refuses it anyway."""
    check = AgreementCheck("parity", rtol=rtol, atol=atol)
    check.see(Seen(Part(0, {}), {"y": np.zeros(1)}, expected={"y": np.ones(1)}))

    assert not check.results(NO_BENCH)[0].passed


def test_cosine_and_argmax_have_limits_of_their_own() -> None:
    """Both are told for every output that has them, and each is held against its limit."""
    expected = {"p": np.array([[0.6, 0.4], [0.3, 0.7]])}
    swapped = {"p": np.array([[0.6, 0.4], [0.55, 0.45]])}

    near = _check(swapped, expected, cosine=0.9)
    assert near.passed
    assert near.figures["p.argmax"] == 0.5
    far = _check(swapped, expected, argmax=0.99)
    assert not far.passed
    assert far.summary == "parity: the argmax of the output 'p' is 0.5, below 0.99"
    assert far.limits == {"rtol": RTOL, "atol": ATOL, "argmax": 0.99}


def test_a_limit_that_no_output_has_a_figure_for_does_not_pass() -> None:
    """Classes have no cosine similarity: a limit on it would check nothing."""
    check = _check({"label": np.array([1, 2])}, {"label": np.array([1, 2])}, cosine=0.9)

    assert not check.passed
    assert check.summary == "parity: no output has a figure for 'cosine'"


def test_an_output_may_have_a_tolerance_of_its_own() -> None:
    """Another tolerance for one output leaves the others as they are; a name that the model does not have is refused."""
    answers, expected = {"a": np.array([1.9]), "b": np.array([1.9])}, {"a": np.array([1.0]), "b": np.array([1.0])}
    own = {"b": Parity(rtol=1.0, atol=0.0)}

    result = _check(answers, expected, outputs=own)
    assert "'a' is out of tolerance" in result.summary
    assert "'b'" not in result.summary
    servable = Servable(
        backend="onnxruntime",
        default_model_filename="model.onnx",
        inputs=(),
        flavor="onnx",
        converter="as-is",
        batching=True,
        outputs=(TensorSpec(name="a", datatype="FP32", shape=(-1,)),),
    )
    with pytest.raises(ValidationDataError, match=r"names \['b'\], and the model's outputs are \['a'\]"):
        AgreementCheck.parity(ServedParity(outputs=own)).fit(Dataset("rows", 1, ()), servable)


def test_parts_are_one_comparison() -> None:
    """However many parts there are, rows are counted over all of them, and the pictures stay small."""
    check = AgreementCheck.parity(ServedParity(rtol=0, atol=0.01))
    check.fit(
        Dataset("rows.csv", 40_000, ()),
        Servable(
            backend="b",
            default_model_filename="",
            inputs=(),
            outputs=(),
            flavor="onnx",
            converter="as-is",
            batching=True,
        ),
    )
    random = np.random.default_rng(3)
    for start in range(0, 40_000, 8_000):
        expected = random.normal(size=(8_000, 3))
        answers = expected.copy()
        if start == 16_000:
            answers[5, 1] += 0.5
            answers[7, 1] += 0.25
        check.see(Seen(Part(start, {}), {"y": answers}, expected={"y": expected}))

    (result,) = check.results(NO_BENCH)

    assert "out of tolerance in 2 of 120000 elements (worst in row 16005 of rows.csv" in result.summary
    scatter, worst = result.plots
    assert len(scatter.x) == len(scatter.y) <= 2_000
    assert [row[0] for row in worst.rows] == ["16005", "16007"]
    assert [row[-1] for row in worst.rows] == ["0.5", "0.25"]


def test_golden_answers_are_the_recorded_ones() -> None:
    """The expectation comes with the rows, not from the MLflow model."""
    check = AgreementCheck.golden(Golden(data="/golden.jsonl"))
    check.see(Seen(Part(0, {}, answers={"y": np.ones(2)}), {"y": np.ones(2)}, expected={"y": np.zeros(2)}))

    (result,) = check.results(NO_BENCH)
    assert (result.name, result.passed) == ("golden", True)
    assert check.needs == {"recorded"}


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


def test_a_warning_is_told_and_does_not_reject() -> None:
    """It stands in the verdict of what passed; alone it is no gate."""
    fine = CheckResult(name="a", passed=True, summary="a fine")
    warns = CheckResult(name="b", passed=False, summary="b odd", severity="warning")

    both = ValidationReport(candidate="m", data="rows", rows=1, checks=(fine, warns))
    assert (both.passed, both.verdict, both.warnings) == (True, "passed: a fine; warning: b odd", ("b odd",))
    alone = ValidationReport(candidate="m", data="rows", rows=1, checks=(warns,))
    assert (alone.passed, alone.verdict) == (False, "rejected: every check only warns; b odd")
