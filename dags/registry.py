"""The registry decides: each spec in the folder `registry` follows an alias or the latest version, and is deployed when it moves.

The other DAG runs when a version has come to serve (a promotion or a rollback is an event of the model's asset), and reads from the event
which. Whatever should follow a release belongs there: a cache that is emptied, a note to a channel, a shadow that is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_triton.assets import served_model
from airflow_triton.dag_factory import deployment_dags

globals().update(deployment_dags(Path(__file__).parent / "registry"))


@task
def read_event(triggering_asset_events: Any = None) -> dict[str, Any]:
    """What serves now, as the last of the events says it; nothing where the DAG was started by hand."""
    extras = [event.extra for events in (triggering_asset_events or {}).values() for event in events]
    last = extras[-1] if extras else {}
    return {key: last.get(key) for key in ("model", "version", "previous", "action")}


with DAG("after_digits_live", schedule=[served_model("digits-live")], tags=["triton"], doc_md=__doc__):
    read_event()
