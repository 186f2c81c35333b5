"""Great Expectations: a suite is whole or refused, and nothing that it passes over is a pass."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import everything_in
from test_rollout import run, seen

from airflow_triton.errors import RejectedError, SpecError, ValidationDataError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.registry import Registry
from airflow_triton.repository import Repository, open_repository
from airflow_triton.repository.base import MODELS, WORK
from airflow_triton.servable import DataType, Servable, TensorSpec
from airflow_triton.server import ServerAddress, TritonClient
from airflow_triton.spec import Expectations, spec_from_mapping
from airflow_triton.validation import Bench, CheckResult, Dataset, Part, Seen, checks_of, prepare
from airflow_triton.validation.checks import frames
from airflow_triton.validation.checks.entries import not_null
from airflow_triton.validation.checks.expectations import ExpectationsCheck
from airflow_triton.validation.checks.gx import hold, judged
from airflow_triton.validation.data.parts import write_part

NAN = float("nan")
BETWEEN, NOT_NULL, IN_SET = "expect_column_values_to_be_between", "expect_column_values_to_not_be_null", "expect_column_values_to_be_in_set"
Entry = dict[str, Any]
Write = Callable[..., Path]
Make = Callable[..., dict[str, Any]]


def expect(kind: str, severity: str = "critical", **kwargs: Any) -> Entry:
    """One expectation as a suite has it."""
    return {"type": kind, "kwargs": kwargs, "severity": severity}


SCORE = expect(BETWEEN, column="score", min_value=0, max_value=1)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a suite with these expectations."""

    def make(*entries: Any, name: str = "suite.yaml", **keys: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump({"expectations": list(entries), **keys}))
        return path

    return make


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A server that nobody asks."""
    with TritonClient(ServerAddress.parse("grpc://triton-a:8001")) as client:
        yield Bench(client, ("m", 1), {}, 1)


def check_of(suite: Path, keep: Path | None = None) -> ExpectationsCheck:
    return ExpectationsCheck(Expectations(suite=str(suite)), keep)


def held(
    suite: Path,
    bench: Bench,
    answers: Mapping[str, Any],
    *,
    inputs: Mapping[str, Any] | None = None,
    labels: Any = None,
    table: Mapping[str, Any] | None = None,
) -> list[CheckResult]:
    """What the check says of one part with these answers."""
    check = check_of(suite)
    outputs = {name: np.asarray(array) for name, array in answers.items()}
    rows = max(len(array) for array in outputs.values())
    given = {name: np.asarray(array) for name, array in (inputs or {"x": np.zeros(rows)}).items()}
    part = Part(
        0,
        given,
        labels=None if labels is None else np.asarray(labels),
        table={name: np.asarray(array) for name, array in (table or {}).items()},
    )
    check.see(Seen(part, outputs))
    return list(check.results(bench))


def one(*args: Any, **keys: Any) -> CheckResult:
    """The only result."""
    (result,) = held(*args, **keys)
    assert result.name == "expectations"
    return result


def servable(outputs: Mapping[str, tuple[DataType, tuple[int, ...]]], inputs: tuple[int, ...] = (-1, 2)) -> Servable:
    return Servable(
        backend="onnxruntime",
        default_model_filename="model.onnx",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=inputs),),
        outputs=tuple(TensorSpec(name=name, datatype=datatype, shape=shape) for name, (datatype, shape) in outputs.items()),
        batching=True,
        flavor="onnx",
        converter="as-is",
    )


def dataset(folder: Path, part: Part) -> Dataset:
    folder.mkdir(exist_ok=True)
    return Dataset("rows.csv", part.rows, (write_part(folder, 0, part),), labelled=part.labels is not None)


COMPARISON = {"type": "comparison", "column": {"name": "score"}, "operator": ">", "parameter": 5}
"""A row condition as GX writes it since 1.9."""


# --- a suite is whole, or refused before anything


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            expect("expect_column_values_to_be_betwen", column="score", min_value=0),
            r"no type .*_betwen' \(did you mean expect_column_values_to_be_between\?\)",
        ),
        (expect("Expect"), "Great Expectations has no type 'Expect'"),
        ({"kwargs": {}}, "Great Expectations has no type None"),
        (expect(BETWEEN, column="score", min_value=0, maximum=1), "`maximum`: extra fields not permitted; it takes column, "),
        (expect(BETWEEN, min_value=0), "`column`: field required"),
        (expect(BETWEEN, column="score"), "min_value and max_value cannot both be None"),
        (expect("expect_table_row_count_to_be_between"), "neither `min_value` nor `max_value` is given, which checks nothing"),
        (expect(BETWEEN, column="score", min_value=0, mostly=0.0), "`mostly: 0` allows every value, which checks nothing"),
        (expect(IN_SET, column="label", value_set=None), "`value_set`: none is not an allowed value"),
        (expect(BETWEEN, "warn", column="score", min_value=0), "got the severity 'warn'; valid: critical, warning, info"),
        ({"type": BETWEEN, "kwargs": ["score"]}, "`kwargs` must be a mapping"),
        ({"type": BETWEEN, "args": {}}, "unknown key `args`; valid: type, kwargs, "),
        ({"expectation_type": BETWEEN, "kwargs": {}}, "`expectation_type` is the word of GX before 1.0: write `type`"),
        (expect(BETWEEN, column="score", min_value={"$PARAMETER": "low"}), "no value for the parameter low: give it in `suite_parameters`"),
        ("a text", "it must be a mapping with `type` and `kwargs`"),
    ],
)
def test_what_great_expectations_would_drop_is_refused(write: Write, entry: Any, told: str) -> None:
    """One error names the file, the expectation with its line, and what is valid; GX itself would log it, or raise what nobody reads."""
    suite = write(SCORE, entry)

    with pytest.raises(ValidationDataError, match=told) as refused:
        check_of(suite)

    assert str(refused.value).startswith(f"{suite} is no suite that can be used (`validate.expectations`): expectation 2 (line ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("expectations: []", "an empty suite checks nothing"),
        ("name: iris", "an empty suite checks nothing"),
        ("expectations: {a: 1}", "must be a list with at least one"),
        ("- a", "is no suite: it must be a mapping"),
        ("", "is no suite: it must be a mapping"),
        ("expectations: [", "not valid YAML"),
        ("expectations: []\nexpectations: []", "duplicate key; it is first on line 1"),
        ("expectations: []\nexpectation_suite_name: a", "`expectation_suite_name` is the word of GX before 1.0: write `name`"),
        ("expectations: []\nother: a", "unknown key `other`; valid: name, expectations, suite_parameters, meta, notes, id"),
        ("expectations: !!python/object:os.system {}", "the YAML tag"),
        (None, "no such file"),
    ],
    ids=["empty", "none", "no list", "a list", "nothing", "broken", "twice", "old", "unknown key", "object", "missing"],
)
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, content: str | None, told: str) -> None:
    """Missing, broken or empty: the file is named, and nothing of it is used."""
    suite = tmp_path / "suite.yaml"
    if content is not None:
        suite.write_text(content)

    with pytest.raises(ValidationDataError, match=told) as refused:
        check_of(suite)

    assert str(suite) in str(refused.value)


def test_a_suite_is_yaml_or_json_and_may_have_parameters(write: Write, bench: Bench) -> None:
    """Parameters of the suite are filled in; the number `1e-1` of YAML is one."""
    entry = expect(BETWEEN, column="score", min_value={"$PARAMETER": "low"})
    for suite in (write(entry, suite_parameters={"low": 0.1}), write(name="s.json")):
        if suite.suffix == ".json":
            suite.write_text(json.dumps({"name": "s", "expectations": [entry], "suite_parameters": {"low": 0.1}}))

        assert one(suite, bench, {"score": [0.1, 0.2]}).passed
        assert "1 of 2 values are not so, such as 0.05" in one(suite, bench, {"score": [0.05, 0.2]}).summary


def test_the_suite_of_the_guide_is_one(tmp_path: Path) -> None:
    """What a reader copies works."""
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "expectations.md").read_text()
    (suite,) = re.findall(r"```yaml\n(# gate\.yaml\n.*?)```", guide, re.DOTALL)
    (tmp_path / "gate.yaml").write_text(suite)

    check = check_of(tmp_path / "gate.yaml")

    assert (check.suite.name, [each.critical for each in check.suite.expectations]) == ("iris gate", [True, True, True, False])


@pytest.mark.parametrize("suite", ["suite.txt", "s3://bucket/suite.yaml"])
def test_the_spec_takes_a_file_on_disk(suite: str, tmp_path: Path) -> None:
    """Anything else is refused with the spec; a relative path lies beside it."""
    with pytest.raises(SpecError, match=r"validate\.expectations\.suite: got .*a suite is a \.yaml or \.json file on disk"):
        spec_from_mapping({"name": "m", "model": "models:/m/1", "validate": {"expectations": suite}})


# --- the data fit, before anything is staged


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (expect(BETWEEN, column="scor", min_value=0), r"\['scor'\], which are not there; .*'score'.*\(did you mean score\?\)"),
        (expect("expect_column_pair_values_to_be_equal", column_A="score", column_B="b"), r"names the columns \['b'\]"),
        (expect("expect_compound_columns_to_be_unique", column_list=["score", "c"]), r"names the columns \['c'\]"),
        (expect("expect_table_columns_to_match_set", column_set=["score", "d"]), r"names the columns \['d'\]"),
        (expect(BETWEEN, column="image", min_value=0), r"names the columns \['image'\]"),
        (expect("expect_column_mean_to_be_between", column="text", min_value=0), r"cannot be held against rows\.csv.*mean.*could not run"),
        (
            expect("expect_column_values_to_match_regex", column="text", regex="["),
            "could not run: Invalid regular expression|could not run: unterminated",
        ),
        (expect("expect_column_values_to_match_like_pattern", column="text", like_pattern="a%"), "could not run: No provider found"),
        (expect("unexpected_rows_expectation", unexpected_rows_query="select * from {batch}"), "could not run: No provider found"),
        (expect("expect_table_row_count_to_equal_other_table", other_table_name="t"), "could not run"),
        (expect(BETWEEN, column="score", min_value=0, row_condition="nothing > 5", condition_parser="pandas"), "could not run: .*nothing"),
        (
            expect(BETWEEN, column="score", min_value=0, row_condition=COMPARISON | {"column": {"name": "nothing"}}),
            "could not run: .*nothing",
        ),
    ],
)
def test_an_expectation_that_cannot_run_on_these_columns_is_refused(write: Write, tmp_path: Path, entry: Entry, told: str) -> None:
    """A column that is not there, text for numbers, a pattern that is none, what only a database can: refused with the data."""
    model = servable({"score": ("FP32", (-1,)), "text": ("BYTES", (-1, 1)), "image": ("FP32", (-1, 2, 2))})

    with pytest.raises(ValidationDataError, match=told):
        check_of(write(SCORE, entry)).fit(dataset(tmp_path / "parts", Part(0, {"x": np.zeros((3, 2), np.float32)})), model)


def test_every_column_can_be_named(write: Write, tmp_path: Path) -> None:
    """Inputs, labels and outputs; an output whose name is taken is `predicted_...`, and one whose width varies has what is named."""
    part = Part(0, {"x": np.zeros((3, 2), np.float32)}, labels=np.array([0, 1, 1]))
    table = Part(0, part.inputs, table={"age": np.array([1, 2, 3]), "city": np.array(["a", "b", "c"], dtype=object)})
    model = servable({"label": ("INT64", (-1,)), "p": ("FP32", (-1, 3)), "one": ("FP32", (-1, 1)), "open": ("FP32", (-1, -1))})
    arrays = [expect("expect_column_to_exist", column=name) for name in ("x_0", "x_1", "label", "predicted_label", "p_2", "one", "open_4")]
    columns = [expect("expect_column_to_exist", column=name) for name in ("age", "city", "label", "p_0")]

    check_of(write(*arrays)).fit(dataset(tmp_path / "arrays", part), model)
    check_of(write(*columns)).fit(dataset(tmp_path / "table", table), model)
    with pytest.raises(
        ValidationDataError, match=r"\['x_0'\].*there are \['age', 'city'\] from rows\.csv and the outputs \['label', 'p_0'"
    ):
        check_of(write(arrays[0])).fit(dataset(tmp_path / "table", table), model)


def test_no_rows_are_refused_and_never_pass(write: Write, tmp_path: Path, bench: Bench) -> None:
    """GX passes an empty frame; here there is none."""
    check = check_of(write(SCORE))

    with pytest.raises(ValidationDataError, match=r"rows\.csv has no rows"):
        check.fit(dataset(tmp_path / "parts", Part(0, {"x": np.zeros((0, 2), np.float32)})), servable({"score": ("FP32", (-1,))}))
    (result,) = check.results(bench)
    assert (result.passed, result.summary) == (False, "expectations: no row was seen")
    assert not one(write(SCORE), bench, {"score": np.zeros(0)}).passed


# --- what GX passes over is no pass


def test_a_suite_that_holds_passes(write: Write, bench: Bench) -> None:
    """All hold: the figures and the limits say so, and the table lists every one."""
    result = one(write(SCORE, expect(IN_SET, column="label", value_set=["a", "b"])), bench, {"score": [0.5, 1.0], "label": [b"a", "b"]})

    assert result.passed, result.summary
    assert result.summary == "expectations: 2 of 2 hold on 2 rows"
    assert result.figures == {"evaluated": 2, "successful": 2, "unexpected_percent": 0, "rows": 2}
    assert result.limits == {"successful": 2}
    (table,) = result.plots
    assert {row[0] for row in table.rows} == {BETWEEN, IN_SET}
    assert CheckResult.model_validate_json(result.model_dump_json()) == result


def test_an_expectation_that_does_not_hold_rejects_and_says_what_was_found(write: Write, bench: Bench) -> None:
    """Expectation, column, how many values, and some of them; the others are still in the table."""
    result = one(
        write(SCORE, expect("expect_column_mean_to_be_between", column="score", max_value=0.1)), bench, {"score": [0.5, 1.5, 0.5, 0.5]}
    )

    assert not result.passed
    assert (
        "expect_column_values_to_be_between(score, min_value=0.0, max_value=1.0): 1 of 4 values are not so, such as 1.5" in result.summary
    )
    assert "expect_column_mean_to_be_between(score, max_value=0.1): found 0.75" in result.summary
    assert result.figures["unexpected_percent"] == 25
    assert [row[-1] for row in result.plots[0].rows] == ["no", "no"]


ALLOWED = expect(NOT_NULL, column="score", mostly=0.5)
PART_MISSING = [0.5, NAN, 0.5, 0.5]


@pytest.mark.parametrize(
    ("entries", "scores", "told"),
    [
        ([SCORE], PART_MISSING, r"the column 'score' has no value \(NaN, None\) in 1 of 4 rows, which no expectation allows"),
        ([SCORE], [NAN] * 4, "in 4 of 4 rows"),
        ([expect(BETWEEN, column="score", min_value=0, mostly=0.5)], PART_MISSING, "in 1 of 4 rows"),
        ([expect("expect_column_mean_to_be_between", column="score", min_value=0)], PART_MISSING, "in 1 of 4 rows"),
        ([expect("expect_table_row_count_to_be_between", min_value=1)], PART_MISSING, "the column 'score' has no value"),
        ([SCORE, expect(NOT_NULL, column="other", mostly=0.5)], PART_MISSING, "the column 'score' has no value"),
        ([SCORE, ALLOWED], [0.5, NAN, NAN, NAN], "not_be_null"),
        (
            [SCORE, expect(NOT_NULL, column="score", row_condition=COMPARISON | {"column": {"name": "other"}, "parameter": 0}, mostly=0.1)],
            PART_MISSING,
            r"the column 'score' has no value",
        ),
        ([SCORE, expect(NOT_NULL, "warning", column="score", mostly=0.9)], [NAN] * 4, "looked at no value"),
        (
            [
                expect("expect_column_sum_to_be_between", column="score", min_value=0),
                expect("expect_column_proportion_of_non_null_values_to_be_between", column="score", min_value=0),
            ],
            [NAN] * 4,
            r"the column 'score' has no value \(NaN, None\) in any row",
        ),
        ([expect(BETWEEN, column="other", max_value=2, row_condition=COMPARISON)], [0.5] * 4, "found 0"),
        (
            [
                expect(
                    "expect_column_distinct_values_to_be_in_set",
                    column="other",
                    value_set=[1],
                    row_condition="score > 5",
                    condition_parser="pandas",
                )
            ],
            [0.5] * 4,
            "found 0",
        ),
        (
            [expect(BETWEEN, column="other", max_value=2, row_condition="nothing > 5", condition_parser="pandas")],
            [0.5] * 4,
            "could not run",
        ),
        ([expect("expect_column_mean_to_be_between", column="words", min_value=0)], [0.5] * 4, "could not run"),
        ([expect(BETWEEN, column="score", max_value=1)], [0.5, float("inf"), 0.5, 0.5], "such as inf"),
    ],
)
def test_nothing_that_great_expectations_passes_over_is_a_pass(
    write: Write, bench: Bench, entries: list[Entry], scores: list[float], told: str
) -> None:
    """NaN, nothing but NaN, a condition that selects nothing, an expectation that raised: rejected, and the summary says why."""
    results = held(write(*entries), bench, {"score": scores, "other": np.ones(4), "words": np.array(["a"] * 4, dtype=object)})

    assert results[0].name == "expectations"
    assert not results[0].passed
    assert re.search(told, results[0].summary)


def test_missing_values_that_the_suite_allows_pass(write: Write, bench: Bench) -> None:
    """`not_be_null` with `mostly` on that column says how many; so does a share of values that are there."""
    assert one(write(SCORE, ALLOWED), bench, {"score": PART_MISSING}).passed
    share = expect("expect_column_proportion_of_non_null_values_to_be_between", column="score", min_value=0.5)
    assert one(write(SCORE, share), bench, {"score": PART_MISSING}).passed
    assert one(write(expect("expect_column_values_to_be_null", column="score")), bench, {"score": [NAN, NAN]}).passed


def test_missing_inputs_count_where_they_are_looked_at(write: Write, bench: Bench) -> None:
    """An input that no expectation names may have gaps; one that is named may not; text may be missing as well."""
    inputs = {"age": [1.0, NAN], "city": np.array(["a", None], dtype=object)}
    table = {name: np.asarray(array) for name, array in inputs.items()}

    assert one(write(SCORE), bench, {"score": [0.1, 0.2]}, table=table).passed
    for column, entry in (("age", expect(BETWEEN, column="age", max_value=9)), ("city", expect(IN_SET, column="city", value_set=["a"]))):
        assert (
            f"the column {column!r} has no value (NaN, None) in 1 of 2 rows"
            in one(write(SCORE, entry), bench, {"score": [0.1, 0.2]}, table=table).summary
        )


def test_texts_are_texts_however_they_came(write: Write, bench: Bench) -> None:
    """Bytes and texts are equal; a byte that is no UTF-8 is shown as an escape, in the report and in the Data Docs; FP16 is a number."""
    suite = write(
        expect(IN_SET, column="city", value_set=["é", "b"]), expect("expect_column_sum_to_be_between", column="half", max_value=1e6)
    )
    half = np.full(2, 60_000, dtype=np.float16)

    for cities in (np.array(["é".encode(), "b"], dtype=object), np.array(["é", "b"]), np.array([["é"], ["b"]], dtype=object)):
        assert one(suite, bench, {"city": cities, "half": half}).passed
    result = one(suite, bench, {"city": np.array([b"\xff", "b"], dtype=object), "half": half})
    assert "1 of 2 values are not so, such as \\xff" in result.summary
    assert CheckResult.model_validate_json(result.model_dump_json()) == result
    assert (
        "in 1 of 2 rows"
        in one(write(expect(IN_SET, column="label", value_set=["a"])), bench, {"y": [1.0, 2.0]}, labels=np.array(["a", None])).summary
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_number_is_what_is_written(write: Write, bench: Bench, dtype: Any) -> None:
    """FP32's 0.1 is a little above 0.1, and GX would say so; what is next to it is still told apart."""
    suite = write(expect(BETWEEN, column="score", max_value=0.1), expect(IN_SET, column="score", value_set=[0.1]))
    score = np.full(2, 0.1, dtype=dtype)

    assert one(suite, bench, {"score": score}).passed
    assert not one(suite, bench, {"score": np.nextafter(score, dtype(1))}).passed


