"""The rows that a candidate is asked: every kind of file and place, read in parts, drawn repeatably, and held against the model first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from airflow_triton.errors import ValidationDataError
from airflow_triton.servable import Servable, TensorSpec
from airflow_triton.validation.data import PART_ROWS, Dataset, Part, prepare
from airflow_triton.validation.data.rows import drawn

NAN = float("nan")


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


def read(path: Path, servable: Servable, **options: Any) -> Dataset:
    """The dataset of a file, its parts beside the file."""
    return prepare(path, servable, path.parent / "parts", origin=str(path), **options)


def whole(path: Path, servable: Servable, **options: Any) -> Part:
    """The one part of a file that has no more rows than that."""
    (part,) = read(path, servable, **options).parts()
    return part


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
        dataset = read(path, MATRIX, columns=["a", "b"])
        (part,) = dataset.parts()
        np.testing.assert_array_equal(part.inputs["x"], ROWS)
        assert part.inputs["x"].dtype == np.float32
        assert part.labels is not None
        assert part.labels.tolist() == [0, 1, 0]
        assert {name: values.tolist() for name, values in part.table.items()} == {"b": [2, 4, 6], "a": [1.5, 3, 5]}
        assert (dataset.origin, dataset.rows, dataset.labelled, dataset.recorded) == (str(path), 3, True, False)
        assert dataset.columns == ("b", "a")
    np.testing.assert_array_equal(whole(path, MATRIX).inputs["x"], ROWS[:, ::-1])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_a_table_becomes_one_array_for_each_input(tmp_path: Path, suffix: str) -> None:
    """Columns named as the inputs, with their types; another label column, and none at all."""
    table = pd.DataFrame({"name": ["a", "é"], "age": [7, 2**53 + 1], "wanted": ["yes", "no"]})
    path = _save(tmp_path / f"rows{suffix}", table)

    part = whole(path, TWO, label="wanted")
    assert part.inputs["name"].tolist() == [["a"], ["é"]]
    assert part.inputs["age"].tolist() == [[7], [2**53 + 1]]
    assert part.labels is not None
    assert part.labels.tolist() == ["yes", "no"]
    assert whole(_save(path, table.drop(columns="wanted")), TWO).labels is None


def test_json_is_taken_as_it_is_written(tmp_path: Path) -> None:
    """Digits in quotes stay text, and a column named `date` is no date."""
    servable = _servable(("zip", "BYTES", (-1,)), ("date", "INT64", (-1,)), ("created_at", "FP32", (-1,)))
    path = tmp_path / "rows.json"
    path.write_text('[{"zip": "007", "date": 1700000000, "created_at": 1.5, "label": "01"}]')

    part = whole(path, servable)

    assert {name: array.tolist() for name, array in part.inputs.items()} == {"zip": ["007"], "date": [1700000000], "created_at": [1.5]}
    assert part.labels is not None
    assert part.labels.tolist() == ["01"]


def test_an_npz_holds_the_inputs_as_they_are(tmp_path: Path) -> None:
    """One array for each input, with more axes and text; labels by their name."""
    servable = _servable(("image", "FP32", (-1, 2, 2)), ("text", "BYTES", (-1,)))
    images = np.arange(12, dtype=np.float64).reshape(3, 2, 2)
    path = tmp_path / "rows.npz"
    np.savez(path, image=images, text=np.array(["a", "é", ""]), y=np.array([1, 2, 3]))

    part = whole(path, servable, label="y")

    np.testing.assert_array_equal(part.inputs["image"], images)
    assert part.inputs["image"].dtype == np.float32
    assert part.inputs["text"].tolist() == ["a", "é", ""]
    assert part.labels is not None
    assert part.labels.tolist() == [1, 2, 3]


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
            read(path, servable)
        messages.append(str(caught.value))

    assert messages[0] == messages[1]
    assert all(words in messages[0] for words in [str(path), *told]), messages[0]


# --- parts, kinds of columns and missing values

MANY = 2 * PART_ROWS + 100
LONG = np.arange(MANY * 2, dtype=np.float32).reshape(MANY, 2)


def _long(folder: Path, kind: str) -> Path:
    """`LONG` with its row numbers as labels (requests have none), as a file of this kind."""
    path = folder / f"long.{kind}"
    table = pd.DataFrame({"a": LONG[:, 0], "b": LONG[:, 1], "label": range(MANY)})
    if kind == "npz":
        np.savez_compressed(path, x=LONG, label=np.arange(MANY))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(_request(x=LONG[start : start + 1000])) for start in range(0, MANY, 1000)))
    elif kind == "parquet":
        table.to_parquet(path, row_group_size=3000)
    else:
        _save(path, table)
    return path


def _request(**arrays: np.ndarray) -> dict[str, Any]:
    return {"inputs": [_tensor(name, array) for name, array in arrays.items()]}


def _tensor(name: str, array: np.ndarray) -> dict[str, Any]:
    types = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}
    return {"name": name, "shape": list(array.shape), "datatype": types[array.dtype.name], "data": array.ravel().tolist()}


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "npz", "jsonl"])
def test_a_long_file_is_read_in_parts_and_drawn_repeatably(tmp_path: Path, kind: str) -> None:
    """Parts of 8,192 rows in their order, that hold every row once; a sample is the same for the same seed, in order, each row once."""
    path = _long(tmp_path, kind)

    dataset = read(path, MATRIX)
    parts = list(dataset.parts())
    assert [(part.start, part.rows) for part in parts] == [(0, PART_ROWS), (PART_ROWS, PART_ROWS), (2 * PART_ROWS, 100)]
    np.testing.assert_array_equal(np.concatenate([part.inputs["x"] for part in parts]), LONG)
    if kind != "jsonl":
        assert np.concatenate([part.labels for part in parts]).tolist() == list(range(MANY))

    first = whole(path, MATRIX, sample=500, seed=3).inputs["x"]
    np.testing.assert_array_equal(whole(path, MATRIX, sample=500, seed=3).inputs["x"], first)
    assert not np.array_equal(whole(path, MATRIX, sample=500, seed=4).inputs["x"], first)
    numbers = (first[:, 0] / 2).astype(int)
    assert len(numbers) == 500
    assert (np.diff(numbers) > 0).all()
    np.testing.assert_array_equal(numbers, drawn(MANY, 500, 3))
    assert read(path, MATRIX, sample=MANY + 1).rows == MANY


def test_every_row_is_as_likely_to_be_drawn() -> None:
    """Over many seeds each row comes as often as any other, within five standard deviations; in long files from every stretch."""
    counts = np.zeros(100)
    for seed in range(2000):
        counts[drawn(100, 10, seed)] += 1

    assert counts.sum() == 20_000
    assert np.abs(counts - 200).max() < 5 * np.sqrt(2000 * 0.1 * 0.9)
    stretches = np.bincount(drawn(200_000, 5000, 0) // 20_000, minlength=10)
    assert np.abs(stretches - 500).max() < 5 * np.sqrt(5000 * 0.1 * 0.9)


def test_the_kind_of_a_column_is_that_of_the_whole_csv(tmp_path: Path) -> None:
    """What stands thousands of rows later decides: digits stay text where one cell is text, integers are floats where one is."""
    servable = _servable(("word", "BYTES", (-1,)), ("n", "FP64", (-1,)))
    rows = PART_ROWS + 3
    table = pd.DataFrame({"word": ["007"] * rows, "n": ["1"] * rows, "label": ["01"] * rows})
    table.loc[rows - 3 :] = [["NA", "0.5", "a"], ["", "", "NA"], ["é", "-2", "02"]]
    path = tmp_path / "rows.csv"
    table.to_csv(path, index=False)

    first, last = read(path, servable).parts()

    assert (first.inputs["word"][0], first.inputs["n"][0], first.labels[0], first.table["n"].dtype.kind) == ("007", 1.0, "01", "f")
    assert last.inputs["word"].tolist() == ["NA", "", "é"]
    np.testing.assert_array_equal(last.inputs["n"], [0.5, NAN, -2])
    assert last.labels.tolist() == ["a", "NA", "02"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_what_is_missing_stays_missing(tmp_path: Path, suffix: str) -> None:
    """In columns that the signature has and no input takes: NaN among numbers, None among texts, also once they are on disk."""
    servable = _servable(("a", "FP32", (-1,)))
    table = pd.DataFrame({"a": [1.0, 2.0], "city": ["Ulm", None], "age": [7.0, None], "sure": [True, None]})
    path = _save(tmp_path / f"rows{suffix}", table)

    part = whole(path, servable, columns=["a", "city", "age", "sure"])

    assert part.table["city"].tolist() == ["Ulm", None]
    assert np.isnan(part.table["age"]).tolist() == [False, True]
    assert pd.isna(part.table["sure"]).tolist() == [False, True]


def test_a_parquet_file_keeps_what_only_parquet_has(tmp_path: Path) -> None:
    """Cells with several values are rows of an input; times with a zone are UTC, categories texts; an index is no column."""
    servable = _servable(("x", "FP32", (-1, 2)), ("k", "BYTES", (-1,)))
    table = pd.DataFrame(
        {
            "x": [[1.0, 2.0], [3.0, 4.0]],
            "k": pd.Categorical(["a", "b"]),
            "at": pd.to_datetime(["2026-01-01T12:00+02:00", "2026-01-01T13:00+02:00"]),
        },
        index=[7, 9],
    )
    path = _save(tmp_path / "rows.parquet", table)

    part = whole(path, servable, columns=["x", "k", "at"])

    assert part.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert part.inputs["k"].tolist() == ["a", "b"]
    assert set(part.table) == {"k", "at"}
    assert str(part.table["at"][0])[:16] == "2026-01-01T10:00"


def test_mlflows_table_artifact_is_a_table(tmp_path: Path) -> None:
    """The JSON that `mlflow.log_table` writes: names of columns, and rows as lists."""
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"columns": ["name", "age", "label"], "data": [["NA", 7, 1], ["é", 2**53 + 1, 0]]}))

    part = whole(path, TWO)

    assert (part.inputs["name"].tolist(), part.inputs["age"].tolist()) == ([["NA"], ["é"]], [[7], [2**53 + 1]])
    assert part.labels.tolist() == [1, 0]


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_may_have_any_order_and_compression(tmp_path: Path, order: str) -> None:
    """An array in Fortran's order has the same rows; so have those that are compressed."""
    path = tmp_path / "rows.npz"
    np.savez_compressed(path, x=np.asarray(LONG, order=order))

    np.testing.assert_array_equal(np.concatenate([part.inputs["x"] for part in read(path, MATRIX).parts()]), LONG)


