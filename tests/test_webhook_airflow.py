"""The receiver inside Airflow: a real API server with the provider's plugin, and the receiver alone that starts its DAG runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from typing_extensions import Self
from webhooked import SECRET, MlflowServer, ReceiverProcess, answers, deliver, event, rows, signed, until

from airflow_triton.asked import KEPT_AS, asset_uri, mark_of
from airflow_triton.local_triton import free_port
from airflow_triton.registry import Registry
from airflow_triton.spec import load_spec
from mlflow_plugin.webhooks.register import Webhooks

DAG_FILE = """
from pathlib import Path
from airflow_triton.dag_factory import deployment_dags
globals().update(deployment_dags(Path(__file__).parent / "deployments"))
"""
PASSWORD = "pa55word-of-the-tests"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def mlflow(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server over the tests' store that sends webhooks."""
    with MlflowServer(tracking_uri, tmp_path_factory.mktemp("mlflow-server")) as server:
        yield server


class ApiServer:
    """An Airflow of which nothing runs but the API server: its database has the DAGs, and a run that is made stays queued."""

    def __init__(self, home: Path, tracking_uri: str) -> None:
        self.home = home
        self.journal = home / "triton-webhook.db"
        self.log = home / "api-server.log"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({"admin": PASSWORD}))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        self.environment = {
            **kept,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__API_AUTH__JWT_SECRET": "the-tests-own-secret-of-more-than-64-bytes-so-that-nobody-warns-about-it",
            "MLFLOW_TRACKING_URI": tracking_uri,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }

    def airflow(self, *arguments: str) -> None:
        """Run an `airflow` command."""
        command = [sys.executable, "-m", "airflow", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=240, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def start(self) -> None:
        command = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(self._port)]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)
        try:
            until(lambda: answers(f"{self.url}/api/v2/version"), seconds=240, told=self.log.read_text)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        self.airflow("db", "migrate")
        self.airflow("dags", "reserialize")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def runs(self) -> list[str]:
        """The ids of all DAG runs, in their order."""
        return [run_id for (run_id,) in rows(self.home / "airflow.db", "SELECT run_id FROM dag_run ORDER BY id")]

    def kept(self, name: str) -> str:
        """What the state store of a deployment's asset holds for its watcher."""
        query = "SELECT value FROM asset_state_store s JOIN asset a ON a.id = s.asset_id WHERE s.key = ? AND a.uri = ?"
        ((value,),) = rows(self.home / "airflow.db", query, KEPT_AS, asset_uri(name))
        return str(json.loads(value))

    @property
    def hook(self) -> str:
        """Where it takes deliveries."""
        return f"{self.url}/triton-webhook/mlflow"


@pytest.fixture(scope="module")
def airflow(mlflow: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the DAGs of two specs that follow aliases of `blobs`. Nobody gave it a secret yet."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags" / "deployments").mkdir(parents=True)
    (home / "dags" / "all.py").write_text(DAG_FILE)
    for name in ("one", "two"):
        spec = {"name": name, "model": f"models:/blobs@{name}", "schedule": "registry", "repository": "/nowhere", "servers": ["t"]}
        (home / "dags" / "deployments" / f"{name}.json").write_text(json.dumps(spec))
    with ApiServer(home, mlflow.url) as server:
        yield server


def want(mlflow: MlflowServer, alias: str, version: int) -> None:
    Registry(mlflow.url).client.set_registered_model_alias("blobs", alias, str(version))


def expected(airflow: ApiServer, name: str, version: int, more: str = "") -> str:
    spec = load_spec(airflow.home / "dags" / "deployments" / f"{name}.json")
    return f"registry__{name}__{version}__{spec.digest()[:12]}{more}"


def kept(airflow: ApiServer, name: str, version: int) -> bool:
    spec = load_spec(airflow.home / "dags" / "deployments" / f"{name}.json")
    return airflow.kept(name) == mark_of(version, spec.digest())


def done(airflow: ApiServer, count: int) -> None:
    """Wait until so many deliveries are done."""
    query = "SELECT COUNT(*) FROM deliveries WHERE outcome IS NOT NULL"
    until(lambda: rows(airflow.journal, query) == [(count,)], told=airflow.log.read_text)


