"""What the tests of webhooks share: a real MLflow server that sends them, receivers in processes of their own, and signed deliveries."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from cryptography.fernet import Fernet
from typing_extensions import Self

from airflow_triton.local_triton import free_port
from mlflow_plugin.webhooks.check import SECRET_VARIABLE, signature

SECRET = "s3cr3t-of-the-tests"
SCRIPT = Path(sys.executable).parent / "airflow-triton"


def until(true: Callable[[], Any], *, seconds: float = 60.0, told: Callable[[], str] = str) -> Any:
    """Ask until the answer is true, and answer it."""
    deadline = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)
    return answer


def answers(url: str) -> bool:
    """Whether something answers there with 200."""
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


class MlflowServer:
    """An `mlflow server`, its URL, and a way to make it mute."""

    def __init__(self, store: str, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"mlflow-{self.port}.log"
        self._store = store
        self._settings = {
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "MLFLOW_WEBHOOK_CACHE_TTL": "0",
            **settings,
        }

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._store, "--port", str(self.port), "--workers", "1"]
        with self.log.open("w") as log:
            environment = {key: value for key, value in {**os.environ, **self._settings}.items() if value}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            until(lambda: answers(f"{self.url}/health"), seconds=240, told=self.log.read_text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @contextlib.contextmanager
    def mute(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)


class ReceiverProcess:
    """`airflow-triton webhook serve`, as a shell starts it."""

    def __init__(self, specs: Path, *options: str, journal: Path, **settings: str) -> None:
        self.journal = journal
        self.lines: list[str] = []
        environment = {
            **os.environ,
            SECRET_VARIABLE: SECRET,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            **settings,
        }
        command = [SCRIPT, "webhook", "serve", "--specs", specs, "--port", "0", "--journal", journal, "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        threading.Thread(target=self._read, daemon=True).start()
        assert self.process.stdout is not None
        told = "".join(iter(self.process.stdout.readline, "}\n"))
        assert self.process.poll() is None, self.told()
        self.url = json.loads(f"{told}}}")["url"]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def told(self) -> str:
        """What it said so far."""
        return "".join(self.lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def wait_for(self, text: str, *, count: int = 1, seconds: float = 60.0) -> None:
        """Wait until it said this, so many times."""
        until(lambda: self.told().count(text) >= count, seconds=seconds, told=self.told)

    def rows(self, query: str) -> list[Any]:
        """What the journal has."""
        return rows(self.journal, query)


def rows(database: Path, query: str, *values: str) -> list[Any]:
    """What a journal, or another database of SQLite, has."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query, values).fetchall()


def event(entity: str = "model_version_alias", action: str = "created", **data: Any) -> bytes:
    """A body as MLflow writes it."""
    told = {"entity": entity, "action": action, "timestamp": "2026-11-22T10:57:56.816266+00:00", "data": data}
    return json.dumps(told).encode()


def signed(body: bytes, *, secret: str = SECRET, delivery_id: str | None = None, at: float | None = None) -> dict[str, str]:
    """The headers that MLflow would send with a body."""
    delivery_id, timestamp = delivery_id or str(uuid.uuid4()), str(int(time.time() if at is None else at))
    return {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": signature(secret, delivery_id, timestamp, body),
    }


def deliver(url: str, body: bytes, **options: Any) -> requests.Response:
    """Send a signed delivery, past MLflow."""
    return requests.post(url, data=body, headers=signed(body, **options), timeout=30)
