"""What becomes of a deployment when something goes wrong: this package and the peer from PyPI, through the same calls of MLflow's client.

Each case runs twice, on a real MLflow server and a real Triton (EXPLICIT, auto-complete on) over a repository of its own, each package in
its own environment. "ok" is what a user needs; what happened instead is said in words.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _measure  # noqa: F401 it puts the tests' helpers on the path
import _peer
import mlflow
import numpy as np
import onnx
from conftest import CENTRES, _healthy, blobs, classifier
from live import Process, clean_environment
from onnx import TensorProto, helper
from stores.seaweed import SeaweedFS

from airflow_triton.errors import ServerError
from airflow_triton.local_triton import LocalTriton, free_port
from airflow_triton.repository import open_repository
from airflow_triton.server import ServerAddress, TritonClient
from mlflow_plugin import flavor

CALL = """
import json, sys
from mlflow.deployments import get_deploy_client
method, arguments = sys.argv[1], json.loads(sys.argv[2])
found = getattr(get_deploy_client("triton"), method)(**arguments)
print(json.dumps([row["name"] for row in found] if isinstance(found, list) else "done"))
"""
CONFIG = """backend: "onnxruntime"
max_batch_size: 16
input { name: "input" data_type: TYPE_FP32 dims: 4 }
output { name: "label" data_type: TYPE_INT64 dims: 1 reshape { } }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }
instance_group { count: 1 kind: KIND_CPU }
"""
LARGE_MIB = 256
KILL_AFTER = (0.0, 0.05, 0.15)
"""Seconds after the first byte of an update has been written."""
ROWS, _LABELS = blobs(seed=9, rows=4)
OK = "ok"
NOTE = (
    "What becomes of a deployment when something goes wrong: the same calls of MLflow's client, a real MLflow server, a real Triton "
    "(EXPLICIT) for each; the peer is given the models as folders."
)


class NotDeployedError(Exception):
    """A good model was not deployed, so that there is nothing to see."""


@dataclass
class Side:
    """One of the two packages, with a Triton of its own."""

    name: str
    python: str
    home: Path
    tracking: str
    checks: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    server: LocalTriton | None = None

    def command(self, method: str, **arguments: Any) -> list[str]:
        """The command that makes one call of MLflow's client."""
        if method in ("create_deployment", "update_deployment"):
            arguments = {"flavor": "triton", **({"config": self.checks} if self.checks else {}), **arguments}
            arguments["model_uri"] = self.places.get(arguments["model_uri"], arguments["model_uri"])
        return [self.python, "-c", CALL, method, json.dumps(arguments)]

    def call(self, method: str, **arguments: Any) -> str:
        """Make it; "" where it succeeded, else the line of its error. It runs in a folder of its own."""
        work = self.home / "cwd"
        work.mkdir(exist_ok=True)
        done = subprocess.run(
            self.command(method, **arguments), capture_output=True, text=True, env=self.environment, cwd=work, check=False, timeout=300
        )
        told = re.findall(r"^[A-Za-z_][\w.]*: .+", done.stderr, re.MULTILINE)
        return "" if done.returncode == 0 else str(told[-1]) if told else "failed"

    def deploy(self, name: str, model_uri: str) -> None:
        """Deploy a good model; NotDeployedError where that fails."""
        if problem := self.call("create_deployment", name=name, model_uri=model_uri):
            raise NotDeployedError(problem)

    @contextlib.contextmanager
    def on(self, repository: str | Path, **environment: str) -> Iterator[TritonClient]:
        """A Triton over a repository, and a client of it. On a prefix without an object, Triton would not start."""
        open_repository(str(repository)).make()
        with LocalTriton(repository) as self.server, TritonClient(ServerAddress.parse(self.server.http_url)) as client:
            self.environment = {
                **clean_environment({}),
                "TRITON_URL": self.server.http_url,
                "TRITON_MODEL_REPO": str(repository),
                "MLFLOW_TRACKING_URI": self.tracking,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                **environment,
            }
            yield client

    def folder(self, case: str) -> Path:
        """A new repository on disk."""
        path = self.home / case / "models"
        path.mkdir(parents=True)
        return path


