"""Airflow's sensors: what to wait for."""
