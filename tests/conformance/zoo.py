"""Real models of every flavor, as a team would log them: a name, what MLflow logs it with, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(240, 6))
COLUMNS = ["age", "income", "score", "visits", "rate", "balance (EUR)"]
TABLE = pd.DataFrame(X, columns=COLUMNS)
GAPS = TABLE.mask(RANDOM.random(X.shape) < 0.1)
TWO = (X[:, 0] + X[:, 1] > 0).astype("int64")
THREE = np.digitize(X[:, 0], [-0.5, 0.5])
NAMES = np.array(["bronze", "silver", "gold"])[THREE]
NUMBER = X @ np.arange(1.0, 7.0)
MIXED = TABLE.assign(city=RANDOM.choice(["Bonn", "Kiel", "Ulm"], len(X)), member=RANDOM.choice(["yes", "no"], len(X)))
WORDS = np.array(["good", "bad", "late", "early", "cheap", "dear", "warm", "cold"])
TEXTS = [" ".join(RANDOM.choice(WORDS, 6)) for _ in range(120)]
MOODS = np.array([("good" in text) for text in TEXTS]).astype("int64")


@dataclass(frozen=True)
class Exhibit:
    """A model: `make` trains it and answers the model, its input example and what `log_model` is told beside."""

    name: str
    flavor: str
    make: Callable[[], tuple[Any, Any, dict[str, Any]]]
    to: str = "onnx"
    convert: dict[str, Any] = field(default_factory=dict)


def _sklearn(name: str, estimator: Callable[[], Any], table: Any, taught: Any) -> Exhibit:
    def make() -> tuple[Any, Any, dict[str, Any]]:
        rows = table[:5] if not isinstance(table, list) else np.array(table[:5]).reshape(-1, 1)
        return estimator().fit(table, taught), rows, {"serialization_format": "cloudpickle"}

    return Exhibit(name, "sklearn", make)


def sklearn() -> list[Exhibit]:
    """scikit-learn's estimators by family."""
    from sklearn.cluster import KMeans
    from sklearn.compose import make_column_transformer
    from sklearn.decomposition import PCA
    from sklearn.ensemble import (
        ExtraTreesRegressor,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        IsolationForest,
        RandomForestClassifier,
        VotingRegressor,
    )
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, PoissonRegressor
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from sklearn.svm import SVC, SVR
    from sklearn.tree import DecisionTreeClassifier

    def columns(last: Any) -> Any:
        text = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        numbers = make_pipeline(SimpleImputer(), StandardScaler())
        return make_pipeline(make_column_transformer((text, ["city", "member"]), (numbers, COLUMNS)), last)

    return [
        _sklearn("LogisticRegression over mixed columns", lambda: columns(LogisticRegression()), MIXED, NAMES),
        _sklearn("RandomForestClassifier", lambda: RandomForestClassifier(20), TABLE, NAMES),
        _sklearn("GradientBoostingClassifier", lambda: GradientBoostingClassifier(n_estimators=20), TABLE, THREE),
        _sklearn("HistGradientBoostingClassifier, missing values", lambda: HistGradientBoostingClassifier(max_iter=20), GAPS, TWO),
        _sklearn("DecisionTreeClassifier", lambda: DecisionTreeClassifier(max_depth=5), TABLE, THREE),
        _sklearn("SVC", lambda: make_pipeline(StandardScaler(), SVC()), TABLE, THREE),
        _sklearn("KNeighborsClassifier", lambda: KNeighborsClassifier(3), TABLE, TWO),
        _sklearn("GaussianNB", GaussianNB, TABLE, THREE),
        _sklearn("PCA and LogisticRegression", lambda: make_pipeline(PCA(3), LogisticRegression()), TABLE, TWO),
        _sklearn("LinearRegression", LinearRegression, TABLE, NUMBER),
        _sklearn("ElasticNet over mixed columns", lambda: columns(ElasticNet(alpha=0.01)), MIXED, NUMBER),
        _sklearn("PoissonRegressor", PoissonRegressor, TABLE, abs(NUMBER)),
        _sklearn("SVR", lambda: make_pipeline(StandardScaler(), SVR()), TABLE, NUMBER),
        _sklearn("MLPRegressor", lambda: MLPRegressor(hidden_layer_sizes=(16,), max_iter=200, random_state=1), X.astype("float32"), NUMBER),
        _sklearn("ExtraTreesRegressor", lambda: ExtraTreesRegressor(20), TABLE, NUMBER),
        _sklearn("VotingRegressor", lambda: VotingRegressor([("a", LinearRegression()), ("b", ElasticNet())]), TABLE, NUMBER),
        _sklearn("GaussianProcessRegressor", lambda: GaussianProcessRegressor(alpha=0.1), TABLE[:60], NUMBER[:60] / 10),
        _sklearn("KMeans", lambda: KMeans(4, n_init=2), TABLE, None),
        _sklearn("IsolationForest", lambda: IsolationForest(n_estimators=20), TABLE, None),
    ]