# --- recorded answers

SCORED = _servable(("x", "FP32", (-1, 2)), outputs=(("y", "FP32", (-1,)), ("label", "INT64", (-1,))))
WHOLE = _servable(("x", "FP32", (2, 2)), outputs=(("y", "FP32", ()),))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".npz"])
def test_columns_named_as_outputs_are_recorded_answers(tmp_path: Path, suffix: str) -> None:
    """They are no features; one that is called as the labels is the labels, unless no labels are looked for."""
    path = tmp_path / f"rows{suffix}"
    if suffix == ".npz":
        np.savez(path, x=ROWS, y=[1, 2, 3], label=[0, 1, 0])
    else:
        _save(path, pd.DataFrame({"a": ROWS[:, 0], "y": [1, 2, 3], "b": ROWS[:, 1], "label": [0, 1, 0]}))

    part = whole(path, SCORED)
    assert {name: array.tolist() for name, array in part.answers.items()} == {"y": [1, 2, 3]}
    assert part.answers["y"].dtype == np.float32
    assert part.labels.tolist() == [0, 1, 0]
    assert "y" not in part.table
    part = whole(path, SCORED, label=None)
    assert {name: array.tolist() for name, array in part.answers.items()} == {"y": [1, 2, 3], "label": [0, 1, 0]}
    assert part.labels is None
    np.testing.assert_array_equal(part.inputs["x"], ROWS)
    assert read(path, SCORED).recorded