def test_without_a_secret_nothing_is_served(airflow: ApiServer) -> None:
    """An Airflow that nobody set up answers 503 and keeps no journal; as soon as its connection has the secret, it serves."""
    body = event(name="blobs", alias="unknown", version="1")
    refused = deliver(airflow.hook, body)
    assert (refused.status_code, "not set up" in refused.text) == (503, True)
    assert not airflow.journal.exists()

    token = requests.post(f"{airflow.url}/auth/token", json={"username": "admin", "password": PASSWORD}, timeout=30).json()["access_token"]
    connection = {"connection_id": "triton_webhook", "conn_type": "generic", "password": SECRET}
    headers = {"authorization": f"Bearer {token}"}
    requests.post(f"{airflow.url}/api/v2/connections", json=connection, headers=headers, timeout=30).raise_for_status()
    until(lambda: deliver(airflow.hook, body).status_code == 200, told=airflow.log.read_text)


def test_webhook_starts_the_dag_run_once(airflow: ApiServer, mlflow: MlflowServer) -> None:
    """An alias in MLflow makes a DAG run; told again, doubled or seen by a receiver that polls, it is the same one; back is a new one.

    A delivery that was accepted before a crash of the API server is taken up by the next one. The watchers are told of each run.
    """
    hooks = Webhooks(mlflow.url)
    hooks.register(airflow.hook, secret=SECRET)
    want(mlflow, "one", 1)
    until(airflow.runs, told=airflow.log.read_text)
    assert airflow.runs() == [expected(airflow, "one", 1)]

    want(mlflow, "one", 1)
    body = event(name="blobs", alias="one", version="1")
    assert deliver(airflow.hook, body, delivery_id="doubled").status_code == 202
    assert deliver(airflow.hook, body, delivery_id="doubled").json()["status"] == "repeated"
    done(airflow, 3)
    assert len(airflow.runs()) == 1
    assert kept(airflow, "one", 1)
    hooks.delete()

    user = {"AIRFLOW_TRITON_API_USERNAME": "admin", "AIRFLOW_TRITON_API_PASSWORD": PASSWORD, "MLFLOW_TRACKING_URI": mlflow.url}
    specs, alone = airflow.home / "dags" / "deployments", airflow.home / "alone.db"
    with ReceiverProcess(specs, "--airflow", airflow.url, "--poll", "0.5", journal=alone, **user) as receiver:
        receiver.wait_for(f"has the run `{expected(airflow, 'one', 1)}` already")
        want(mlflow, "one", 3)
        receiver.wait_for(expected(airflow, "one", 3))
        want(mlflow, "one", 1)
        receiver.wait_for(expected(airflow, "one", 1, "__2"))
        want(mlflow, "two", 1)
        receiver.wait_for(expected(airflow, "two", 1))
        assert PASSWORD not in receiver.told()
    made = [expected(airflow, "one", 1), expected(airflow, "one", 3), expected(airflow, "one", 1, "__2"), expected(airflow, "two", 1)]
    assert airflow.runs() == made
    assert kept(airflow, "one", 1)
    assert kept(airflow, "two", 1)

    with mlflow.mute():
        assert deliver(airflow.hook, event(name="blobs", alias="two", version="3")).status_code == 202
        airflow.kill()
    want(mlflow, "two", 3)
    airflow.start()
    done(airflow, 4)
    assert airflow.runs() == [*made, expected(airflow, "two", 3)]
    assert SECRET not in airflow.log.read_text()


@pytest.mark.parametrize(
    ("signing", "status"),
    [({"secret": "wrong"}, 401), ({"at": 1.0}, 401), ({"body": b"x" * 2_000_000}, 413)],
    ids=["secret", "old", "large"],
)
def test_airflow_refuses_what_is_not_signed(airflow: ApiServer, signing: dict[str, Any], status: int) -> None:
    """The signature is the authentication: Airflow itself asks for nothing here."""
    body = signing.pop("body", event(name="blobs", alias="one", version="1"))
    before = airflow.runs()

    answer = requests.post(airflow.hook, data=body, headers=signed(body, **signing), timeout=30)

    assert (answer.status_code, airflow.runs()) == (status, before)
