"""Airflow, in a process of its own: it runs a DAG each time it is told to, through `DAG.test()`: real operators, real XCom.

The child (`python -m airflow_triton.demo.dag_runs`) reads a line of JSON with the DAG's id and the run's configuration, and answers a
line of JSON. Its log goes to a file; the lines in which the operators say what they do are handed on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from typing_extensions import Self

from airflow_triton.errors import DeployError

_TOLD = re.compile(r"\] (?P<line>(?:resolve|convert|configure|stage|validate|promote|clean up|warning): .*?)\s+\[airflow\.task")


class DagRuns:
    """An Airflow with a database and a DAG folder of its own. Use as a context manager; it is made ready in the background."""

    def __init__(self, home: Path, dags: Path, settings: Mapping[str, str], progress: Callable[[str], None]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "dag-runs.log"
        # Nothing of an Airflow that the user may have: its database is not ours to write to.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        self._environment = {
            **inherited,
            **settings,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        self._progress = progress
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "airflow_triton.demo.dag_runs"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _read_log(self, stream: IO[str]) -> None:
        with self.log.open("w") as file:
            for line in stream:
                file.write(line)
                file.flush()
                if told := _TOLD.search(line):
                    self._progress(told["line"])

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which another process works with this Airflow's database."""
        return dict(self._environment)

    def run(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run the DAG once; answer its `state`, the `tasks` with their states, and the `report` of its validation.

        And its `run_id`, the `answers` of its tasks (what they return), and the asset `events` that it made: `uri` and `extra`. `conf` is
        the run's configuration, with which its params are set.

        Raises:
            DeployError: Airflow ended; its log tells why.

        """
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018
        try:
            self._process.stdin.write(json.dumps({"dag_id": dag_id, "conf": dict(conf or {})}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise DeployError(f"Airflow ended; its log is {self.log}") from None
        line = self._process.stdout.readline()
        if not line:
            raise DeployError(f"Airflow ended while it ran `{dag_id}`; its log is {self.log}")
        return dict(json.loads(line))


def _serve(answers: IO[str]) -> None:
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, stdout=sys.stderr)
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    for line in sys.stdin:
        wanted = json.loads(line)
        run = bag.dags[wanted["dag_id"]].test(run_conf=wanted["conf"])
        answers.write(json.dumps(_told(run), default=str) + "\n")
        answers.flush()


def _told(run: Any) -> dict[str, Any]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    tasks = sorted(run.get_task_instances(), key=lambda task: (task.task_id, task.map_index))
    names = {task: task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]" for task in tasks}

    def pushed(task: Any, key: str) -> Any:
        return task.xcom_pull(task_ids=task.task_id, key=key, map_indexes=task.map_index)

    with create_session() as session:
        found = session.query(AssetEvent).filter(AssetEvent.source_run_id == run.run_id).order_by(AssetEvent.id)
        events = [{"uri": event.uri, "extra": event.extra} for event in found]
    return {
        "state": str(run.state),
        "run_id": run.run_id,
        "tasks": {names[task]: str(task.state) for task in tasks},
        "report": next(filter(None, (pushed(task, "report") for task in tasks)), None),
        "answers": {names[task]: pushed(task, "return_value") for task in tasks},
        "events": events,
    }


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as own_stdout:
        os.dup2(2, 1)  # whatever Airflow prints is log
        _serve(own_stdout)