def test_a_result_that_gx_cannot_write_is_no_matter(write: Write, bench: Bench, tmp_path: Path) -> None:
    """Its quantiles come with numpy's booleans, which its own store does not take."""
    quantiles = {"quantiles": [0.5], "value_ranges": [[0, 1]]}
    check = check_of(
        write(expect("expect_column_quantile_values_to_be_between", column="score", quantile_ranges=quantiles)), tmp_path / "kept"
    )
    check.see(Seen(Part(0, {"x": np.zeros(3)}), {"score": np.array([0.25, 0.5, 0.5])}))

    (result,) = check.results(bench)

    assert (result.passed, result.summary) == (True, "expectations: 1 of 1 hold on 3 rows")


def test_how_much_gx_tells_is_not_the_suites_choice(write: Write, bench: Bench) -> None:
    """With `BOOLEAN_ONLY` nobody could see that an expectation looked at nothing."""
    quiet = expect(BETWEEN, column="score", max_value=1, result_format="BOOLEAN_ONLY")

    results = held(write(quiet, expect(NOT_NULL, "warning", column="score", mostly=0.9)), bench, {"score": [NAN, NAN]})

    assert "looked at no value" in results[0].summary


def test_gaps_in_a_file_are_gaps(write: Write, bench: Bench, tmp_path: Path) -> None:
    """An empty cell is missing, whether its column holds texts or numbers; the columns are the file's own."""
    (tmp_path / "rows.csv").write_text("x,city,age,label\n1,a,7,1\n2,,,0\n")
    rows = prepare(
        tmp_path / "rows.csv", servable({"y": ("FP32", (-1,))}, (-1,)), tmp_path / "parts", origin="rows.csv", columns=["x", "city", "age"]
    )

    for column, entry in (("city", expect(IN_SET, column="city", value_set=["a"])), ("age", expect(BETWEEN, column="age", max_value=9))):
        check = check_of(write(entry))
        check.fit(rows, servable({"y": ("FP32", (-1,))}, (-1,)))
        for part in rows.parts():
            check.see(Seen(part, {"y": np.ones(part.rows, np.float32)}))
        assert f"the column {column!r} has no value (NaN, None) in 1 of 2 rows" in check.results(bench)[0].summary


