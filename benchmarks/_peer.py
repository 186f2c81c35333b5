"""The peer package from PyPI, in an environment of its own: what it does to publish a model, and its calls by MLflow's own client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = ("mlflow-tritonserver==1.1.0", "mlflow<3", "SQLAlchemy<2.1")
HOME = Path(__file__).parents[1] / ".bench" / "mlflow-tritonserver"
PUBLISH = """
import contextlib, sys, time
from pathlib import Path
from mlflow_tritonserver.deployments import TritonPlugin
plugin = TritonPlugin("triton")
started = time.perf_counter()
with contextlib.redirect_stdout(sys.stderr):
    plugin._copy_files_to_triton_repo(Path(sys.argv[1]), "m", "triton")
    plugin._generate_mlflow_meta_file("m", "triton", "models:/m/1")
print(time.perf_counter() - started)
"""


def install() -> None:
    """Make the peer's environment, once."""
    if not (HOME / "done").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--clear", "-p", sys.executable, HOME], check=True)
        subprocess.run([uv, "pip", "install", "-q", "-p", HOME / "bin" / "python", *REQUIREMENTS], check=True)
        (HOME / "done").touch()


def publish(artifact: Path, repository: str) -> float:
    """Publish the model in a folder, as its `create_deployment` does; the seconds that the files took."""
    told = subprocess.run(
        [HOME / "bin" / "python", "-c", PUBLISH, artifact],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRITON_MODEL_REPO": repository},
    )
    return float(told.stdout.splitlines()[-1])


def python() -> str:
    """Its interpreter."""
    install()
    return str(HOME / "bin" / "python")
