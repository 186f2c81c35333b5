"""Models of XGBoost, LightGBM and CatBoost, saved by MLflow and converted: what is served answers as the model itself does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from airflow_triton.convert import child
from airflow_triton.convert.base import original_of
from airflow_triton.convert.mlmodel import read
from airflow_triton.convert.onnx import inspect as inspect_onnx
from airflow_triton.errors import ConversionError
from airflow_triton.servable import Servable

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(300, 5)).astype("float32")
GAPS = np.where(RANDOM.random(X.shape) < 0.1, np.nan, X).astype("float32")
"""A tenth of the values is missing."""
COLUMNS = ["sepal length (cm)", "b", "c d", "e", "f_1"]
TABLE = pd.DataFrame(X, columns=COLUMNS)
TWO = (X[:, 0] + X[:, 1] > 0).astype("int64")
THREE = np.digitize(X[:, 0], [-0.5, 0.5])
TARGET = X @ np.arange(5.0)
CODES = np.c_[X[:, :4], RANDOM.integers(0, 6, len(X))].astype("float32")
"""The last column is a category's number."""
WORDS = TABLE.assign(kind=pd.Categorical(np.where(TWO, "u", "v")))

CLASSES_2 = {"label": ("INT64", (-1,)), "probabilities": ("FP32", (-1, 2))}
CLASSES_3 = {"label": ("INT64", (-1,)), "probabilities": ("FP32", (-1, 3))}
NUMBER = {"variable": ("FP32", (-1, 1))}
Made = tuple[str, Any, Any, dict[str, Any]]


def zoo() -> dict[str, Callable[[], Made]]:
    """The flavor, the model, what it is asked, and the outputs that are served."""
    import catboost
    import lightgbm
    import xgboost

    x = {"n_estimators": 12}
    light = {"n_estimators": 12, "min_child_samples": 5, "verbose": -1}
    cat = {"iterations": 12, "verbose": 0, "allow_writing_files": False}
    binary, several = {"objective": "binary:logistic"}, {"objective": "multi:softmax", "num_class": 3}
    quiet = {"verbose": -1}
    return {
        "xgboost-two-classes-gaps": lambda: ("xgboost", xgboost.XGBClassifier(**x).fit(GAPS, TWO), GAPS, CLASSES_2),
        "xgboost-three-classes-table": lambda: ("xgboost", xgboost.XGBClassifier(**x).fit(TABLE, THREE), TABLE, CLASSES_3),
        "xgboost-regressor": lambda: ("xgboost", xgboost.XGBRegressor(**x).fit(X, TARGET), X, NUMBER),
        "xgboost-poisson": lambda: ("xgboost", xgboost.XGBRegressor(**x, objective="count:poisson").fit(X, abs(TARGET)), X, NUMBER),
        "xgboost-booster-two": lambda: ("xgboost", xgboost.train(binary, xgboost.DMatrix(TABLE, TWO), 12), TABLE, CLASSES_2),
        "xgboost-booster-softmax": lambda: ("xgboost", xgboost.train(several, xgboost.DMatrix(GAPS, THREE), 12), GAPS, CLASSES_3),
        "xgboost-booster-number": lambda: ("xgboost", xgboost.train({}, xgboost.DMatrix(X, TARGET), 12), X, NUMBER),
        "lightgbm-two-classes-gaps": lambda: ("lightgbm", lightgbm.LGBMClassifier(**light).fit(GAPS, TWO), GAPS, CLASSES_2),
        "lightgbm-three-classes-table": lambda: ("lightgbm", lightgbm.LGBMClassifier(**light).fit(TABLE, THREE), TABLE, CLASSES_3),
        "lightgbm-regressor-codes": lambda: (
            "lightgbm",
            lightgbm.LGBMRegressor(**light).fit(CODES, TARGET + CODES[:, 4] ** 2, categorical_feature=[4]),
            CODES,
            NUMBER,
        ),
        "lightgbm-booster-two": lambda: (
            "lightgbm",
            lightgbm.train({"objective": "binary", **quiet}, lightgbm.Dataset(X, TWO), 12),
            X,
            CLASSES_2,
        ),
        "lightgbm-booster-number": lambda: ("lightgbm", lightgbm.train(quiet, lightgbm.Dataset(GAPS, TARGET), 12), GAPS, NUMBER),
        "catboost-two-classes-gaps": lambda: ("catboost", catboost.CatBoostClassifier(**cat).fit(GAPS, TWO), GAPS, CLASSES_2),
        "catboost-three-classes": lambda: ("catboost", catboost.CatBoostClassifier(**cat).fit(TABLE, THREE), TABLE, CLASSES_3),
        "catboost-words-for-classes": lambda: (
            "catboost",
            catboost.CatBoostClassifier(**cat).fit(X, np.where(TWO, "yes", "no")),
            X,
            {**CLASSES_2, "label": ("BYTES", (-1,))},
        ),
        "catboost-regressor": lambda: ("catboost", catboost.CatBoostRegressor(**cat).fit(X, TARGET), X, {"predictions": ("FP32", (-1, 1))}),
    }


def save(folder: Path, flavor: str, model: Any, example: Any) -> Path:
    """Save it as users do."""
    import importlib

    from mlflow.models import infer_signature

    module = importlib.import_module(f"mlflow.{flavor}")
    module.save_model(model, str(folder), signature=infer_signature(example), input_example=example[:3], pip_requirements=[])
    return folder


