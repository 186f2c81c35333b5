"""The task group in a team's own DAG, what takes a promotion back, mapped operators, asset events, and killed tasks: in a real Airflow."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import run_at

from airflow_triton.demo.dag_runs import DagRuns
from airflow_triton.errors import SpecError
from airflow_triton.local_triton import LocalTriton
from airflow_triton.repository import LocalRepository, releases
from airflow_triton.server import ServerAddress, TritonClient

DAG_FILE = """
import json
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG, task
from airflow_triton.operators.deploy import DeployModelOperator, RollbackModelOperator
from airflow_triton.operators.steps import *
from airflow_triton.sensors.ready import ModelReadySensor
from airflow_triton.task_groups import deploy_model, rollback_on_failure

SPEC = json.loads((Path(__file__).parent / "spec.json").read_text())

@task(retries=0)
def smoke(outcome, params=None):
    assert not params["fail"], f"version {outcome['version']} does not please"

with DAG("team", schedule=None, params={"version": 1, "fail": False}):
    deployed = deploy_model(SPEC, model="models:/blobs/{{ params.version }}", group_id="deploy")
    rollback_on_failure(deployed, smoke(deployed.outcome))

with DAG("mapped", schedule=None):
    deploy = DeployModelOperator.partial(task_id="deploy").expand(
        spec=[{**SPEC, "name": name, "model": "models:/blobs/1"} for name in ("b1", "b2")]
    )
    ready = ModelReadySensor.partial(task_id="ready", model="b1", timeout=60, trigger_rule="all_done")
    deploy >> ready.expand(servers=[["triton_default"], ["triton_grpc"]])

with DAG("kinds", schedule=None):
    spec = {**SPEC, "model": "models:/blobs/1", "convert": {"to": "tensorrt", "tensorrt": {"gpus": {"a10": {}, "h100": {}}}}}
    resolve = ResolveModelOperator(task_id="resolve", spec=spec)
    converted = ConvertModelOperator(task_id="convert", spec=spec, source=resolve.output).output
    built = BuildPlanOperator.partial(task_id="build_plan", spec=spec, converted=converted).expand(kind=["a10", "h100"])
    AssemblePlansOperator(task_id="assemble", spec=spec, converted=converted, plans=built.output)
    CleanUpModelOperator(task_id="clean_up", spec=spec, source=resolve.output).as_teardown(setups=resolve)

class CutOff(RollbackModelOperator):
    def execute(self, context):
        answer = super().execute(context)
        if context["ti"].try_number == 1:
            raise RuntimeError("cut off")
        return answer

with DAG("twice", schedule=None):
    CutOff(task_id="back", spec=SPEC, retries=1, retry_delay=timedelta(0))

def steps(dag_id, spec):
    with DAG(dag_id, schedule=None):
        resolve = ResolveModelOperator(task_id="resolve", spec=spec)
        convert = ConvertModelOperator(task_id="convert", spec=spec, source=resolve.output)
        configure = ConfigureModelOperator(task_id="configure", spec=spec, converted=convert.output)
        stage = StageModelOperator(task_id="stage", spec=spec, converted=convert.output, config=configure.output)
        ValidateModelOperator(task_id="validate", spec=spec, candidate=stage.output)

latency = {"p99_ms": 1000, "requests": 1000000}
steps("long_validation", {**SPEC, "model": "models:/blobs/1", "validate": {**SPEC["validate"], "latency": latency}})
steps("long_conversion", {**SPEC, "name": "sleeper", "model": "models:/sleeper/1", "convert": {"to": "python"}, "validate": {}})
"""

SLEEPER = """
import time
import mlflow.pyfunc

