"""A thousand deferred waits in one real `airflow triggerer` (SQLite): its memory, its threads, and how late the last wait ends.

The waits are put into Airflow's database as sensors that were deferred; scheduler and workers are not started, so that only the triggerer
is measured. Beside ours, as many of Airflow's own triggers wait for local files: what a triggerer costs that asks nobody anything.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from airflow_triton.local_triton import LocalTriton
from airflow_triton.server import ServerAddress, TritonClient

WAITS = int(os.environ.get("AIRFLOW_TRITON_BENCH_WAITS", "1000"))
MODELS = 10
POLL_SECONDS = 5.0
SETTLED = 0.5
BIN = Path(sys.executable).parent
DAG_FILE = f"""
from airflow.sdk import DAG, BaseOperator
with DAG("waits", schedule=None):
    for number in range({WAITS}):
        BaseOperator(task_id=f"w{{number}}")
"""
DEFER = """
import json, sys
from airflow._shared.module_loading import import_string
from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.dagrun import DagRun
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select
path, each = json.loads(sys.argv[1])
trigger_dag("waits", triggered_by=DagRunTriggeredByType.CLI)
with create_session() as session:
    tasks = session.scalar(select(DagRun)).get_task_instances(session=session)
    for number, task in enumerate(tasks):
        arguments = each[number % len(each)]
        row = Trigger.from_object(import_string(path)(**arguments))
        session.add(row)
        session.flush()
        task.trigger_id, task.state, task.next_method = row.id, TaskInstanceState.DEFERRED, "resume"
"""


class Bench:
    """An Airflow with a database of its own for each kind of wait, made from one template."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "dags").mkdir(parents=True)
        (folder / "dags" / "waits.py").write_text(DAG_FILE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MLFLOW", "TRITON"))}
        self.environment = {
            **kept,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": str(WAITS),  # 50 at a time would take minutes to begin
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.database = folder / "airflow.db"
        self._airflow("db", "migrate")
        self._airflow("dags", "reserialize")
        shutil.copy(self.database, folder / "template.db")

    def _airflow(self, *arguments: str) -> None:
        subprocess.run([BIN / "airflow", *arguments], env=self.environment, check=True, capture_output=True)

    def rows(self, query: str) -> list[Any]:
        """What the database answers."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)) as connection:
            return connection.execute(query).fetchall()

    def defer(self, path: str, each: list[dict[str, Any]]) -> None:
        """Put the waits into a new database."""
        for file in self.folder.glob("airflow.db*"):
            file.unlink()
        shutil.copy(self.folder / "template.db", self.database)
        subprocess.run([sys.executable, "-c", DEFER, json.dumps([path, each])], env=self.environment, check=True, capture_output=True)

    @contextmanager
    def triggerer(self) -> Iterator[psutil.Process]:
        """The triggerer, once it has taken all waits and has come to rest."""
        command: list[str | Path] = [BIN / "airflow", "triggerer", "--skip-serve-logs", "--capacity", str(WAITS + 10)]
        with (self.folder / "triggerer.log").open("w") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            until(lambda: self.rows("SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL")[0][0] == WAITS, process)
            found = psutil.Process(process.pid)
            until(lambda: busy(found) < SETTLED, process)  # all of them run
            yield found
        finally:
            process.terminate()
            process.wait(60)


def busy(process: psutil.Process) -> float:
    """The share of a processor that a process and its children take, over some intervals."""
    family = [process, *process.children(recursive=True)]
    cpu, started = sum(sum(one.cpu_times()[:2]) for one in family), time.monotonic()
    time.sleep(2 * POLL_SECONDS)
    return float(sum(sum(one.cpu_times()[:2]) for one in family) - cpu) / (time.monotonic() - started)


def until(true: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Return as soon as it is; ten minutes at most."""
    end = time.monotonic() + 600
    while not true():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            raise RuntimeError("the triggerer has ended, or did not come to it in ten minutes")
        time.sleep(0.2)


def measured(bench: Bench, what: str, path: str, each: list[dict[str, Any]], happens: Callable[[], float]) -> None:
    """Let the waits of one kind wait, let happen what they wait for (`happens` answers when it did), and print a line of the table."""
    bench.defer(path, each)
    with bench.triggerer() as process:
        family = [process, *process.children(recursive=True)]
        memory = sum(one.memory_full_info().uss for one in family) / 2**20
        threads = sum(one.num_threads() for one in family)
        share = busy(process)
        happened = happens()
        until(lambda: not bench.rows("SELECT 1 FROM task_instance WHERE state = 'deferred' LIMIT 1"))
        ends = [
            datetime.fromisoformat(row[0]).replace(tzinfo=timezone.utc).timestamp()
            for row in bench.rows("SELECT updated_at FROM task_instance")
        ]
    print(f"| {what} | {memory:.0f} | {threads} | {100 * share:.0f} | {max(ends) - happened:.1f} |", flush=True)


def of_registry(bench: Bench, uri: str) -> None:
    """Waits for an alias of ten models, all of one registry."""
    client = MlflowClient(uri, uri)
    for number in range(MODELS):
        client.create_registered_model(f"m{number}")
        client.create_model_version(f"m{number}", "/nowhere")

    def happens() -> float:
        for number in range(MODELS):
            client.set_registered_model_alias(f"m{number}", "champion", "1")
        return time.time()

    each = [{"model": f"m{number}", "alias": "champion", "tracking_uri": uri, "poll_interval": POLL_SECONDS} for number in range(MODELS)]
    measured(bench, "`ModelVersionTrigger`, one registry", "airflow_triton.triggers.registry.ModelVersionTrigger", each, happens)


def of_triton(bench: Bench, folder: Path) -> None:
    """Waits for ten models on one server."""
    for number in range(MODELS):
        (folder / f"m{number}" / "1").mkdir(parents=True)
        (folder / f"m{number}" / "1" / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests): ...\n")
        (folder / f"m{number}" / "config.pbtxt").write_text(
            'backend: "python" input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }'
        )
    with (
        LocalTriton(folder, extra_args=["--disable-auto-complete-config"]) as server,
        TritonClient(ServerAddress.parse(server.grpc_url)) as client,
    ):

        def happens() -> float:
            for number in range(MODELS):
                client.load(f"m{number}")
            return time.time()

        each = [
            {"model": f"m{number}", "version": 1, "servers": [server.http_url], "poll_interval": POLL_SECONDS} for number in range(MODELS)
        ]
        measured(bench, "`ModelReadyTrigger`, one server", "airflow_triton.triggers.ready.ModelReadyTrigger", each, happens)


def of_airflow(bench: Bench, folder: Path) -> None:
    """Waits of Airflow's own, each for one of ten files."""

    def happens() -> float:
        for number in range(MODELS):
            (folder / f"file{number}").touch()
        return time.time()

    each = [{"filepath": str(folder / f"file{number}"), "poke_interval": POLL_SECONDS} for number in range(MODELS)]
    measured(bench, "Airflow's `FileTrigger`, local files", "airflow.providers.standard.triggers.file.FileTrigger", each, happens)


def main() -> None:
    """Measure, and print a table in Markdown."""
    print(f"## {WAITS} deferred waits in one triggerer\n")
    print(
        f"Each look every {POLL_SECONDS:g} s; what is waited for happens at once for all. Late: until the event is in Airflow's database.\n"
    )
    print("| waits | memory (MiB) | threads | CPU while waiting (%) | last one late (s) |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder / "airflow")
        of_airflow(bench, folder)
        of_registry(bench, f"sqlite:///{folder}/mlflow.db")
        of_triton(bench, folder / "models")


if __name__ == "__main__":
    main()