@pytest.mark.parametrize("severity", ["warning", "info"])
def test_a_warning_warns_without_rejecting(write: Write, bench: Bench, severity: str) -> None:
    """GX's own `success` is false then; here it is a result of its own that does not reject."""
    gate, warning = held(write(SCORE, expect(BETWEEN, severity, column="score", max_value=0.5)), bench, {"score": [0.4, 0.9]})

    assert (gate.name, gate.passed, gate.severity) == ("expectations", True, "critical")
    assert (warning.name, warning.passed, warning.severity, warning.rejects) == ("expectations (warning)", False, "warning", False)
    assert "1 of 2 values are not so, such as 0.9" in warning.summary
    assert gate.figures["evaluated"] == warning.figures["evaluated"] == 1


def test_a_suite_of_warnings_alone_is_no_gate(write: Write, bench: Bench) -> None:
    """It gives no result that could let a candidate pass; but an output that is not there still rejects."""
    suite = write(expect(BETWEEN, "warning", column="score", max_value=0.5))

    assert [result.severity for result in held(suite, bench, {"score": [0.4, 0.9]})] == ["warning"]
    gate, warning = held(suite, bench, {"score": [0.4, NAN]})
    assert (gate.severity, gate.passed, warning.passed) == ("critical", False, True)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"success": None, "result": {}},
        {"success": "true", "result": {}},
        {"success": True, "result": {"element_count": 0}},
        {"success": True, "result": {"element_count": 3, "missing_count": 3}},
        {"success": True, "result": {}, "exception_info": {"raised_exception": True, "exception_message": "a"}},
        {"success": True, "result": {}, "exception_info": {"metric": {"raised_exception": True, "exception_message": None}}},
    ],
)
def test_an_unclear_result_is_no_pass(result: dict[str, Any]) -> None:
    """Only a success that looked at something, and raised nothing, is one."""
    assert judged(result).problem