def convert(folder: Path, into: Path, to: Any = "onnx") -> Servable:
    """Convert it in this process."""
    into.mkdir()
    return Servable.model_validate(child.convert(str(folder), str(into), {"to": to})["servable"])


@pytest.mark.parametrize("name", list(zoo()))
def test_every_boosted_model_answers_as_itself(tmp_path: Path, name: str) -> None:
    """All rows, missing values included: equal labels, numbers within float precision."""
    flavor, model, rows, outputs = zoo()[name]()
    source = save(tmp_path / "model", flavor, model, rows)

    servable = convert(source, tmp_path / "1")

    assert (servable.flavor, servable.batching) == (flavor, True)
    assert {spec.name: (spec.datatype, spec.shape) for spec in servable.inputs} == {"input": ("FP32", (-1, rows.shape[1]))}
    assert {spec.name: (spec.datatype, spec.shape) for spec in servable.outputs} == outputs
    inputs = {"input": np.asarray(rows, dtype="float32")}
    expected = original_of(servable).original(read(source), servable)(inputs)
    got = inspect_onnx.open_session(tmp_path / "1" / "model.onnx").run(list(outputs), inputs)
    for spec, answer in zip(outputs, got, strict=True):
        own = expected[spec]
        if outputs[spec][0] == "FP32":
            np.testing.assert_allclose(answer.reshape(own.shape), own, rtol=1e-4, atol=1e-5)
        else:
            assert answer.tolist() == own.tolist()
    own = model.predict(rows) if not name.startswith("xgboost-booster") else None
    if own is not None and "label" in outputs and "booster" not in name:
        assert got[0].tolist() == np.asarray(own).reshape(-1).tolist()


@pytest.mark.parametrize("flavor", ["xgboost", "lightgbm", "catboost"])
def test_categories_are_refused(tmp_path: Path, flavor: str) -> None:
    """No export knows them, and one of them would answer wrongly without a word."""
    import catboost
    import lightgbm
    import xgboost

    model: Any
    if flavor == "xgboost":
        model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True).fit(WORDS, TWO)
    elif flavor == "lightgbm":
        model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(WORDS, TWO)
    else:
        words = WORDS.assign(kind=WORDS["kind"].astype(str))
        model = catboost.CatBoostClassifier(iterations=3, verbose=0, allow_writing_files=False, cat_features=["kind"]).fit(words, TWO)
    import importlib

    importlib.import_module(f"mlflow.{flavor}").save_model(model, str(tmp_path / "model"), pip_requirements=[])

    with pytest.raises(ConversionError, match=r"categor.*encode categories before the model"):
        convert(tmp_path / "model", tmp_path / "1")


def test_text_columns_are_refused(tmp_path: Path) -> None:
    """The signature tells them."""
    import catboost

    words = WORDS.assign(kind=WORDS["kind"].astype(str))
    model = catboost.CatBoostClassifier(iterations=3, verbose=0, allow_writing_files=False, cat_features=["kind"]).fit(words, TWO)

    with pytest.raises(ConversionError, match="the columns kind are text"):
        convert(save(tmp_path / "model", "catboost", model, words), tmp_path / "1")


def test_as_is_is_refused(tmp_path: Path) -> None:
    """It would need another backend."""
    import lightgbm

    model = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1).fit(X, TARGET)

    with pytest.raises(ConversionError, match="a model of lightgbm, python_function cannot become `to: as-is`; valid: onnx, python"):
        convert(save(tmp_path / "model", "lightgbm", model, X), tmp_path / "1", "as-is")


def pipelines() -> dict[str, Callable[[], tuple[Any, Any, Any]]]:
    """Boosted trees as the last step of a scikit-learn pipeline over a table with text, with what they are taught."""
    import lightgbm
    import xgboost
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    def after_columns(last: Any) -> Any:
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return make_pipeline(make_column_transformer((encoder, ["kind"]), remainder="passthrough"), last)

    table = WORDS.assign(kind=WORDS["kind"].astype(str))
    light = {"n_estimators": 8, "min_child_samples": 5, "verbose": -1}
    return {
        "xgboost-classifier": lambda: (after_columns(xgboost.XGBClassifier(n_estimators=8)), table, THREE),
        "xgboost-regressor": lambda: (after_columns(xgboost.XGBRegressor(n_estimators=8)), table, TARGET),
        "lightgbm-classifier": lambda: (after_columns(lightgbm.LGBMClassifier(**light)), table, THREE),
        "lightgbm-regressor": lambda: (after_columns(lightgbm.LGBMRegressor(**light)), table, TARGET),
    }


@pytest.mark.parametrize("name", list(pipelines()))
def test_boosted_trees_inside_a_pipeline(tmp_path: Path, name: str) -> None:
    """Logged as scikit-learn's: text and numbers go in by column, and the proof passes, missing values included."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    model, table, taught = pipelines()[name]()
    model.fit(table, taught)
    mlflow.sklearn.save_model(
        model,
        str(tmp_path / "model"),
        signature=infer_signature(table),
        input_example=table[:4],
        serialization_format="cloudpickle",
        pip_requirements=[],
    )
    (tmp_path / "1").mkdir()

    made = child.convert(str(tmp_path / "model"), str(tmp_path / "1"), {"to": "onnx"})

    assert made["agreement"]["passed"]
    assert "missing values (NaN)" in made["agreement"]["runs"]
    assert [spec["name"] for spec in made["servable"]["inputs"]] == [*COLUMNS, "kind"]
