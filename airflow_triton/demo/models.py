"""The models of the tour: three trainings on scikit-learn's digits, registered in MLflow as versions of one model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "digits"
ROWS_SHOWN = 5


def train_and_register(tracking_uri: str, artifacts: Path, holdout: Path, progress: Callable[[str], None]) -> list[float]:
    """Train two good models and one on shuffled labels, and register each; answer one row of the data.

    `holdout` is written: a table of rows that no model saw, with their labels.
    """
    import mlflow
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images.astype(np.float32), digits, test_size=0.25, random_state=0, stratify=digits
    )
    _write_table(holdout, test, test_labels)
    shuffled = np.random.default_rng(0).permutation(train_labels)

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.create_experiment(NAME, artifact_location=artifacts.as_uri())
    mlflow.set_experiment(NAME)
    trainings: list[tuple[str, Any, Any]] = [
        ("logistic regression", make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), train_labels),
        ("logistic regression on shuffled labels", make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), shuffled),
        ("support vector machine", make_pipeline(StandardScaler(), SVC()), train_labels),
    ]
    for version, (what, model, labels) in enumerate(trainings, start=1):
        progress(f"version {version}: {what}, trained on {len(train)} images and registered")
        with mlflow.start_run(run_name=what):
            model.fit(train, labels)
            mlflow.sklearn.log_model(model, name="model", registered_model_name=NAME, input_example=train[:ROWS_SHOWN])
    return [float(value) for value in test[0]]


def _write_table(path: Path, rows: Any, labels: Any) -> None:
    import pandas as pd

    table = pd.DataFrame(rows, columns=[f"pixel_{number}" for number in range(rows.shape[1])])
    table["label"] = labels
    table.to_csv(path, index=False)
