"""Real servers as processes, to start, to wait for, to kill and to start again: PostgreSQL, MLflow, Airflow's components."""

from live.airflow import Airflow, AirflowApi
from live.mlflow import MLflow
from live.postgres import PostgreSQL
from live.process import Process, clean_environment, wait_for

__all__ = ["Airflow", "AirflowApi", "MLflow", "PostgreSQL", "Process", "clean_environment", "wait_for"]
