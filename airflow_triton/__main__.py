"""`python -m airflow_triton` is the command line."""

from airflow_triton.cli import main

main()