def boosting() -> list[Exhibit]:
    """Gradient boosting, with missing values, and with categorical features."""
    import catboost
    import lightgbm
    import xgboost
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    def encoded(last: Any) -> Any:
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        return make_pipeline(make_column_transformer((encoder, ["city", "member"]), remainder="passthrough"), last)

    light = {"n_estimators": 20, "verbose": -1}
    cat = {"iterations": 20, "verbose": 0, "allow_writing_files": False}
    plain = {"serialization_format": "cloudpickle"}
    return [
        Exhibit("XGBClassifier, missing values", "xgboost", lambda: (xgboost.XGBClassifier(n_estimators=20).fit(GAPS, TWO), GAPS[:5], {})),
        Exhibit("XGBRegressor", "xgboost", lambda: (xgboost.XGBRegressor(n_estimators=20).fit(TABLE, NUMBER), TABLE[:5], {})),
        Exhibit("xgboost.Booster", "xgboost", lambda: (xgboost.train({}, xgboost.DMatrix(TABLE, NUMBER), 20), TABLE[:5], {})),
        Exhibit("LGBMClassifier, missing values", "lightgbm", lambda: (lightgbm.LGBMClassifier(**light).fit(GAPS, NAMES), GAPS[:5], {})),
        Exhibit("LGBMRegressor", "lightgbm", lambda: (lightgbm.LGBMRegressor(**light).fit(TABLE, NUMBER), TABLE[:5], {})),
        Exhibit(
            "CatBoostClassifier, missing values", "catboost", lambda: (catboost.CatBoostClassifier(**cat).fit(GAPS, TWO), GAPS[:5], {})
        ),
        Exhibit("CatBoostRegressor", "catboost", lambda: (catboost.CatBoostRegressor(**cat).fit(TABLE, NUMBER), TABLE[:5], {})),
        Exhibit(
            "XGBClassifier after OrdinalEncoder, categories and missing values",
            "sklearn",
            lambda: (encoded(xgboost.XGBClassifier(n_estimators=20)).fit(MIXED, TWO), MIXED[:5], plain),
        ),
    ]


def networks() -> list[Exhibit]:
    """PyTorch, Keras (on PyTorch) and transformers."""
    from conformance import networks as made

    return [
        Exhibit("CNN", "pytorch", made.cnn),
        Exhibit("CNN as TorchScript", "pytorch", made.cnn, to="torchscript"),
        Exhibit("LSTM", "pytorch", made.lstm),
        Exhibit("transformer encoder of any length", "pytorch", made.encoder),
        Exhibit("two inputs, two outputs", "pytorch", made.two_and_two),
        Exhibit("Keras Dense", "keras", made.keras_dense),
        Exhibit("Keras CNN", "keras", made.keras_cnn),
        Exhibit("BERT that classifies (random weights)", "transformers", made.bert),
    ]


def others() -> list[Exhibit]:
    """What is ONNX already, and what only Python can answer."""
    from conftest import CENTRES, classifier
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    from conformance.pyfuncs import Forecast, Moods

    server = {"python": {"environment": "packed"}, "requirements": ["numpy<2", "pandas<3"]}
    text = ModelSignature(inputs=Schema([ColSpec("string", "text")]))
    return [
        Exhibit("nearest centre", "onnx", lambda: (classifier(CENTRES.T), X[:5, :4].astype("float32"), {})),
        Exhibit("nearest centre, byte for byte", "onnx", lambda: (classifier(CENTRES.T), X[:5, :4].astype("float32"), {}), to="as-is"),
        Exhibit(
            "pyfunc: text in, JSON out",
            "pyfunc",
            lambda: (Moods(), pd.DataFrame({"text": TEXTS[:4]}), {"signature": text}),
            to="python",
            convert=server,
        ),
        Exhibit("pyfunc: a table in, two columns out", "pyfunc", lambda: (Forecast(), TABLE[:4], {}), to="python", convert=server),
    ]


def exhibits() -> list[Exhibit]:
    """All of them."""
    return [*sklearn(), *boosting(), *networks(), *others()]