def test_fewer_results_than_expectations_are_an_error() -> None:
    """Whatever GX drops: a suite of which something is left out is not held."""
    dropped = replace(not_null("score"), config={"type": "expect_nothing", "kwargs": {}})

    with pytest.raises(RuntimeError, match="gave 1 results for 2 expectations"):
        hold(pd.DataFrame({"score": [1.0]}), "suite", [not_null("score"), dropped])


def test_an_answer_of_another_shape_does_not_pass(write: Write, bench: Bench) -> None:
    """A column that is named and did not come: the check could not look at it."""
    result = one(write(expect(BETWEEN, column="p_2", min_value=0)), bench, {"p": np.zeros((3, 2))})

    assert not result.passed
    assert "could not run" in result.summary or "did not come" in result.summary


def test_of_many_rows_a_sample_is_kept_and_missing_values_are_counted_in_all(
    write: Write, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most so many rows are held in memory, the same at every run, and the result says so."""
    monkeypatch.setattr(frames, "MOST_ROWS", 1_000)
    monkeypatch.setattr("airflow_triton.validation.checks.expectations.MOST_ROWS", 1_000)
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = [Part(start, {"x": np.zeros((2_000, 2), np.float32)}) for start in range(0, 6_000, 2_000)]
    rows = Dataset("rows.npz", 6_000, tuple(write_part(folder, number, part) for number, part in enumerate(parts)))
    scores = np.linspace(0, 1, 6_000, dtype=np.float32)

    def found(scores: np.ndarray) -> CheckResult:
        check = check_of(write(expect("expect_column_mean_to_be_between", column="score", min_value=0.45, max_value=0.55)))
        check.fit(rows, servable({"score": ("FP32", (-1,))}))
        for part in parts:
            check.see(Seen(part, {"score": scores[part.start : part.start + 2_000]}))
        return check.results(bench)[0]

    first = found(scores)
    assert first.passed
    assert first.summary == "expectations: 1 of 1 hold on 1000 rows, drawn at random from 6000"
    assert found(scores) == first
    scores[4_321] = NAN
    assert "in 1 of 6000 rows" in found(scores).summary


# --- Data Docs


def test_data_docs_are_kept_for_every_server(write: Write, bench: Bench, tmp_path: Path) -> None:
    """One site: an index with a page for each server, and GX's own results beside it."""
    keep = tmp_path / "kept"
    with TritonClient(ServerAddress.parse("http://triton-b:8000")) as client:
        for server in (bench, Bench(client, ("m", 1), {}, 1)):
            check = check_of(write(SCORE, name="iris gate.yaml"), keep)
            check.see(Seen(Part(0, {"x": np.zeros(2)}), {"score": np.array([0.25, 1.75])}))
            (result,) = check.results(server)
            assert "Data Docs" not in result.summary

    pages = {page.relative_to(keep / "data_docs").parts[:3] for page in (keep / "data_docs").rglob("*.html")}
    assert pages >= {("index.html",), ("validations", "iris_gate", "triton-a_8001"), ("validations", "iris_gate", "triton-b_8000")}
    index = (keep / "data_docs" / "index.html").read_text()
    links = re.findall(r'<li><a href="(validations/iris_gate/triton-(?:a_8001|b_8000)/[^"]+)">', index)
    assert [(keep / "data_docs" / link).is_file() for link in links] == [True, True]
    page = next((keep / "data_docs" / "validations" / "iris_gate" / "triton-b_8000").rglob("*.html")).read_text()
    assert "1.75" in page
    raw = [json.loads(file.read_text()) for file in (keep / "great_expectations").rglob("*.json")]
    assert [result["success"] for result in raw] == [False, False]
    assert sum(file.stat().st_size for file in keep.rglob("*") if file.is_file()) < 2_000_000


def test_data_docs_fail_where_the_check_does(write: Write, bench: Bench, tmp_path: Path) -> None:
    """What is missing is nothing to GX; its pages say it all the same."""
    check = check_of(write(SCORE), tmp_path)
    check.see(Seen(Part(0, {"x": np.zeros(2)}), {"score": np.array([0.25, NAN])}))

    (result,) = check.results(bench)

    assert (result.passed, result.figures["evaluated"]) == (False, 1)
    (raw,) = [json.loads(file.read_text()) for file in (tmp_path / "great_expectations").rglob("*.json")]
    assert {each["expectation_config"]["type"]: each["success"] for each in raw["results"]} == {BETWEEN: True, NOT_NULL: False}
    page = next((tmp_path / "data_docs" / "validations").rglob("*.html")).read_text()
    assert "values must never be null" in page


def test_data_docs_that_cannot_be_written_do_not_decide(write: Write, bench: Bench, tmp_path: Path) -> None:
    """The verdict stands, and says what is missing."""
    keep = tmp_path / "kept"
    keep.mkdir()
    (keep / "data_docs").write_text("a file where the folder should be")
    check = check_of(write(SCORE), keep)
    check.see(Seen(Part(0, {"x": np.zeros(1)}), {"score": np.array([0.25])}))

    (result,) = check.results(bench)

    assert result.passed
    assert "Data Docs could not be written: " in result.summary


# --- a team's own project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Great Expectations project with the suite `team`."""
    import great_expectations as gx
    from great_expectations.core.expectation_suite import ExpectationSuite

    folder = tmp_path_factory.mktemp("project")
    context = gx.get_context(mode="file", project_root_dir=folder)
    context.suites.add(ExpectationSuite(name="team", expectations=[SCORE]))
    context.suites.add(ExpectationSuite(name="empty"))
    return folder


def _snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize("below", ["", "gx"])
def test_a_suite_of_a_teams_own_project_is_read_without_a_trace(project: Path, bench: Bench, below: str) -> None:
    """By the project's folder or GX's own in it; not a byte, name or time in it changes."""
    before = _snapshot(project)
    check = ExpectationsCheck(Expectations(context=str(project / below), suite="team"))
    check.see(Seen(Part(0, {"x": np.zeros(2)}), {"score": np.array([0.25, 1.75])}))

    (result,) = check.results(bench)

    assert "1 of 2 values are not so, such as 1.75" in result.summary
    assert _snapshot(project) == before


def test_a_project_or_suite_that_is_not_there_is_refused_without_a_trace(project: Path, tmp_path: Path) -> None:
    """The error lists the suites there are; GX would make a project of an empty folder."""
    before = _snapshot(project)
    with pytest.raises(ValidationDataError, match=r"has no suite 'tem' .*; it has: empty, team"):
        ExpectationsCheck(Expectations(context=str(project), suite="tem"))
    with pytest.raises(ValidationDataError, match=r"the suite 'empty' of .*an empty suite checks nothing"):
        ExpectationsCheck(Expectations(context=str(project), suite="empty"))
    with pytest.raises(ValidationDataError, match=r"there is no Great Expectations project: looked for great_expectations\.yml in"):
        ExpectationsCheck(Expectations(context=str(tmp_path), suite="team"))
    assert _snapshot(project) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.write_text("a: ["), "great_expectations.yml cannot be read"),
        (lambda file: file.write_text("a: 1"), "names no store of suites"),
        (
            lambda file: file.write_text(file.read_text().replace("expectations/", "elsewhere/")),
            "the folder of its suites, .*elsewhere, is not there",
        ),
        (lambda file: (file.parent / "expectations" / "team.json").write_text("{"), "the suite 'team' cannot be read"),
    ],
)
def test_a_broken_project_is_refused(tmp_path: Path, change: Callable[[Path], Any], told: str) -> None:
    """One error that names the project."""
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations" / "team.json").write_text(json.dumps({"name": "team", "expectations": [SCORE]}))
    stores = {
        "suites": {
            "class_name": "ExpectationsStore",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": "expectations/"},
        }
    }
    file = tmp_path / "great_expectations.yml"
    file.write_text(yaml.safe_dump({"config_version": 4, "stores": stores, "expectations_store_name": "suites"}))
    rules = Expectations(context=str(tmp_path), suite="team")
    before = _snapshot(tmp_path)
    ExpectationsCheck(rules)
    assert _snapshot(tmp_path) == before
    change(file)

    with pytest.raises(ValidationDataError, match=told) as refused:
        ExpectationsCheck(rules)

    assert str(tmp_path) in str(refused.value)


