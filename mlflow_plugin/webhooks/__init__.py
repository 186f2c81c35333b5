"""Registry hooks: what happens in MLflow's model registry starts the pipeline, seconds later.

`register` tells an MLflow server where to send its events; `check` lets in what really comes from it; `events` says which deployments
an event concerns. `receiver` keeps what was accepted (`journal`), looks what the registry asks for, and starts the runs: those of
Airflow (`dag_runs`, through `airflow_api`) or its own (`pipelines`). `app` is the ASGI application around it, `serve` runs it alone.

A webhook makes it quick; the registry is what counts. It is looked at after each delivery and at intervals, and what a look finds has
one name, so that an event that comes late, twice or never starts the same run, once.
"""
