"""From the swap of config.pbtxt to the first answer of the new version, against the time that Triton itself takes for it."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import tritonclient.grpc as library
from _measure import ROUNDS, row, table
from conftest import CENTRES, classifier, register
from test_triton_flavor import lay
from test_triton_flavor import register as register_ready

from airflow_triton.local_triton import LocalTriton
from airflow_triton.rollout import deploy, find_target, opened
from airflow_triton.spec import spec_from_mapping

PYTHON = """import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        tensors = [utils.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("probabilities", each[:, :3] + {version}.0)]) for each in tensors]
"""
PYTHON_CONFIG = """backend: "python"
max_batch_size: 8
instance_group { count: 1 kind: KIND_CPU }
input { name: "input" data_type: TYPE_FP32 dims: 4 }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }
"""
ROWS = np.ones((2, 4), np.float32)


class Asker:
    """Asks without a version, all the time, and notes when each version answered first since it was `expected`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._wanted: tuple[str, str] | None = None
        self._at: float | None = None
        self._came = threading.Event()
        threading.Thread(target=self._ask, daemon=True).start()

    def expect(self, model: str, version: int) -> None:
        """From now on it is this version's answer that is waited for."""
        self._came.clear()
        self._wanted = (model, str(version))

    def first(self) -> float:
        """When the version's first answer was there."""
        assert self._came.wait(120)
        assert self._at is not None
        return self._at

    def _ask(self) -> None:
        tensor = library.InferInput("input", list(ROWS.shape), "FP32")
        tensor.set_data_from_numpy(ROWS)
        with library.InferenceServerClient(self._address) as client:
            while True:
                if self._wanted is None or self._came.is_set():
                    time.sleep(0.001)
                    continue
                model, version = self._wanted
                try:
                    answered = client.infer(model, [tensor]).get_response().model_version
                except library.InferenceServerException:
                    answered = ""  # nothing serves yet
                if answered == version:
                    self._at = time.perf_counter()
                    self._came.set()


def switched(spec: dict[str, Any], asker: Asker) -> float:
    """Deploy, and answer the seconds from the moment when config.pbtxt names the version to the version's first answer."""
    parsed, committed = spec_from_mapping(spec), []
    with opened(parsed, find_target(parsed)) as rollout:
        swap = rollout.store.swap_config

        def timed(*args: Any, **options: Any) -> Any:
            done = swap(*args, **options)
            committed.append(time.perf_counter())
            return done

        rollout.store.swap_config = timed  # type: ignore[method-assign]
        asker.expect(spec["name"], int(spec["model"].rpartition("/")[2]))
        outcome = deploy(rollout)
    assert outcome.action == "promoted"
    first = asker.first()
    return first - committed[-1] if committed else 0.0  # a new model appears as a whole


def loaded(repository: Path, client: Any, name: str, version: int, asker: Asker) -> float:
    """Name another version in a config.pbtxt by hand and let Triton load it; answer the seconds to the version's first answer."""
    config = repository / name / "config.pbtxt"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("version_policy")]
    config.write_text("\n".join([*lines, f"version_policy {{ specific {{ versions: {version} }} }}"]) + "\n")
    asker.expect(name, version)
    started = time.perf_counter()
    client.load_model(name)
    return asker.first() - started


def by_hand(repository: Path, name: str) -> None:
    """A copy of the model that the pipeline left, under a name that it does not know; both versions are complete."""
    from airflow_triton import model_config
    from airflow_triton.repository import LocalRepository, releases

    target = repository / f"{name}-by-hand"
    for version in ("1", "2"):
        for path in (repository / name / version).rglob("*"):
            if path.is_file() and path.name != "deployment.json":
                place = target / version / path.relative_to(repository / name / version)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
    config = model_config.parse(releases(LocalRepository(repository), name)[-1].config)
    config.name = target.name
    (target / "config.pbtxt").write_text(" ".join(model_config.render(model_config.without_versions(config)).split("\n")) + "\n")


def main() -> None:
    """Measure, and print a table in Markdown."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        tracking = f"sqlite:///{home}/mlflow.db"
        mlflow.MlflowClient(tracking).create_experiment("tests", artifact_location=(home / "artifacts").as_uri())
        for version in (1, 2):
            files = {"1/model.py": PYTHON.replace("{version}", str(version))}
            register_ready(tracking, "python", lay(home / f"ready-{version}" / "ready", PYTHON_CONFIG, files))
            register(tracking, "onnx", classifier((CENTRES * np.float32(version)).T))
        (home / "rows.csv").write_text("a,b,c,d,label\n" + "0,0,0,0,0\n2,0,2,0,1\n0,2,0,2,2\n" * 10)
        note = (
            "From the moment when config.pbtxt names the version, as a deployment writes it, to the first answer that names it to a client "
            "that asks all the time; against the same with config.pbtxt edited by hand, and nothing but Triton's own load call after it. "
            f"The server runs beside the client; {2 * ROUNDS} switches in turns. The goal is 1.05 times and 50 ms on top."
        )
        with LocalTriton(home / "models", extra_args=["--disable-auto-complete-config"]) as server:
            address = server.grpc_url.partition("://")[2]
            asker = Asker(address)
            table("Switch time", note, "ms")
            with library.InferenceServerClient(address) as client:
                for kind, convert, what in (("python", "as-is", "a Python model"), ("onnx", "onnx", "an ONNX model")):
                    spec = {
                        "name": kind,
                        "convert": {"to": convert, "cache": str(home / "cache")},
                        "config": {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]} if kind == "onnx" else {},
                        "repository": str(home / "models"),
                        "servers": [server.grpc_url],
                        "tracking_uri": tracking,
                        "validate": {"data": str(home / "rows.csv"), "parity": False, "metrics": {"accuracy": {"min": 0.0}}},
                    }
                    for version in (1, 2):
                        switched({**spec, "model": f"models:/{kind}/{version}"}, asker)
                    by_hand(home / "models", kind)
                    loaded(home / "models", client, f"{kind}-by-hand", 2, asker)
                    ours, own = [], []
                    for _ in range(ROUNDS):
                        for version in (1, 2):
                            own.append(1000 * loaded(home / "models", client, f"{kind}-by-hand", version, asker))
                            ours.append(1000 * switched({**spec, "model": f"models:/{kind}/{version}"}, asker))
                    over = sorted(one - 1.05 * two for one, two in zip(ours, own, strict=True))[len(ours) // 2]
                    row(what, ours, own, f"at most 1.05, and 50 ms: {over:+.0f} ms beyond 1.05", 0)


if __name__ == "__main__":
    main()