# --- on the way of a candidate


@pytest.fixture
def client(triton: LocalTriton) -> Iterator[TritonClient]:
    """A client of the server."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:
        yield client


def test_a_suite_that_holds_promotes(mapping: Make, write: Write) -> None:
    """Inputs by their columns, the labels, and the outputs: held against what the server answered."""
    suite = write(
        expect(BETWEEN, column="x0", min_value=-3, max_value=5),
        expect(IN_SET, column="label", value_set=[0, 1, 2]),
        expect("expect_column_pair_values_to_be_equal", column_A="label", column_B="predicted_label", mostly=0.9),
        expect(BETWEEN, column="probabilities_2", min_value=0, max_value=1),
        expect(BETWEEN, "warning", column="probabilities_0", max_value=0.5),
    )

    outcome = run(_expecting(mapping, suite, 1))

    assert (outcome.action, outcome.version) == ("promoted", 1)
    checks = {check.name: check for check in outcome.report.checks}
    assert checks["expectations"].summary == "expectations: 4 of 4 hold on 90 rows"
    assert not checks["expectations (warning)"].passed
    assert outcome.report.warnings


def test_a_suite_that_does_not_hold_rejects_and_leaves_nothing(
    mapping: Make, write: Write, repository: Repository, client: TritonClient
) -> None:
    """What served before serves, and the candidate is gone from disk and server."""
    suite = write(expect("expect_column_pair_values_to_be_equal", column_A="label", column_B="predicted_label", mostly=0.9))
    run(_expecting(mapping, suite, 1))
    before = everything_in(repository, MODELS, content=True)

    with pytest.raises(
        RejectedError, match=r"expect_column_pair_values_to_be_equal\(label, predicted_label, mostly=0\.9\): \d+ of 90 values"
    ):
        run(_expecting(mapping, suite, 2))

    assert seen(client) == {"blobs": (1,)}
    assert everything_in(repository, MODELS, content=True) == before
    assert everything_in(repository, WORK) == set()
    assert Registry(mapping()["tracking_uri"]).tags("blobs", 2)["triton.blobs.verdict"] == "rejected"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (expect("expect_nothing", column="x0"), "no type 'expect_nothing'"),
        (expect(BETWEEN, column="x9", min_value=0), r"names the columns \['x9'\].*'predicted_label'"),
    ],
    ids=["unknown type", "unknown column"],
)
def test_a_suite_that_cannot_check_is_refused_before_anything_is_staged(
    mapping: Make, write: Write, client: TritonClient, entry: Entry, told: str
) -> None:
    """The server and the repository saw nothing of it."""
    with pytest.raises(ValidationDataError, match=told):
        run(_expecting(mapping, write(entry), 1))

    assert seen(client) == {}
    assert open_repository(mapping()["repository"]).folders(MODELS) == []


def _expecting(mapping: Make, suite: Path, version: int) -> dict[str, Any]:
    made: dict[str, Any] = mapping(version)
    made["validate"] = {"data": made["validate"]["data"], "expectations": str(suite)}
    return made


# --- cost and noise


def test_great_expectations_is_imported_where_a_suite_is_declared_and_says_nothing(write: Write) -> None:
    """It takes seconds: without a suite it stays out; with one it writes no line, and makes no folder in the home of the user."""
    code = f"""
