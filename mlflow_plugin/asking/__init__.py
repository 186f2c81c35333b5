"""Asking what Triton serves as MLflow's users ask a model: tables, arrays and lists in, answers in the shape of the signature out."""

from mlflow_plugin.asking.answers import as_json, shaped
from mlflow_plugin.asking.questions import Question, question
from mlflow_plugin.asking.served import Served, served

__all__ = ["Question", "Served", "as_json", "question", "served", "shaped"]