def _recorded(rows: np.ndarray, **answers: np.ndarray) -> dict[str, Any]:
    return {"request": _request(x=rows), "response": {"outputs": [_tensor(name, array) for name, array in answers.items()]}}


def _lines(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def test_recorded_requests_are_joined_where_the_model_batches(tmp_path: Path) -> None:
    """Requests of any length become rows, and their responses the recorded answers of these."""
    y = np.array([1, 2, 3], np.float32)
    path = _lines(tmp_path / "requests.jsonl", _recorded(ROWS[:2], y=y[:2]), _recorded(ROWS[2:], y=y[2:]))

    dataset = read(path, SCORED)
    (part,) = dataset.parts()

    np.testing.assert_array_equal(part.inputs["x"], ROWS)
    np.testing.assert_array_equal(part.answers["y"], y)
    assert (dataset.rows, dataset.recorded, dataset.labelled, dataset.columns) == (3, True, False, ())
    plain = read(_lines(path, _request(x=ROWS[:2]), {"id": "7", **_request(x=ROWS[2:]), "outputs": [{"name": "y"}]}), SCORED)
    assert (plain.rows, plain.recorded) == (3, False)


def test_recorded_requests_stay_whole_where_the_model_does_not_batch(tmp_path: Path) -> None:
    """Each is a part of its own, and a sample is one of whole requests; the rows of a table are one request, of which none are drawn."""
    requests = [_recorded(ROWS[:2] + number, y=np.array([number], np.float32)) for number in range(9)]
    path = _lines(tmp_path / "requests.jsonl", *requests)

    parts = list(read(path, WHOLE).parts())
    assert [part.inputs["x"].shape for part in parts] == [(2, 2)] * 9
    assert [float(part.answers["y"]) for part in parts] == list(range(9))
    drawn_ones = [float(part.answers["y"]) for part in read(path, WHOLE, sample=4).parts()]
    assert drawn_ones == drawn(9, 4, 0).tolist()

    table = _save(tmp_path / "rows.csv", pd.DataFrame({"a": [1, 2], "b": [3, 4]}))
    assert whole(table, WHOLE).inputs["x"].tolist() == [[1, 3], [2, 4]]
    with pytest.raises(ValidationDataError, match=r"does not batch.*validate\.sample"):
        read(table, WHOLE, sample=1)


ASKED = _request(x=ROWS)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], ["no rows"]),
        (["{"], ["line 1"]),
        ([ASKED, 5], ["line 2", "no inference request"]),
        ([{"request": ASKED, "response": {"error": "no model"}}], ["line 1", "an error: no model"]),
        ([_request(z=ROWS)], ["`z`", "['x']"]),
        ([{"inputs": []}], ["line 1", "at least one tensor"]),
        ([{"inputs": [_tensor("x", ROWS), _tensor("x", ROWS)]}], ["`x`", "twice"]),
        ([{"inputs": [{"name": "x", "shape": [3, 2], "datatype": "FP32", "parameters": {"binary_data_size": 24}}]}], ["no `data`", "JSON"]),
        ([{"inputs": [{"name": "x", "shape": [3, 2], "data": [1]}]}], ["`datatype` is missing"]),
        ([_request(x=ROWS.astype(np.int64))], ["INT64", "FP32"]),
        ([{"inputs": [{**_tensor("x", ROWS), "shape": [3, 3]}]}], ["6 values", "[3, 3]"]),
        ([_request(x=ROWS[:2, :1])], ["[2, 1]", "rows"]),
        ([{"inputs": [{**_tensor("x", ROWS), "data": ["a"] * 6}]}], ["text", "FP32"]),
        ([_recorded(ROWS, y=np.zeros(2, np.float32))], ["rows", "'y': 2"]),
        ([_recorded(ROWS, z=np.zeros(3, np.float32))], ["`z`", "label"]),
        ([_recorded(ROWS, y=np.zeros(3, np.float32)), ASKED], ["line 2", "line 1", "['y']"]),
    ],
    ids=[
        "nothing",
        "no JSON",
        "a number",
        "an error for a response",
        "another input",
        "no input",
        "an input twice",
        "binary data",
        "no datatype",
        "another datatype",
        "another shape",
        "a column for a row",
        "text for numbers",
        "other rows",
        "another output",
        "a response here and none there",
    ],
)
def test_requests_that_do_not_fit_are_refused(tmp_path: Path, lines: list[Any], told: list[str]) -> None:
    """ValidationDataError with the file, the line, and what is wrong there."""
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))

    with pytest.raises(ValidationDataError) as caught:
        read(path, SCORED)

    assert all(words in str(caught.value) for words in [str(path), *told]), caught.value


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("a.csv", _text("a,b,label\n1,2,0\n3,4,\n"), ["row 1 has no label in `label`"]),
        ("a.json", _text('[{"a": 1, "b": 2, "label": "x"}, {"a": 1, "b": 2}]'), ["row 1 has no label in `label`"]),
        ("a.npz", _npz(x=ROWS, label=[0, NAN, 1]), ["row 1 has no label in `label`"]),
        ("a.csv", _text("a,b\n1,2,3\n4,5,6\n"), ["more cells"]),
        ("a.json", _text('{"columns": ["a", "a"], "data": [[1, 2]]}'), ["['a'] more than once"]),
        ("a.csv", _text("a,b\n" + "1,2\n" * PART_ROWS + "1,\n" + "1,x\n"), ["'b'", "text"]),
        ("a.npz", _npz(x=np.zeros((MANY, 2)), y=np.zeros(MANY - 1)), ["'y'"]),
        ("a.jsonl", _text("\n"), ["no rows"]),
    ],
    ids=["csv-label", "json-label", "npz-label", "csv-cells", "json-columns", "csv-late text", "npz-answers", "jsonl-blank"],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, name: str, write: Any, told: list[str]) -> None:
    """A missing label, cells without a name, a column twice, a text far down: an error, whatever the other rows are."""
    write(tmp_path / name)

    with pytest.raises(ValidationDataError) as caught:
        read(tmp_path / name, SCORED)

    assert all(words in str(caught.value) for words in [str(tmp_path / name), *told]), caught.value


def test_an_error_far_down_says_which_rows(tmp_path: Path) -> None:
    """A value that the input cannot take is in the rows that the message names, and every row is looked at, drawn or not."""
    servable = _servable(("a", "INT64", (-1,)))
    rows = np.zeros(MANY)
    rows[-1] = 0.5
    path = _save(tmp_path / "rows.parquet", pd.DataFrame({"a": rows}))

    with pytest.raises(ValidationDataError, match=rf"rows {2 * PART_ROWS} to {MANY - 1}\).*'a'.*INT64"):
        read(path, servable)
    with pytest.raises(ValidationDataError, match="INT64"):
        read(path, servable, sample=1)