class Models:
    """The registered models, on a real MLflow server; `places` are the folders that the same models were saved in, by their URIs.

    The peer is given these: of what MLflow 3 downloads for `models:/...` it takes a note of MLflow's own for the model.
    """

    def __init__(self, tracking: str, home: Path) -> None:
        self.home = home
        self.places: dict[str, str] = {}
        mlflow.set_tracking_uri(tracking)
        mlflow.set_experiment("correctness")
        self.good(CENTRES)
        self.good((CENTRES * np.float32(1.1)).astype(np.float32))
        self.ready("broken", {"model.onnx": unloadable()})
        self.wide()

    def ready(self, name: str, files: dict[str, bytes]) -> None:
        """Register a ready model directory of the `triton` flavor as the next version of `name`."""
        folder = self.home / f"{name}-{time.monotonic_ns()}" / name
        for path, content in files.items():
            (folder / "1").mkdir(parents=True, exist_ok=True)
            (folder / "1" / path).write_bytes(content)
        (folder / "config.pbtxt").write_text(CONFIG)
        with mlflow.start_run():
            logged = flavor.log_model(folder, name="model", registered_model_name=name)
        flavor.save_model(folder, folder.parent / "saved")
        self.places[f"models:/{name}/{logged.registered_model_version}"] = str(folder.parent / "saved")

    def good(self, weights: np.ndarray) -> None:
        """A small good version, and the same with a file beside it that takes a while to copy."""
        model = classifier(weights.T).SerializeToString()
        self.ready("good", {"model.onnx": model})
        self.ready("large", {"model.onnx": model, "beside.bin": os.urandom(1 << 20) * LARGE_MIB})

    def wide(self) -> None:
        """An ONNX model whose weights MLflow keeps in a file of their own, as it does by default above 1 KB."""
        weights = np.vstack([CENTRES.T, np.zeros((4092, 3), np.float32)]).astype(np.float32)
        constant = helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)
        infos = [
            helper.make_tensor_value_info(*each) for each in (("x", TensorProto.FLOAT, ["N", 4096]), ("y", TensorProto.FLOAT, ["N", 3]))
        ]
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "wide", infos[:1], infos[1:], [constant])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made)
        with mlflow.start_run():
            mlflow.onnx.log_model(
                made, name="model", registered_model_name="wide", input_example=np.ones((2, 4096), np.float32), pip_requirements=["onnx"]
            )


