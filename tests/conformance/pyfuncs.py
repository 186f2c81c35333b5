"""Models of a team's own code, as MLflow logs them."""

from __future__ import annotations

from typing import Any

import mlflow.pyfunc
import pandas as pd


class Moods(mlflow.pyfunc.PythonModel):
    """Each text gets a list of the words that tell its mood, and a score."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:  # noqa: ARG002
        """See `mlflow.pyfunc.PythonModel`."""
        scores = {"good": 1.0, "warm": 0.5, "bad": -1.0, "late": -0.5}
        found = [[word for word in text.split() if word in scores] for text in model_input["text"]]
        return [{"words": words, "score": sum(scores[word] for word in words)} for words in found]


class Forecast(mlflow.pyfunc.PythonModel):
    """A mean and a spread over the columns of each row."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """See `mlflow.pyfunc.PythonModel`."""
        return pd.DataFrame({"mean": model_input.mean(axis=1), "spread": model_input.max(axis=1) - model_input.min(axis=1)})
