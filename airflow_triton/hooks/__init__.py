"""Airflow's hooks: from a connection to the thing that it means."""
