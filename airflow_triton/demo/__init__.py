"""The tour: the main job on one machine, with a real MLflow, a real Airflow and a real Triton."""

from airflow_triton.demo.tour import run_demo

__all__ = ["run_demo"]