def unloadable() -> bytes:
    """A model that looks right from outside, and that no onnxruntime loads: its only operator is nobody's."""
    infos = [helper.make_tensor_value_info(*each) for each in (("input", TensorProto.FLOAT, ["N", 4]), ("label", TensorProto.INT64, ["N"]))]
    infos.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]))
    node = helper.make_node("Nobodys", ["input"], ["label", "probabilities"], domain="nowhere")
    graph = helper.make_graph([node], "broken", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def answers(client: TritonClient, model: str) -> bool:
    """Whether the model answers."""
    try:
        client.infer(model, {"input": ROWS})
    except ServerError:
        return False
    return True


def external_data(side: Side) -> str:
    """An ONNX model with external data, as MLflow logs it by default."""
    with side.on(side.folder("external")) as client:
        arguments = {"config": {}} if side.checks else {}
        problem = side.call("create_deployment", name="wide", model_uri="models:/wide/1", flavor="onnx", **arguments)
        return OK if not problem and client.is_ready("wide") else f"not served: {problem[:90]}"


def killed(side: Side) -> str:
    """SIGKILL while an update of 256 MiB is under way; then the server is started anew."""
    served = 0
    for number, pause in enumerate(KILL_AFTER):
        repository = side.folder(f"killed-{number}")
        with side.on(repository) as client:
            side.deploy("large", "models:/large/1")
            process = subprocess.Popen(
                side.command("update_deployment", name="large", model_uri="models:/large/2"),
                env=side.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            before = written(repository.parent)
            while process.poll() is None and written(repository.parent) == before:
                time.sleep(0.002)
            time.sleep(pause)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert side.server is not None
            side.server.stop()
            side.server.start()
            with contextlib.suppress(ServerError):
                client.load("large")
            served += answers(client, "large")
    return OK if served == len(KILL_AFTER) else f"after {len(KILL_AFTER) - served} of {len(KILL_AFTER)} kills nothing serves"


def written(folder: Path) -> set[tuple[str, int]]:
    """Every file below a folder with its size."""
    found = set()
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.suffix != ".lock":
                found.add((str(path), path.stat().st_size))
    return found


def prefix(side: Side, store: SeaweedFS) -> str:
    """On an object store, `resnet` is deleted beside `resnet50`."""
    with side.on(store.url("models", f"{side.name}/prefix"), **store.environment) as client:
        for name in ("resnet", "resnet50"):
            side.deploy(name, "models:/good/1")
        side.call("delete_deployment", name="resnet")
        left = store.client().list_objects_v2(Bucket="models", Prefix=f"{side.name}/prefix/resnet50/").get("KeyCount", 0)
        return OK if left and answers(client, "resnet50") else "the files of `resnet50` are gone too"


def foreign(side: Side, store: SeaweedFS) -> str:
    """A model that someone put into the bucket by hand is ready; then `list` and `create`."""
    where = f"{side.name}/foreign"
    files = {"config.pbtxt": CONFIG.encode(), "1/model.onnx": classifier(CENTRES.T).SerializeToString()}
    for path, content in files.items():
        store.client().put_object(Bucket="models", Key=f"{where}/by-hand/{path}", Body=content)
    with side.on(store.url("models", where), **store.environment) as client:
        client.load("by-hand")
        problems = {
            "list": side.call("list_deployments"),
            "create": side.call("create_deployment", name="good", model_uri="models:/good/1"),
        }
        failed = [f"{what} fails: {problem[:60]}" for what, problem in problems.items() if problem]
        return "; ".join(failed) or (OK if answers(client, "by-hand") else "the foreign model is gone")


def broken_update(side: Side) -> str:
    """An update to a version that cannot be loaded; then the server is started anew."""
    with side.on(side.folder("broken-update")) as client:
        side.deploy("m", "models:/good/1")
        problem = side.call("update_deployment", name="m", model_uri="models:/broken/1")
        now = answers(client, "m")
        assert side.server is not None
        side.server.stop()
        side.server.start()
        with contextlib.suppress(ServerError):
            client.load("m")
        after = answers(client, "m")
        if problem and now and after:
            return OK
        return (
            f"{'reported' if problem else 'not reported'}; serves {'on' if now else 'no more'}; after a restart {'too' if after else 'not'}"
        )


def failed_load(side: Side) -> str:
    """A create of a model that cannot be loaded is reported."""
    with side.on(side.folder("failed-load")):
        return OK if side.call("create_deployment", name="m", model_uri="models:/broken/1") else "reported as created"


def traversal(side: Side) -> str:
    """A name that leads out of the repository."""
    repository = side.folder("traversal")
    with side.on(repository):
        side.call("create_deployment", name="../escape", model_uri="models:/good/1")
        outside = sorted(path.name for path in repository.parent.iterdir() if path.name == "escape")
        return OK if not outside else "files were written outside of the repository"


def deletes(side: Side) -> str:
    """What is left after a delete."""
    repository = side.folder("deletes")
    with side.on(repository) as client:
        side.deploy("m", "models:/good/1")
        problem = side.call("delete_deployment", name="m")
        left = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
        return OK if not left and not answers(client, "m") and not problem else f"left: {', '.join(left) or problem[:80]}"


def leftovers(side: Side) -> str:
    """What is left in the repository after a create that failed."""
    repository = side.folder("leftovers")
    with side.on(repository):
        side.call("create_deployment", name="m", model_uri="models:/broken/1")
        left = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
        return OK if not left else f"left: {', '.join(left)}"


def client_errors(side: Side) -> str:
    """Requests all the time while a version is replaced by another one."""
    with side.on(side.folder("client-errors")):
        side.deploy("m", "models:/good/1")
        counts, stop = {True: 0, False: 0}, threading.Event()

        def ask() -> None:
            assert side.server is not None
            with TritonClient(ServerAddress.parse(side.server.grpc_url)) as own:
                while not stop.is_set():
                    counts[answers(own, "m")] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        problem = side.call("update_deployment", name="m", model_uri="models:/good/2")
        stop.set()
        thread.join()
        asked = sum(counts.values())
        return OK if not counts[False] and not problem else f"{counts[False]} of {asked} requests failed {problem[:60]}"


def outcome(case: Callable[[Side], str], side: Side) -> str:
    """What a case comes to."""
    try:
        return case(side)
    except NotDeployedError as error:
        return f"not deployed: {str(error)[:90]}"


def cases(store: SeaweedFS) -> dict[str, Callable[[Side], str]]:
    """Every case by what it shows."""
    return {
        "an ONNX model with external data is served": external_data,
        f"SIGKILL during an update of {LARGE_MIB} MiB: something serves after a restart": killed,
        "deleting `resnet` leaves `resnet50` (object store)": lambda side: prefix(side, store),
        "a foreign model in the bucket harms nothing": lambda side: foreign(side, store),
        "an update to a broken version: the old one serves on": broken_update,
        "a failed load is reported": failed_load,
        "a name such as ../escape stays inside": traversal,
        "a delete really deletes": deletes,
        "a failed create leaves nothing": leftovers,
        "no client error during an update": client_errors,
    }


@contextlib.contextmanager
def mlflow_server(home: Path) -> Iterator[str]:
    """A real `mlflow server` on SQLite."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", str(home / "artifacts")]
    environment = clean_environment({"MLFLOW_DISABLE_TELEMETRY": "true"})
    with Process("mlflow", command, environment=environment, folder=home / "server", ready=lambda: _healthy(url)):
        yield url


def holdout(home: Path) -> Path:
    """Rows with labels: what this package validates with."""
    rows, labels = blobs(seed=1, rows=60)
    lines = ["a,b,c,d,label", *(",".join(map(str, [*row, label])) for row, label in zip(rows.tolist(), labels.tolist(), strict=True))]
    path = home / "holdout.csv"
    path.write_text("\n".join(lines))
    return path


def main() -> None:
    """Run every case on both sides, and print both columns."""
    only = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, SeaweedFS(Path(folder) / "seaweed") as store:
        home = Path(folder)
        store.make_bucket("models")
        os.environ.update(store.environment, MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true")
        with mlflow_server(home) as tracking:
            models = Models(tracking, home / "made")
            checks = {"validate.data": str(holdout(home)), "validate.parity": False, "validate.metrics.accuracy.min": 0.9}
            sides = [
                Side("ours", sys.executable, home / "ours", tracking, checks=checks),
                Side("peer", _peer.python(), home / "peer", tracking, places=models.places),
            ]
            for side in sides:
                side.home.mkdir()
            print(f"\n## Correctness\n\n{NOTE}\n\n| | this package | {_peer.REQUIREMENTS[0]} |\n| --- | --- | --- |", flush=True)
            for what, case in cases(store).items():
                if not only or any(word in what for word in only):
                    print(f"| {what} | {' | '.join(outcome(case, side) for side in sides)} |", flush=True)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
