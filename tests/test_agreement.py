"""How far two models agree: figures, tolerance, and where it is worst."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from airflow_triton.validation.agreement import Agreement, Comparison

EXPECTED = np.array([[1.0, 2.0], [4.0, 3.0], [0.0, -8.0]], dtype=np.float32)


def compared(got: Any, expected: Any, **tolerance: float) -> Agreement:
    comparison = Comparison(**{"rtol": 1e-4, "atol": 1e-5, **tolerance})
    comparison.add("a run", {"y": np.asarray(got)}, {"y": np.asarray(expected)})
    return comparison.agreement


def test_equal_answers_agree() -> None:
    """Every figure says so."""
    agreement = compared(EXPECTED, EXPECTED)
    (output,) = agreement.outputs

    assert agreement.passed
    assert (output.elements, output.apart, output.max_abs, output.max_rel, output.cosine, output.argmax) == (6, 0, 0, 0, 1, 1)
    assert agreement.summary == "largest difference 0 over 3 rows of 1 runs"


def test_the_report_names_output_and_row_and_both_values() -> None:
    """And the figures are the largest, over all elements."""
    got = EXPECTED.copy()
    got[1] = [2.0, 3.5]
    agreement = compared(got, EXPECTED)
    (output,) = agreement.outputs

    assert not agreement.passed
    assert (output.apart, output.row, output.max_abs, output.max_rel) == (2, 1, 2.0, 0.5)
    assert output.argmax == pytest.approx(2 / 3)
    assert output.cosine == pytest.approx(float(got.ravel() @ EXPECTED.ravel() / np.linalg.norm(got) / np.linalg.norm(EXPECTED)))
    assert agreement.summary == (
        "the output 'y' is out of tolerance in 2 of 6 elements (worst in row 1 of a run: 2 instead of 4) "
        "(tolerance 1e-05 + 0.0001 x expected)"
    )
    assert agreement.figures["y.apart"] == 2


@pytest.mark.parametrize(("difference", "passes"), [(1.09e-4, True), (1.2e-4, False), (-1.09e-4, True), (-1.2e-4, False)], ids=str)
def test_the_tolerance_is_atol_and_rtol_of_what_is_expected(difference: float, passes: bool) -> None:  # noqa: FBT001
    """1e-5 + 1e-4 of 1.0."""
    assert compared(np.array([1.0 + difference]), np.array([1.0])).passed == passes


@pytest.mark.parametrize(
    ("got", "expected", "passes"),
    [
        ([np.nan, 1], [np.nan, 1], True),
        ([np.nan, 1], [0, 1], False),
        ([0, 1], [np.nan, 1], False),
        ([np.inf, 1], [np.inf, 1], True),
        ([-np.inf, 1], [np.inf, 1], False),
        ([3e38, 1], [np.inf, 1], False),
        ([np.nan, 1], [np.inf, 1], False),
    ],
)
def test_nan_stands_for_nan_and_an_infinity_for_itself(got: list[float], expected: list[float], passes: bool) -> None:  # noqa: FBT001
    """Whatever else is where one of them is, it is out of tolerance; they are counted."""
    agreement = compared(np.array(got, dtype=np.float32), np.array(expected, dtype=np.float32))

    assert agreement.passed == passes
    assert agreement.outputs[0].nan + agreement.outputs[0].infinite > 0
    assert (agreement.outputs[0].row is None) == passes


@pytest.mark.parametrize(
    ("got", "expected", "passes"),
    [
        (["a", "b"], ["a", "b"], True),
        ([b"a", b"b"], ["a", "b"], True),
        (["a", "c"], ["a", "b"], False),
        ([1, 2], [1, 2], True),
        ([1, 3], [1, 2], False),
        ([True, False], [True, True], False),
    ],
)
def test_what_has_no_fractions_must_be_equal(got: list[Any], expected: list[Any], passes: bool) -> None:  # noqa: FBT001
    """Texts, whole numbers and flags."""
    kind = object if isinstance(expected[0], str) else None
    agreement = compared(np.array(got, dtype=kind), np.array(expected, dtype=kind))

    assert agreement.passed == passes
    assert agreement.outputs[0].row == (None if passes else 1)


@pytest.mark.parametrize("got", [np.zeros((2, 3)), np.zeros(6), np.zeros((3, 1))])
def test_another_shape_is_never_compared_by_broadcasting(got: np.ndarray) -> None:
    """Every element is out of tolerance."""
    agreement = compared(got, np.zeros((3, 2)))

    assert not agreement.passed
    assert "instead of the shape [3, 2]" in agreement.summary


def test_a_missing_output_and_an_empty_one_do_not_agree() -> None:
    """Nothing that was not compared passes."""
    comparison = Comparison(rtol=1, atol=1)
    comparison.add("a run", {}, {"y": np.zeros(3)})
    assert "nothing instead of" in comparison.agreement.summary

    assert not compared(np.zeros((0, 2)), np.zeros((0, 2))).passed
    assert not Comparison(rtol=1, atol=1).agreement.passed


def test_runs_are_joined_and_the_first_bad_one_is_named() -> None:
    """Worst figures over all runs; left-out runs are told."""
    comparison = Comparison(rtol=0, atol=0.5)
    comparison.add("one", {"y": np.array([[1.0, 2.0]])}, {"y": np.array([[1.0, 2.1]])})
    comparison.add("two", {"y": np.array([[1.0, 2.0], [3.0, 5.0]])}, {"y": np.array([[1.0, 2.0], [3.0, 2.0]])})
    comparison.add("three", {"y": np.array([[9.0, 0.0]])}, {"y": np.array([[0.0, 0.0]])})
    comparison.leave_out("four", "the model does not take it")
    agreement = comparison.agreement

    assert agreement.runs == {"one": 1, "two": 2, "three": 1}
    assert agreement.left_out == {"four": "the model does not take it"}
    (output,) = agreement.outputs
    assert (output.case, output.row, output.apart, output.max_abs, output.argmax) == ("two", 1, 2, 9.0, 0.5)
    assert Agreement.model_validate_json(agreement.model_dump_json()) == agreement