class Sleeper(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import os
        if os.environ.get("SLEEPER"):
            time.sleep(600)

    def predict(self, context, model_input, params=None):
        return model_input

mlflow.models.set_model(Sleeper())
"""


@pytest.fixture(scope="module")
def spec(holdout: Path) -> dict[str, Any]:
    return {
        "name": "blobs",
        "model": "models:/blobs/1",
        "servers": ["triton_default"],
        "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
        "validate": {"data": str(holdout), "metrics": {"accuracy": {"min": 0.9}}},
        "promote": {"alias": "champion"},
    }


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, triton: LocalTriton, tracking_uri: str, spec: dict[str, Any]) -> Iterator[DagRuns]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "all.py").write_text(DAG_FILE)
    (home / "dags" / "spec.json").write_text(json.dumps(spec))
    settings = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "TRITON_MODEL_REPO": str(triton.repository),
        "AIRFLOW_CONN_TRITON_DEFAULT": json.dumps({"conn_type": "triton", "host": triton.http_url}),
        "AIRFLOW_CONN_TRITON_GRPC": json.dumps({"conn_type": "triton", "host": triton.grpc_url}),
        "SLEEPER": "yes",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(home / "lineage.json"), "append": True}),
    }
    with DagRuns(home, home / "dags", settings, print) as runs:
        yield runs


def served(repository: LocalRepository, name: str = "blobs") -> list[int]:
    return [release.version for release in releases(repository, name)]


def lineage_of(airflow: DagRuns, job: str) -> list[dict[str, Any]]:
    """What OpenLineage was told of the completed runs of a task."""
    file = airflow.log.parent / "lineage.json"
    told = [json.loads(line) for line in until(lambda: file.exists() and file.read_text(), "the lineage").splitlines()]
    return [event for event in told if event["job"]["name"] == job and event["eventType"] == "COMPLETE"]


def test_a_teams_dag_deploys_tells_and_takes_back(
    airflow: DagRuns, repository: LocalRepository, triton: LocalTriton, tracking_uri: str
) -> None:
    """The templated version is promoted and told as an asset event; a check that fails brings the one before back, told likewise."""
    came = airflow.run("team", {"version": 1, "fail": False})
    assert (came["state"], came["tasks"]["smoke"], came["tasks"]["roll_back"]) == ("success", "success", "skipped")
    (event,) = came["events"]
    assert event["uri"] == "triton://models/blobs"
    assert {key: event["extra"][key] for key in ("model", "version", "previous", "action", "source", "servers")} == {
        "model": "blobs",
        "version": 1,
        "previous": None,
        "action": "promoted",
        "source": "models:/blobs/1",
        "servers": [triton.http_url],
    }
    assert event["extra"]["digest"]
    assert event["extra"]["by"].startswith("airflow: team")
    (lineage,) = lineage_of(airflow, "team.deploy.promote")
    assert [(each["namespace"], each["name"]) for each in lineage["inputs"]] == [(tracking_uri, "blobs/1")]
    assert [(each["namespace"], each["name"]) for each in lineage["outputs"]] == [("triton://models", "blobs")]

    came = airflow.run("team", {"version": 3, "fail": True})
    assert (came["state"], came["tasks"]["smoke"], came["tasks"]["roll_back"]) == ("failed", "failed", "success")
    assert served(repository) == [1, 3, 1]
    assert [(event["extra"]["action"], event["extra"]["version"]) for event in came["events"]] == [("promoted", 3), ("rolled back", 1)]

    came = airflow.run("team", {"version": 2, "fail": True})  # rejected: what serves was not let in by this run, so it stays
    assert (came["state"], came["tasks"]["smoke"], came["tasks"]["roll_back"]) == ("failed", "upstream_failed", "skipped")
    assert (served(repository), came["events"]) == ([1, 3, 1], [])

    came = airflow.run("team", {"version": 1, "fail": True})  # nothing to do: nothing to check, nothing to take back
    assert set(came["tasks"].values()) == {"skipped"}


def test_operators_are_mapped_over_models_and_replicas(airflow: DagRuns, repository: LocalRepository) -> None:
    """One task for each spec; each model's asset has its event, by the alias of all models. Then one for each server."""
    came = airflow.run("mapped")

    assert came["tasks"] == dict.fromkeys(("deploy[0]", "deploy[1]", "ready[0]", "ready[1]"), "success")
    assert [came["answers"][f"deploy[{number}]"]["action"] for number in (0, 1)] == ["promoted", "promoted"]
    assert sorted(event["uri"] for event in came["events"]) == ["triton://models/b1", "triton://models/b2"]
    assert (served(repository, "b1"), served(repository, "b2")) == ([1], [1])
    assert airflow.run("mapped")["events"] == []  # nothing to do is no event


def test_plans_are_mapped_over_kinds_of_gpu(airflow: DagRuns) -> None:
    """One task for each kind, which fails at once where there is no GPU; what would have put them together waits for all."""
    came = airflow.run("kinds")

    assert came["tasks"] == {
        "resolve": "success",
        "convert": "success",
        "build_plan[0]": "failed",
        "build_plan[1]": "failed",
        "assemble": "upstream_failed",
        "clean_up": "success",
    }


def test_a_second_try_goes_no_further_back(airflow: DagRuns, repository: LocalRepository) -> None:
    """The task that was cut off after its rollback finds it done: a retry would otherwise go forward again."""
    for version in (1, 3):
        assert airflow.run("team", {"version": version, "fail": False})["state"] == "success"

    came = airflow.run("twice")

    assert (came["state"], came["answers"]["back"]["version"]) == ("success", 1)
    assert set(served(repository)[2:]) == {1}


def until(met: Callable[[], Any], what: str) -> Any:
    for _ in range(1200):
        if found := met():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


def killed(airflow: DagRuns, dag_id: str, when: Callable[[], Any]) -> dict[str, Any]:
    """Run the DAG, and send its process the signal with which Airflow's supervisor ends a task, once `when` is met."""
    came: dict[str, Any] = {}
    run = threading.Thread(target=lambda: came.update(airflow.run(dag_id)))
    run.start()
    until(when, f"the step of {dag_id}")
    assert airflow._process is not None
    os.kill(airflow._process.pid, signal.SIGTERM)
    run.join(120)
    assert not run.is_alive()
    return came


def test_a_killed_validation_removes_its_candidate(airflow: DagRuns, repository: LocalRepository, triton: LocalTriton) -> None:
    """There is no clean-up in this DAG: the task itself takes the candidate off the server and out of the repository."""
    with TritonClient(ServerAddress.parse(triton.grpc_url)) as client:

        def asked() -> bool:
            return bool(repository.candidates("blobs")) and "validate:" in airflow.log.read_text().rpartition("stage:")[2]

        came = killed(airflow, "long_validation", asked)
        assert (came["tasks"]["stage"], came["tasks"]["validate"]) == ("success", "failed")
        assert "the task `validate` was killed" in airflow.log.read_text()
        assert repository.candidates("blobs") == []
        assert [row.name for row in client.index() if row.state == "READY"] == []


def test_a_killed_conversion_ends_its_child(airflow: DagRuns, repository: LocalRepository, tracking_uri: str, tmp_path: Path) -> None:
    """The process that runs someone's model does not outlive the task."""
    import mlflow
    import numpy as np

    code = tmp_path / "sleeper.py"
    code.write_text(SLEEPER)
    with run_at(tracking_uri, experiment="tests"):
        example = np.ones((2, 2), np.float32)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code),
            input_example=example,
            signature=mlflow.models.infer_signature(example, example),
            registered_model_name="sleeper",
            pip_requirements=["mlflow"],
        )
    assert airflow._process is not None
    parent = psutil.Process(airflow._process.pid)

    def children() -> list[psutil.Process]:
        return [child for child in parent.children(recursive=True) if "airflow_triton.isolate" in " ".join(child.cmdline())]

    came = killed(airflow, "long_conversion", children)

    assert (came["tasks"]["resolve"], came["tasks"]["convert"]) == ("success", "failed")
    assert "the task `convert` was killed" in airflow.log.read_text()
    assert children() == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"promote": {"approval": "{{ params.careful }}"}}, "`promote` decides which tasks there are"),
        ({"name": "{{ params.name }}"}, "`name` decides which asset there is"),
        ({"modell": "models:/blobs/1"}, "modell: unknown key"),
    ],
    ids=["approval", "name", "unknown key"],
)
def test_what_decides_about_the_tasks_is_no_template(spec: dict[str, Any], changed: dict[str, Any], reason: str) -> None:
    """Such a spec, and one that is wrong anyway, is refused when the DAG is read."""
    from airflow.sdk import DAG

    from airflow_triton.task_groups import deploy_model

    with DAG("refused", schedule=None), pytest.raises(SpecError, match=reason):
        deploy_model({**spec, **changed})
