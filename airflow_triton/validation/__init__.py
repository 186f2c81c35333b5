"""Whether a candidate may serve: data, the questions put to the server, the checks and their report."""

from airflow_triton.validation.data import Dataset, load_dataset
from airflow_triton.validation.metrics import metric_check
from airflow_triton.validation.parity import parity_check
from airflow_triton.validation.report import CheckResult, ValidationReport
from airflow_triton.validation.requests import as_model_gives, as_server_takes, ask

__all__ = [
    "CheckResult",
    "Dataset",
    "ValidationReport",
    "as_model_gives",
    "as_server_takes",
    "ask",
    "load_dataset",
    "metric_check",
    "parity_check",
]
