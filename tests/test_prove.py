"""Each conversion is held against the MLflow model: what is asked, what passes, and what is refused before anything is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from test_convert import save_sklearn

from airflow_triton import convert as conversion
from airflow_triton.convert import child, mlmodel, prove
from airflow_triton.convert.base import Conversion
from airflow_triton.convert.onnx import files as onnx_files
from airflow_triton.errors import ConversionError, RejectedError
from airflow_triton.spec import Parity

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(200, 4))
TARGET = X @ [1.0, -2.0, 3.0, 0.5]
TWO = (TARGET > 0).astype(int)


def made(folder: Path, into: Path, **options: Any) -> Conversion:
    into.mkdir()
    return Conversion.model_validate(child.convert(str(folder), str(into), {"to": "onnx"}, **options))


def test_the_example_other_rows_and_both_ends_of_a_batch_are_asked(tmp_path: Path) -> None:
    """The model refuses NaN, so NaN is not held against it; the figures are there for every output."""
    source = save_sklearn(tmp_path / "model", make_pipeline(StandardScaler(), LogisticRegression()).fit(X, TWO), X[:7])

    agreement = made(source, tmp_path / "1", largest=32).agreement

    assert agreement is not None
    assert agreement.passed
    assert agreement.runs == {"the input example": 7, "made-up rows": 7, "a batch of 1": 1, "a batch of 32": 32}
    assert "NaN" in agreement.left_out["missing values (NaN)"]
    assert {output.name for output in agreement.outputs} == {"label", "probabilities"}
    assert agreement.figures["probabilities.argmax"] == 1.0
    assert 0 < agreement.figures["probabilities.max_abs"] < 1e-5


def test_missing_values_are_asked_of_a_model_that_takes_them(tmp_path: Path) -> None:
    """Trees that were trained with gaps answer with a number."""
    gaps = np.where(RANDOM.random(X.shape) < 0.2, np.nan, X)
    model = HistGradientBoostingRegressor(max_iter=10).fit(gaps, TARGET)

    agreement = made(save_sklearn(tmp_path / "model", model, gaps[:5]), tmp_path / "1").agreement

    assert agreement is not None
    assert agreement.passed
    assert agreement.runs["missing values (NaN)"] == 5


@pytest.mark.parametrize(
    "model",
    [DecisionTreeClassifier(max_depth=4), RandomForestClassifier(5), ExtraTreesClassifier(5), make_pipeline(RandomForestClassifier(5))],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("with_gaps", [False, True])
def test_missing_values_go_where_the_trees_of_the_model_send_them(tmp_path: Path, model: Any, with_gaps: bool) -> None:  # noqa: FBT001
    """Also of a model that saw none when it was trained, as scikit-learn takes them of that one too."""
    rows = np.where(RANDOM.random(X.shape) < 0.2, np.nan, X) if with_gaps else X

    agreement = made(save_sklearn(tmp_path / "model", clone(model).fit(rows, TWO), X[:40]), tmp_path / "1").agreement

    assert agreement is not None
    assert agreement.passed, agreement.summary
    assert agreement.runs["missing values (NaN)"] == 40


def test_empty_strings_are_asked_where_text_goes_in(tmp_path: Path) -> None:
    """An encoder that ignores what it does not know takes them."""
    table = pd.DataFrame({"kind": RANDOM.choice(["a", "b"], 50), "shop": RANDOM.choice(["x", "y"], 50)})
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(table, table["kind"] == "a")

    agreement = made(save_sklearn(tmp_path / "model", model, table[:3]), tmp_path / "1").agreement

    assert agreement is not None
    assert agreement.passed
    assert agreement.runs["empty strings"] == 3


def test_without_an_example_made_up_rows_are_asked(tmp_path: Path) -> None:
    """They have the shape that the model takes."""
    agreement = made(save_sklearn(tmp_path / "model", LinearRegression().fit(X, TARGET)), tmp_path / "1").agreement

    assert agreement is not None
    assert agreement.runs == {"made-up rows": 4, "a batch of 1": 1, "a batch of 8": 8}
    assert agreement.passed


def test_a_model_that_loses_its_precision_is_rejected_and_nothing_stays(tmp_path: Path) -> None:
    """Its answer is the small difference of two large columns, which ONNX's FP32 cannot hold. The report names output and row."""
    large = X + np.array([1e8, 1e8, 0, 0])
    model = LinearRegression().fit(large, large[:, 0] - large[:, 1])
    source = save_sklearn(tmp_path / "model", model, large[:5])

    with pytest.raises(
        RejectedError, match=r"'variable' is out of tolerance in \d+ of \d+ elements \(worst in row \d of the input example"
    ) as caught:
        conversion.convert(source, tmp_path / "1")

    assert caught.value.report.figures["variable.apart"] > 0
    assert not (tmp_path / "1").exists()
    assert conversion.convert(source, tmp_path / "1", tolerance=Parity(rtol=0, atol=100)).agreement is not None


def test_a_file_that_answers_otherwise_is_found_out(tmp_path: Path) -> None:
    """One weight of the graph is changed, as a converter with a bug would write it."""
    source = save_sklearn(tmp_path / "model", LinearRegression().fit(X, TARGET), X[:5])
    servable = made(source, tmp_path / "1").servable
    path = tmp_path / "1" / "model.onnx"
    graph = onnx_files.read(path)
    (regressor,) = [node for node in graph.graph.node if node.op_type == "LinearRegressor"]
    next(entry for entry in regressor.attribute if entry.name == "coefficients").floats[2] += 0.01
    path.write_bytes(graph.SerializeToString())
    model = mlmodel.read(source)

    agreement = prove.prove(model, path.parent, servable, X[:5], largest=8, rtol=1e-4, atol=1e-5)

    assert agreement is not None
    assert not agreement.passed
    assert agreement.outputs[0].case == "the input example"


def test_a_file_that_does_not_load_is_rejected(tmp_path: Path) -> None:
    """With the runtime's reason."""
    source = save_sklearn(tmp_path / "model", LinearRegression().fit(X, TARGET), X[:5])
    servable = made(source, tmp_path / "1").servable
    (tmp_path / "1" / "model.onnx").write_bytes(b"nothing")

    with pytest.raises(RejectedError, match=r"the converted model does not load: .*model\.onnx cannot be loaded by onnxruntime"):
        prove.prove(mlmodel.read(source), tmp_path / "1", servable, X[:5], largest=8, rtol=1e-4, atol=1e-5)


def test_a_model_that_fails_on_its_own_example_is_refused(tmp_path: Path) -> None:
    """The scaler's state was broken after the training: nothing could be compared."""
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(X, TARGET)
    source = save_sklearn(tmp_path / "model", model, X[:5])
    broken = make_pipeline(StandardScaler(), LinearRegression()).fit(X, TARGET)
    broken[1].n_features_in_ = 3
    import cloudpickle

    (source / "model.pkl").write_bytes(cloudpickle.dumps(broken))

    with pytest.raises(ConversionError, match="the MLflow model does not answer the input example: ValueError: X has 4 features"):
        made(source, tmp_path / "1")
