"""How the receiver inside Airflow is set up: the section `triton_webhook` of Airflow's configuration, and its secret."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_triton.errors import SpecError
from airflow_triton.plugins.dag_runs import OwnAirflow
from mlflow_plugin.webhooks.app import make_app
from mlflow_plugin.webhooks.check import SECRET_VARIABLE
from mlflow_plugin.webhooks.dag_runs import DagStarter
from mlflow_plugin.webhooks.journal import Journal
from mlflow_plugin.webhooks.receiver import Receiver
from mlflow_plugin.webhooks.specs import SpecFolder

if TYPE_CHECKING:
    from fastapi import FastAPI

CONNECTION = "triton_webhook"
_SECTION = "triton_webhook"
_SECRET_SECONDS = 60.0

_log = logging.getLogger("airflow_triton.webhook")


def set_up() -> tuple[FastAPI, Receiver]:
    """The application and the receiver behind it, which has not begun yet.

    `specs` of the section is the folder of the specs (default: `deployments` in the DAGs folder), `journal` the file of what was accepted
    (default: `triton-webhook.db` in AIRFLOW_HOME).

    Raises:
        SpecError: there is no secret, or no such folder.
        DeployError: the journal cannot be opened.

    """
    from airflow.configuration import AIRFLOW_HOME, conf

    secret = Secret()
    secret()
    folder = Path(conf.get(_SECTION, "specs", fallback="") or Path(conf.get("core", "dags_folder")) / "deployments")
    if not folder.is_dir():
        raise SpecError(f"{folder} is no folder: name the one with the specs in Airflow's configuration, [{_SECTION}] specs")
    journal = Journal(Path(conf.get(_SECTION, "journal", fallback="") or Path(AIRFLOW_HOME) / "triton-webhook.db"))
    starter = DagStarter(OwnAirflow())
    receiver = Receiver(specs=SpecFolder(folder, _tell), journal=journal, starter=starter, tell=_tell)
    return make_app(receiver, secret=secret), receiver


class Secret:
    """The secret: of the environment, else the password of the connection `triton_webhook`, which is read again every minute."""

    def __init__(self) -> None:
        self._fixed = os.environ.get(SECRET_VARIABLE, "").strip()
        self._lock = threading.Lock()
        self._found = self._fixed
        self._looked = float("-inf")

    def __call__(self) -> str:
        """The secret; SpecError where there is none."""
        if self._fixed:
            return self._fixed
        with self._lock:
            if time.monotonic() - self._looked >= _SECRET_SECONDS:
                self._found = _password()
                self._looked = time.monotonic()
            return self._found


def _password() -> str:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        password = BaseHook.get_connection(CONNECTION).password or ""
    except AirflowNotFoundException:
        password = ""
    if not password.strip():
        raise SpecError(
            f"no secret: set {SECRET_VARIABLE} in the API server's environment, or the password of the connection `{CONNECTION}`"
        )
    return password.strip()


def _tell(line: str) -> None:
    level = logging.WARNING if line.startswith("warning: ") else logging.INFO
    _log.log(level, "%s", line.removeprefix("warning: "))
