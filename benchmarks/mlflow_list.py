"""`mlflow deployments list` on a thousand deployments, after start-up; and start-up itself, beside the peer's."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import _peer
from _measure import ROUNDS, row, table
from many_models import MODELS, on_disk

from airflow_triton.local_triton import LocalTriton

LIST = """
import time
from mlflow.deployments import get_deploy_client
client = get_deploy_client("triton")
started = time.perf_counter()
found = client.list_deployments()
print(len(found), time.perf_counter() - started)
"""
HELP = ("-m", "mlflow", "deployments", "help", "-t", "triton")


def listed(environment: dict[str, str]) -> float:
    """The seconds that one list of all deployments takes in a new process, once that has made its client."""
    told = subprocess.run([sys.executable, "-c", LIST], check=True, capture_output=True, text=True, env=environment)
    count, seconds = told.stdout.split()
    assert int(count) == MODELS
    return float(seconds)


def cpu_seconds(python: str, environment: dict[str, str]) -> float:
    """The CPU seconds of a command that does nothing but start: MLflow, the target, its help."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, *HELP], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, and print a table in Markdown."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        store = on_disk(home, MODELS)
        with LocalTriton(home / str(MODELS)) as server:
            where = {"TRITON_MODEL_REPO": str(store), "TRITON_URL": server.http_url, "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
            environment = {**os.environ, **where}
            listed(environment)
            table(
                "mlflow deployments list", f"{MODELS} deployments on a disk, a real server, wall seconds after start-up; {ROUNDS} rounds."
            )
            row(f"{MODELS} deployments; the limit", [listed(environment) for _ in range(ROUNDS)], [2.0] * ROUNDS, "< 1")
            peer = _peer.python()
            for python in (sys.executable, peer):
                cpu_seconds(python, environment)
            table("mlflow deployments help", f"Start-up, CPU seconds; the other is {_peer.REQUIREMENTS[0]} with MLflow 2; {ROUNDS} rounds.")
            rounds = [(cpu_seconds(sys.executable, environment), cpu_seconds(peer, environment)) for _ in range(ROUNDS)]
            row("start-up", [ours for ours, _ in rounds], [theirs for _, theirs in rounds], "<= 1")


if __name__ == "__main__":
    main()
