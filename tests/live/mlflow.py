"""An MLflow server as a process."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import httpx

from airflow_triton.local_triton.ports import ADDRESS, free_port
from live.process import BIN, Process, clean_environment


class MLflow(Process):
    """`mlflow server` over a database and an artifact store; it may send webhooks to this machine, with no delay after a change of them."""

    def __init__(self, folder: Path, *, database: str, artifacts: str, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://{ADDRESS}:{self.port}"
        command = [str(BIN / "mlflow"), "server", f"--host={ADDRESS}", f"--port={self.port}", "--workers=1"]
        command += [f"--backend-store-uri={database}", f"--artifacts-destination={artifacts}"]
        private = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_CACHE_TTL": "0",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        super().__init__("mlflow", command, environment=clean_environment({**private, **settings}), folder=folder, ready=self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        return False
