"""Who released: for the history of a model."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping

VARIABLE = "AIRFLOW_TRITON_BY"
_MOST_CHARACTERS = 200


def author(given: str | None = None, *, environment: Mapping[str, str] | None = None) -> str:
    """Who releases, in one line of at most 200 characters: as given, else what AIRFLOW_TRITON_BY says.

    Else, in a task of Airflow (which names itself in its environment), `airflow: DAG_ID RUN_ID TASK_ID`; else `user@host`.
    """
    environment = os.environ if environment is None else environment
    told = given or environment.get(VARIABLE) or _task(environment) or f"{_user()}@{socket.gethostname()}"
    return " ".join(told.split())[:_MOST_CHARACTERS]


def _task(environment: Mapping[str, str]) -> str | None:
    names = [environment.get(f"AIRFLOW_CTX_{key}", "") for key in ("DAG_ID", "DAG_RUN_ID", "TASK_ID")]
    return f"airflow: {' '.join(names)}" if names[0] else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return f"uid {os.getuid()}"
