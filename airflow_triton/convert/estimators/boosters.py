"""Boosters of a library's own API, asked as its scikit-learn wrappers are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_XGBOOST_CLASSES = ("binary:logistic", "multi:softprob", "multi:softmax")
_LIGHTGBM_CLASSES = ("binary", "multiclass", "multiclassova")


class Booster:
    """A `native` booster whose prediction is a number for each row."""

    def __init__(self, native: Any, width: int, names: tuple[str, ...], scores: Callable[[Any], Any]) -> None:
        self.native = native
        self.n_features_in_ = width
        self.feature_names_in_ = names
        self._scores = scores

    def predict(self, table: Any) -> np.ndarray[Any, Any]:
        """The prediction of each row."""
        import numpy as np

        return np.asarray(self._scores(table))


class ClassifyingBooster(Booster):
    """A `native` booster whose scores are probabilities: of the second class, or of each."""

    def predict_proba(self, table: Any) -> np.ndarray[Any, Any]:
        """The probability of each class."""
        import numpy as np

        scores = np.asarray(self._scores(table))
        return scores if scores.ndim > 1 else np.stack([1 - scores, scores], axis=1)

    def predict(self, table: Any) -> np.ndarray[Any, Any]:
        """The most probable class, by its number."""
        import numpy as np

        return np.asarray(self.predict_proba(table).argmax(axis=1))


class Described:
    """A scikit-learn wrapper that says otherwise how many features it has, and nothing of their names."""

    feature_names_in_ = ()

    def __init__(self, loaded: Any, width: int) -> None:
        self._loaded = loaded
        self.n_features_in_ = width

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)

    @property
    def wrapped(self) -> Any:
        """The wrapper itself."""
        return self._loaded


def booster_of(loaded: Any) -> Any:
    """The model, if it can be asked as scikit-learn's are; else a booster that can."""
    kind = f"{type(loaded).__module__.partition('.')[0]}.{type(loaded).__name__}"
    if kind == "xgboost.Booster":
        return _xgboost(loaded)
    if kind == "lightgbm.Booster":
        return _lightgbm(loaded)
    if kind.startswith("lightgbm."):
        return Described(loaded, loaded.n_features_in_)  # "sepal length" has become "sepal_length"
    return Described(loaded, len(loaded.feature_names_)) if kind.startswith("catboost.") else loaded  # from a file, it says 0


def xgboost_objective(native: Any) -> str:
    """What a booster of XGBoost was trained for, such as `binary:logistic`."""
    return str(json.loads(native.save_config())["learner"]["objective"]["name"])


def _xgboost(native: Any) -> Booster:
    import numpy as np
    import xgboost

    objective = xgboost_objective(native)
    names = tuple(native.feature_names or ())

    def predict(table: Any, **more: Any) -> Any:
        native.feature_names = None  # so that they need not be told again
        return native.predict(xgboost.DMatrix(np.asarray(table, dtype="float32")), **more)

    def softmax(table: Any) -> Any:
        margin = predict(table, output_margin=True)
        powers = np.exp(margin - margin.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    if objective not in _XGBOOST_CLASSES:
        return Booster(native, native.num_features(), names, predict)
    return ClassifyingBooster(native, native.num_features(), names, softmax if objective == "multi:softmax" else predict)


def _lightgbm(native: Any) -> Booster:
    import numpy as np

    objective = str(native.dump_model(num_iteration=1).get("objective", "")).partition(" ")[0]
    kind = ClassifyingBooster if objective in _LIGHTGBM_CLASSES else Booster
    return kind(native, native.num_feature(), (), lambda table: native.predict(np.asarray(table)))
