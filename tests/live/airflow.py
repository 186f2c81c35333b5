"""Airflow's components as processes, and its API as a client."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from airflow_triton.local_triton.ports import ADDRESS, free_ports
from live.process import BIN, Process, clean_environment, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

READING_SECONDS = 3.0
"""So long a person reads what a task asks."""
ENDED = ("success", "failed")


class Airflow:
    """API server, scheduler, DAG processor and triggerer, each a process. As a context manager they run together.

    `database` is what `sql_alchemy_conn` is to be; `settings` go on top of the environment that they share. Everyone is admin.
    """

    def __init__(self, home: Path, dags: Path, database: str, settings: Mapping[str, str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        port, health, worker_log, trigger_log = free_ports(4)
        self.url = f"http://{ADDRESS}:{port}"
        self._health = f"http://{ADDRESS}:{health}/health"
        self.environment = clean_environment(
            {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
                "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
                "AIRFLOW__CORE__FERNET_KEY": "",
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__CORE__PARALLELISM": "4",
                "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
                "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
                "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log),
                "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_log),
                "AIRFLOW__API__BASE_URL": self.url,
                "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
                "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
                "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "True",
                "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(health),
                **settings,
            }
        )
        commands = {
            "api-server": ["--host", ADDRESS, "--port", str(port), "--workers", "1"],
            "scheduler": [],
            "dag-processor": [],
            "triggerer": [],
        }
        self.components = {
            name: Process(
                name,
                [str(BIN / "airflow"), name, *arguments],
                environment=self.environment,
                folder=home,
                ready={"api-server": self._answers, "scheduler": self._schedules}.get(name, self._has_job(name)),
            )
            for name, arguments in commands.items()
        }
        self.api = AirflowApi(self.url)

    def migrate(self) -> None:
        """Make the database's tables."""
        self.run("db", "migrate")

    def run(self, *arguments: str) -> str:
        """Run one `airflow` command; what it printed."""
        done = subprocess.run(
            [str(BIN / "airflow"), *arguments], env=self.environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, f"airflow {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def start(self) -> None:
        """All components at once, the API server first to be asked."""
        try:
            for component in self.components.values():
                component.launch()
            for component in self.components.values():
                component.await_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """In the opposite order, so that nobody waits for an API that is gone."""
        for component in reversed(self.components.values()):
            component.stop()

    def kill(self) -> None:
        """All at once."""
        for component in self.components.values():
            component.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/api/v2/version", timeout=5).is_success
        return False

    def _schedules(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self._health, timeout=5).is_success
        return False

    def _has_job(self, name: str) -> Any:
        key = name.replace("-", "_")

        def look() -> bool:
            process, began = self.components[name], time.time()
            with contextlib.suppress(httpx.HTTPError, KeyError, TypeError):
                seen = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()[key]
                return bool(seen["status"] == "healthy" and process.running and _since(seen) > began - 30)
            return False

        return look


def _since(seen: dict[str, Any]) -> float:
    from datetime import datetime

    heartbeat = next(value for name, value in seen.items() if name.startswith("latest_"))
    return datetime.fromisoformat(heartbeat).timestamp()


class AirflowApi:
    """What the tests ask of Airflow's public API (`/api/v2`)."""

    def __init__(self, url: str, *, user: str | None = None, password: str | None = None) -> None:
        self.url = url
        self._login = {"username": user, "password": password} if user else None
        self._headers: dict[str, str] = {}

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The answer of one request, as JSON; it logs in on the first one. Raises httpx.HTTPStatusError with Airflow's words."""
        if not self._headers:
            login = httpx.post if self._login else httpx.get
            token = login(f"{self.url}/auth/token", **({"json": self._login} if self._login else {}), timeout=30)
            token.raise_for_status()
            self._headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
        answer = httpx.request(method, f"{self.url}/api/v2{path}", headers=self._headers, timeout=30, **options)
        if answer.is_error:
            raise httpx.HTTPStatusError(f"{answer.status_code} {path}: {answer.text}", request=answer.request, response=answer)
        return answer.json() if answer.content else None

    def await_dag(self, dag_id: str, *, timeout: float = 90.0) -> None:
        """Wait until the DAG is known, and unpause it."""

        def known() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return bool(self.ask("PATCH", f"/dags/{dag_id}", json={"is_paused": False}))
            return False

        wait_for(f"the DAG {dag_id}", known, timeout=timeout)

    def trigger(self, dag_id: str, **conf: Any) -> str:
        """Start a run by hand; its id."""
        return str(self.ask("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs of a DAG, oldest first."""
        return list(self.ask("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "id", "limit": 100})["dag_runs"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run."""
        return dict(self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """The state of each task of a run."""
        found = self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def await_end(self, dag_id: str, run_id: str, *, timeout: float = 300.0) -> str:
        """Wait until a run has ended; its state."""

        def ended() -> str:
            with contextlib.suppress(httpx.TransportError):
                state = str(self.run(dag_id, run_id)["state"])
                return state if state in ENDED else ""
            return ""

        try:
            return wait_for(f"the end of {dag_id} {run_id}", ended, timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.tasks(dag_id, run_id)}") from None

    def await_task(self, dag_id: str, run_id: str, task_id: str, *states: str, timeout: float = 400.0) -> str:
        """Wait until a task is in one of these states; which."""

        def there() -> str:
            with contextlib.suppress(httpx.TransportError):
                state = self.tasks(dag_id, run_id).get(task_id) or ""
                return state if state in states else ""
            return ""

        return wait_for(f"{task_id} of {dag_id} in {states}", there, timeout=timeout)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task pushed."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.ask("GET", path, params={"deserialize": "true"})["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        """What a task's log says."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        content = self.ask("GET", path, params={"full_content": "true"})["content"]
        return "\n".join(str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in content)

    def answer(self, dag_id: str, run_id: str, task_id: str, choice: str, *, timeout: float = 400.0) -> None:
        """Answer what a task asks a person, who takes some seconds to read it; again where it asks again.

        It does after a kill; and where the answer came before the scheduler had heard that the task waits: Airflow 3.3 then takes the
        task for one that failed.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        seen: list[float] = []

        def taken() -> bool:
            with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):
                state = self.tasks(dag_id, run_id).get(task_id)
                if state != "awaiting_input":
                    seen.clear()
                    return state in ("success", "skipped", "upstream_failed", "failed")
                seen.append(time.monotonic())
                if seen[-1] - seen[0] > READING_SECONDS:
                    self.ask("PATCH", path, json={"chosen_options": [choice], "params_input": {}})
            return False

        wait_for(f"{choice} of {task_id}", taken, timeout=timeout)
