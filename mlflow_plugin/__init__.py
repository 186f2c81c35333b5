"""MLflow's side of airflow-provider-triton: the `triton` deployment target."""
