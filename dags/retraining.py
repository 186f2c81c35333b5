"""Retrain every week: new rows are checked, a model is trained and registered, and it serves only if it is no worse than what does.

`extract` logs the new rows to MLflow, `check_data` holds them against `retraining/expectations.yaml` (Great Expectations), `train` fits a
model, keeps rows that it did not see as `holdout.csv` of its run, and registers it. Then come the steps of a deployment, as
`retraining/spec.yaml` declares it: the new version is compared, on the server, with the one that serves. Bad rows end before the
training, a bad model ends before the promotion; what served serves.

As it stands it needs MLflow, the connection `triton_default` and TRITON_MODEL_REPO, and takes scikit-learn's digits for the new rows.
Replace `extract` and `train` by your own.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_triton.operators.data import CheckDataOperator
from airflow_triton.task_groups import deploy_model

HERE = Path(__file__).parent / "retraining"
MODEL = "digits-weekly"


@task
def extract(params: dict[str, Any] | None = None) -> str:
    """Log the new rows as `rows.csv` of a new run; answer the run's id."""
    import mlflow
    import pandas as pd
    from sklearn.datasets import load_digits

    if params and params["data"]:
        rows = pd.read_csv(params["data"])
    else:
        images, labels = load_digits(return_X_y=True)
        rows = pd.DataFrame(images, columns=[f"pixel_{number}" for number in range(images.shape[1])]).assign(label=labels)
    mlflow.set_experiment(MODEL)
    with mlflow.start_run(run_name="retraining") as run:
        mlflow.log_text(rows.to_csv(index=False), "rows.csv")
    return str(run.info.run_id)


@task
def train(rows_of: str) -> int:
    """Fit a model on the rows of that run and register it; answer its version. A second try answers what the first one registered."""
    import mlflow
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    registered = mlflow.MlflowClient().search_model_versions(f"run_id='{rows_of}'")
    if registered:
        return int(registered[0].version)
    rows = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=rows_of, artifact_path="rows.csv"))
    seen, unseen = train_test_split(rows, test_size=0.25, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    inputs = seen.drop(columns="label").to_numpy(np.float32)
    model.fit(inputs, seen["label"])
    with mlflow.start_run(run_id=rows_of):
        mlflow.log_text(unseen.to_csv(index=False), "holdout.csv")
        logged = mlflow.sklearn.log_model(model, name="model", registered_model_name=MODEL, input_example=inputs[:5])
    return int(logged.registered_model_version)


with DAG(
    "retrain_digits",
    description="new rows, a new model, and a comparison with what serves",
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "airflow-triton", "retries": 2, "retry_delay": timedelta(seconds=30)},
    params={"data": Param(None, type=["null", "string"], description="a CSV file with the new rows; default: scikit-learn's digits")},
    tags=["triton", "retraining"],
    doc_md=__doc__,
):
    extracted = extract()
    checked = CheckDataOperator(
        task_id="check_data", data="runs:/{{ ti.xcom_pull(task_ids='extract') }}/rows.csv", suite=HERE / "expectations.yaml"
    )
    version = train(extracted)
    deployed = deploy_model(str(HERE / "spec.yaml"), model=f"models:/{MODEL}/{{{{ ti.xcom_pull(task_ids='train') }}}}", group_id="deploy")
    extracted >> checked >> version >> deployed
