"""The `triton` deployment target of MLflow: `mlflow deployments create -t triton --name iris -m models:/iris@challenger`.

It is the same pipeline as everywhere: a model serves only after it was validated on the server, and a refused one leaves what
served. MLflow finds this module by its entry point and wants `target_help`, `run_local` and one client class in it.
"""

from mlflow_plugin.deployments.client import TritonDeploymentClient
from mlflow_plugin.deployments.local import run_local
from mlflow_plugin.deployments.texts import target_help

__all__ = ["TritonDeploymentClient", "run_local", "target_help"]