import sys
from airflow_triton.spec import spec_from_mapping
from airflow_triton.validation import checks_of
without = spec_from_mapping({{"name": "m", "model": "models:/m/1"}}).validation
checks_of(without)
assert "great_expectations" not in sys.modules
with_one = spec_from_mapping({{"name": "m", "model": "models:/m/1", "validate": {{"expectations": {str(write(SCORE))!r}}}}}).validation
assert [check.name for check in checks_of(with_one)] == ["parity", "expectations"]
assert "great_expectations" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_validation_is_quiet(write: Write, bench: Bench, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """No progress bar, no traceback in the log, also where an expectation cannot run."""
    with caplog.at_level(logging.INFO):
        held(write(SCORE, expect("expect_column_mean_to_be_between", column="words", min_value=0)), bench, {"score": [0.5], "words": ["a"]})

    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("great_expectations")] == []


def test_the_check_is_one_of_the_declared_ones(write: Write, tmp_path: Path) -> None:
    """With the column of the labels that the spec names, and the folder that is kept."""
    rules = spec_from_mapping(
        {"name": "m", "model": "models:/m/1", "validate": {"data": "/rows.csv", "label": "wanted", "expectations": str(write(SCORE))}}
    ).validation

    check = checks_of(rules, tmp_path)[-1]

    assert isinstance(check, ExpectationsCheck)
    assert (check._label, check._keep) == ("wanted", tmp_path)
