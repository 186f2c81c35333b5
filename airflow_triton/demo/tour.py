"""The tour itself, step by step, in front of the newcomer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from airflow_triton.console import Progress, say, show
from airflow_triton.demo.clients import Clients
from airflow_triton.demo.dag_runs import DagRuns
from airflow_triton.demo.models import NAME, train_and_register
from airflow_triton.errors import DeployError
from airflow_triton.local_triton import LocalTriton, install
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository
from airflow_triton.rollout import rollback
from airflow_triton.rollout.serving import Servers
from airflow_triton.server import ServerAddress

DAG_ID = f"deploy_{NAME}"


def run_demo(*, keep: bool = False, folder: Path | None = None, as_json: bool = False) -> int:
    """Show the main job; answer 0 if everything came as it should, 1 otherwise.

    Everything lies below `folder`, or below a temporary one that is removed at the end (unless `keep`, which holds the server
    up until Ctrl-C).
    """
    home = folder.absolute() if folder else Path(tempfile.mkdtemp(prefix="airflow-triton-demo-"))
    if folder and home.exists() and any(home.iterdir()):
        raise DeployError(f"{home} is not empty: the demo wants a folder of its own")
    home.mkdir(parents=True, exist_ok=True)
    try:
        return Tour(home, keep=keep, as_json=as_json).run()
    finally:
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)


class Tour:
    """One run of the tour below one folder."""

    def __init__(self, home: Path, *, keep: bool, as_json: bool) -> None:
        self.home = home
        self.keep = keep
        self.as_json = as_json
        self.progress = Progress()
        self.tracking_uri = f"sqlite:///{home}/mlflow.db"
        self.repository = home / "repository"
        self.dags = home / "dags"
        self.problems: list[str] = []
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """A heading, and the seconds that what it announces took."""
        say.print(f"\n[bold]{title}[/]")
        started = time.monotonic()
        yield
        self.seconds[title] = round(time.monotonic() - started, 1)

    def expect(self, what: str, *, came: object, wanted: object) -> None:
        """Say what came; note it where it is not what was wanted."""
        if came == wanted:
            say.print(f"[green]✓[/] {what}")
        else:
            self.problems.append(f"{what}: {came}, expected {wanted}")
            say.print(f"[red]✗[/] {what}: {came}, expected {wanted}")

    def run(self) -> int:
        """All chapters."""
        _quiet()
        os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        shutil.copytree(_dags_folder(), self.dags, ignore=shutil.ignore_patterns("__pycache__"))
        with self.chapter("The local Triton: the real tritonserver, from its wheel"):
            install(progress=self.progress)
            server = LocalTriton(self.repository, progress=self.progress)
            server.start()
            self.progress(f"live at {server.http_url} and {server.grpc_url}, EXPLICIT mode")
        settings = {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TRITON_MODEL_REPO": str(self.repository),
            "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": server.grpc_url}),
        }
        try:
            with DagRuns(self.home / "airflow", self.dags, settings, self.progress) as airflow:
                with self.chapter("MLflow: two good models and a bad one, registered as versions of one model"):
                    row = train_and_register(
                        self.tracking_uri, self.home / "artifacts", self.dags / "deployments" / "digits-holdout.csv", self.progress
                    )
                clients = self.deploy_all(server, airflow, row)
            return self.close(server, row, clients)
        finally:
            server.stop()

    def deploy_all(self, server: LocalTriton, airflow: DagRuns, row: list[float]) -> Clients:
        """Each version through the DAG, then back and forward, under the requests of clients from the first promotion on."""
        import numpy as np

        address = ServerAddress.parse(server.grpc_url)
        self.deploy(airflow, 1, state="success")
        with Clients(address, NAME, {"input": np.array([row], dtype=np.float32)}) as clients:
            say.print(f"from here on, {clients.count} clients ask `{NAME}` without pause")
            self.deploy(airflow, 2, state="failed")
            with Servers.connected([address]) as servers:
                self.expect("version 1 goes on serving", came=servers.clients[0].ready_versions(NAME), wanted=(1,))
            self.deploy(airflow, 3, state="success")
            with self.chapter("Back to version 1, and forward again"):
                self.roll(address, 1)
                self.roll(address, 3)
        failed = len(clients.errors)
        self.expect(f"{clients.answered + failed:,} requests of {clients.count} clients meanwhile, {failed} failed", came=failed, wanted=0)
        return clients

    def deploy(self, airflow: DagRuns, version: int, *, state: str) -> None:
        """Let `challenger` be this version and run the DAG."""
        with self.chapter(f"Airflow: the DAG `{DAG_ID}` for version {version}"):
            Registry(self.tracking_uri).set_alias(NAME, "challenger", version)
            came = airflow.run(DAG_ID)
        report = came["report"] or {"checks": [], "passed": False}
        why = "; ".join(check["summary"] for check in report["checks"] if check["passed"] == report["passed"])
        verdict = "promoted" if came["state"] == "success" else "not promoted"
        self.expect(f"version {version} was {verdict}: {why}", came=came["state"], wanted=state)

    def roll(self, address: ServerAddress, version: int) -> None:
        """Roll to this version, and look what serves."""
        started = time.monotonic()
        with Servers.connected([address]) as servers:
            outcome = rollback(
                NAME, store=LocalRepository(self.repository), servers=servers, registry=Registry(self.tracking_uri), to=version
            )
            took = time.monotonic() - started
            ready = servers.clients[0].ready_versions(NAME)
        self.expect(f"{outcome.summary}, after {took:.1f} s", came=ready, wanted=(version,))

    def close(self, server: LocalTriton, row: list[float], clients: Clients) -> int:
        """The table, the line to paste, and the server held up where that was asked for."""
        request = self.home / "request.json"
        tensor = {"name": "input", "shape": [1, len(row)], "datatype": "FP32", "data": row}
        request.write_text(json.dumps({"inputs": [tensor]}))
        curl = f"curl -s {server.http_url}/v2/models/{NAME}/infer -d @{request}"
        rows = self.versions(server)
        data = {
            "versions": rows,
            "requests": clients.answered,
            "failed_requests": len(clients.errors),
            "seconds": self.seconds,
            "curl": curl,
            "problems": self.problems,
        }
        say.print()
        show(data, lambda: _table(rows), as_json=self.as_json)
        if self.keep:
            say.print(f"\nThe server is up until Ctrl-C. Ask it:\n\n  {curl}\n", markup=False)
            with contextlib.suppress(KeyboardInterrupt):
                server.wait()
        else:
            say.print("\n`make demo KEEP=1` holds the server up and prints a curl line to paste.", markup=False)
        return 1 if self.problems else 0

    def versions(self, server: LocalTriton) -> list[dict[str, Any]]:
        """What MLflow says of each version, and what the server has ready."""
        registry = Registry(self.tracking_uri)
        with Servers.connected([ServerAddress.parse(server.grpc_url)]) as servers:
            ready = servers.clients[0].ready_versions(NAME)
        rows = []
        for version in (1, 2, 3):
            tags = registry.tags(NAME, version)
            verdict, why = tags.get(f"triton.{NAME}.verdict", "none"), tags.get(f"triton.{NAME}.why", "")
            rows.append({"name": NAME, "version": version, "serves": version in ready, "verdict": verdict, "why": why})
        return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("name", "MLflow version", "serves", "last verdict, and why")
    for row in rows:
        table.add_row(row["name"], str(row["version"]), "yes" if row["serves"] else "no", row["why"] or row["verdict"])
    return table


def _dags_folder() -> Path:
    """The DAGs of the repository: packed into the wheel, or beside the package in a checkout."""
    packed = Path(__file__).parent / "dags"
    return packed if packed.exists() else Path(__file__).parents[2] / "dags"


def _quiet() -> None:
    """Keep the libraries' own chatter out of the tour."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
