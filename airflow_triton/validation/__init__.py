"""Whether a candidate may serve: data, the questions put to the server, the checks and their report."""

from airflow_triton.validation.asking import Asked, as_model_gives, as_server_takes, ask_all, misfit
from airflow_triton.validation.checks import Bench, Check, Seen, checks_of, golden_of
from airflow_triton.validation.data import Dataset, Part, Places, prepare
from airflow_triton.validation.report import CheckResult, ValidationReport
from airflow_triton.validation.rows import check_rows

__all__ = [
    "Asked",
    "Bench",
    "Check",
    "CheckResult",
    "Dataset",
    "Part",
    "Places",
    "Seen",
    "ValidationReport",
    "as_model_gives",
    "as_server_takes",
    "ask_all",
    "check_rows",
    "checks_of",
    "golden_of",
    "misfit",
    "prepare",
]
