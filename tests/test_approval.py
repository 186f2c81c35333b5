"""A person's approval between the validation and the promotion: given through Airflow's own API, or refused; never skipped."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException

from airflow_triton.cli import main
from airflow_triton.demo.dag_runs import DagRuns
from airflow_triton.errors import SpecError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.registry import Registry
from airflow_triton.repository import LocalRepository, releases
from airflow_triton.rollout import deploy, find_target, history, opened
from airflow_triton.spec import spec_from_mapping
from mlflow_plugin.deployments import TritonDeploymentClient

Make = Callable[..., dict[str, Any]]
WAITS = "Waiting for Human-in-the-loop input"
"""What `DAG.test` logs, every second."""


class Approver:
    """Airflow's API server beside `runs`, and a person, `ada`, who answers what waits there."""

    def __init__(self, runs: DagRuns, home: Path) -> None:
        self.port = free_port()
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({"ada": "countess"}))
        self.environment = {
            **runs.environment,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        }
        self.runs_log = runs.log
        self.log = (home / "api-server.log").open("w")
        self.process: subprocess.Popen[bytes] | None = None
        self.token = ""
        self.seen: list[dict[str, Any]] = []

    def start(self) -> None:
        """Start the server, unless it runs: it ends where the database is not made yet."""
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-m", "airflow", "api-server", "--port", str(self.port), "--workers", "1", "--host", "127.0.0.1"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log)

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
        self.log.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request to Airflow's API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {self.token}"} if self.token else {})}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())

    def answer(self, option: str, comment: str) -> None:
        """Wait until a task asks and `DAG.test` waits for the answer, which an earlier one would be lost for; and answer it."""
        while not self.token:
            self.start()
            try:
                self.token = self.ask("POST", "/auth/token", {"username": "ada", "password": "countess"})["access_token"]
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        told = self.runs_log.read_text().count(WAITS)
        while self.runs_log.read_text().count(WAITS) == told:
            time.sleep(0.2)
        waiting = self.ask("GET", "/api/v2/dags/~/dagRuns/~/hitlDetails?response_received=false")["hitl_details"]
        self.seen.append(waiting[0])
        task = waiting[0]["task_instance"]
        where = f"/api/v2/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/{task['map_index']}"
        self.ask("PATCH", f"{where}/hitlDetails", {"chosen_options": [option], "params_input": {"comment": comment}})


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, triton: LocalTriton, tracking_uri: str, holdout: Path) -> Iterator[DagRuns]:
    """An Airflow whose DAG folder has the spec of `blobs`, with `promote.approval`."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags" / "deployments").mkdir(parents=True)
    (home / "dags" / "all.py").write_text((Path(__file__).parents[1] / "dags" / "deployments.py").read_text())
    spec = {
        "name": "blobs",
        "model": "models:/blobs@challenger",
        "servers": ["triton_default"],
        "validate": {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}},
        "promote": {"alias": "champion", "approval": True},
    }
    (home / "dags" / "deployments" / "blobs.yaml").write_text(json.dumps(spec))
    settings = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "TRITON_MODEL_REPO": str(triton.repository),
        "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": triton.http_url}),
    }
    with DagRuns(home, home / "dags", settings, print) as runs:
        yield runs


@pytest.fixture(scope="module")
def approver(airflow: DagRuns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Approver]:
    found = Approver(airflow, tmp_path_factory.mktemp("api"))
    yield found
    found.close()


def test_a_person_refuses_and_approves(airflow: DagRuns, approver: Approver, repository: LocalRepository, tracking_uri: str) -> None:
    """A refusal leaves nothing and is recorded with its name; an approval promotes, and the history says whose it was."""
    registry = Registry(tracking_uri)

    def run(version: int, option: str, comment: str) -> dict[str, Any]:
        registry.set_alias("blobs", "challenger", version)
        person = threading.Thread(target=approver.answer, args=(option, comment))
        person.start()
        came = airflow.run("deploy_blobs")
        person.join(60)
        return came

    came = run(3, "Reject", "not on a Friday")
    assert (came["state"], came["tasks"]["approve"], came["tasks"]["promote"], came["tasks"]["clean_up"]) == (
        "success",
        "success",
        "skipped",
        "success",
    )
    assert {key: came["answers"]["approve"][key] for key in ("approved", "by", "comment")} == {
        "approved": False,
        "by": "ada",
        "comment": "not on a Friday",
    }
    assert approver.seen[0]["subject"] == "Let models:/blobs/3 serve as `blobs`?"
    assert "accuracy" in approver.seen[0]["body"]
    assert "report.html" in approver.seen[0]["body"]
    assert (releases(repository, "blobs"), repository.candidates("blobs"), came["events"]) == ([], [], [])
    told = history("blobs", repository, registry, model="models:/blobs@challenger")
    assert (told[0].how, told[0].by, told[0].verdict) == ("refused", "ada", "refused: by ada: not on a Friday")

    came = run(1, "Approve", "")
    assert (came["state"], came["answers"]["promote"]["action"]) == ("success", "promoted")
    assert [event["uri"] for event in came["events"]] == ["triton://models/blobs"]
    released = history("blobs", repository, registry)[0]
    assert released.by is not None
    assert released.by.startswith(f"approved by ada; airflow: deploy_blobs {came['run_id']} promote")

    came = airflow.run("deploy_blobs")
    assert set(came["tasks"].values()) == {"skipped"}


def test_what_does_not_ask_refuses_before_anything_is_staged(
    mapping: Make, repository: LocalRepository, tmp_path: Path, tracking_uri: str
) -> None:
    """The command line, MLflow's and the core promote no spec that wants a person, unless one says so."""
    content = mapping(1, promote={"alias": "champion", "approval": True})
    spec = spec_from_mapping(content)
    with opened(spec, find_target(spec)) as rollout, pytest.raises(SpecError, match=r"only with a person's approval .*apply --approve"):
        deploy(rollout)
    assert "blobs" not in repository.models()
    assert repository.servables("blobs") == []

    file = tmp_path / "blobs.json"
    file.write_text(json.dumps(content))
    refused = CliRunner().invoke(main, ["apply", str(file)])
    assert (refused.exit_code, repository.models()) == (2, [])
    settings = {"spec": str(file)}
    with pytest.raises(MlflowException, match=r"SpecError: `blobs` is promoted only with a person's approval"):
        TritonDeploymentClient("triton").create_deployment("blobs", content["model"], config=settings)
    assert repository.models() == []
    approved = CliRunner().invoke(main, ["apply", str(file), "--approve"], env={"AIRFLOW_TRITON_BY": "grace"})
    assert approved.exit_code == 0, approved.output
    assert releases(repository, "blobs")[0].by == "approved by grace; grace"
    assert CliRunner().invoke(main, ["apply", str(file)]).exit_code == 0  # what is released needs no approval again


def test_a_promotion_without_the_approval_is_refused(mapping: Make, repository: LocalRepository) -> None:
    """Whoever leaves the task out, or marks it as done, has approved nothing: the step itself asks for it."""
    spec = spec_from_mapping(mapping(1, promote={"approval": True}))
    with opened(spec, find_target(spec)) as rollout:
        source = rollout.resolve()
        converted = rollout.convert(source)
        candidate = rollout.stage(converted, rollout.configure(converted))
        report = rollout.validate(candidate)
        with pytest.raises(SpecError, match="only with a person's approval"):
            rollout.promote(candidate, report)
        rollout.clean_up(source)
    assert releases(repository, "blobs") == []
