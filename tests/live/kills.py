"""Kills in the middle of a deployment: which step, who is killed, and what became of the run and of production."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from airflow_triton.errors import RegistryError
from airflow_triton.server import ServerAddress, TritonClient
from live.airflow import ENDED
from live.grounds import AFTER, DEPLOY, Asking, Grounds, weights_of
from live.process import wait_for

STEPS = ("resolve", "convert", "configure", "stage", "validate", "approve", "promote", "clean_up")
VICTIMS = ("task", "scheduler", "triggerer")
LONGEST_PAUSE = 0.6
"""Seconds after a step's first sign of life within which it is killed."""


@dataclass
class Round:
    """One deployment with kills on its way, and what came of it. It is `right` where nothing is wrong."""

    version: int
    kills: tuple[tuple[str, str], ...]
    late: int = 0
    attempts: int = 0
    answered: int = 0
    wrong: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the run ended as it must, and production never answered wrongly."""
        return not self.wrong and not self.problems


def deploy_under_kills(grounds: Grounds, kills: Mapping[str, str]) -> Round:
    """Register the next version; kill, in each step named, the victim named, and start it again; approve; look what became of it."""
    began = time.monotonic()
    before = len(grounds.airflow.api.runs(AFTER))
    with Asking(grounds.triton) as client:
        number = _next_version(grounds)
        version = grounds.register(weights_of(number))
        assert version == number, "the weights tell the version"
        done = Round(version, tuple(kills.items()))
        run_id = wait_for("a run of the new version", lambda: _run_of(grounds, version), timeout=300)
        for step in STEPS:
            if step in kills:
                done.late += not _kill(grounds, run_id, step, kills[step])
            if step == "approve":
                grounds.airflow.api.answer(DEPLOY, run_id, "approve", "Approve")
        state = grounds.airflow.api.await_end(DEPLOY, run_id, timeout=400)
        done.problems = tuple(_problems(grounds, run_id, state, version, before))
        time.sleep(0.2)  # the client asks once more what serves now
    done.attempts = sum(int(task["try_number"]) for task in _tasks(grounds, run_id))
    done.answered, done.wrong = sum(client.answered.values()), tuple(client.wrong)
    done.seconds = round(time.monotonic() - began, 1)
    return done


def _next_version(grounds: Grounds) -> int:
    try:
        return grounds.registry.resolve("models:/blobs/latest").version + 1
    except RegistryError:
        return 1


def _run_of(grounds: Grounds, version: int) -> str:
    """The run that the webhook started."""
    runs = grounds.airflow.api.runs(DEPLOY)
    return next((run["dag_run_id"] for run in runs if run["dag_run_id"].startswith(f"registry__blobs__{version}__")), "")


def _tasks(grounds: Grounds, run_id: str) -> list[dict[str, Any]]:
    return list(grounds.airflow.api.ask("GET", f"/dags/{DEPLOY}/dagRuns/{run_id}/taskInstances")["task_instances"])


def _task(grounds: Grounds, run_id: str, step: str) -> dict[str, Any]:
    try:
        return next((task for task in _tasks(grounds, run_id) if task["task_id"] == step), {})
    except httpx.TransportError:
        return {}


def _kill(grounds: Grounds, run_id: str, step: str, victim: str) -> bool:
    """Kill the victim while the step is at work; false where the step was done sooner."""

    def at_work() -> dict[str, Any]:
        task = _task(grounds, run_id, step)
        if task.get("state") in ("success", *ENDED, "skipped", "upstream_failed"):
            return task
        waits = task.get("state") == "awaiting_input" and victim != "task"
        return task if waits or (task.get("state") == "running" and _says(grounds, run_id, step)) else {}

    task = wait_for(f"{step} at work", at_work, timeout=400)
    time.sleep(random.uniform(0, LONGEST_PAUSE))
    if victim == "task":
        return _kill_task(grounds, run_id, step)
    grounds.airflow.components[victim].kill()
    grounds.airflow.components[victim].start()
    return task["state"] in ("running", "awaiting_input")


def _kill_task(grounds: Grounds, run_id: str, step: str) -> bool:
    task = _task(grounds, run_id, step)
    if task.get("state") != "running" or not task.get("pid"):
        return False
    try:
        os.kill(int(task["pid"]), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _says(grounds: Grounds, run_id: str, step: str) -> bool:
    """Whether the step has told its log what it does; `approve` tells nothing, and `configure` is done a few milliseconds later."""
    folder = Path(grounds.airflow.home, "logs", f"dag_id={DEPLOY}", f"run_id={run_id}", f"task_id={step}")
    word = "" if step in ("approve", "configure") else f"{step.replace('_', ' ')}: "
    return any(word in path.read_text(errors="replace") for path in folder.glob("*.log"))


def _problems(grounds: Grounds, run_id: str, state: str, version: int, before: int) -> list[str]:
    """What is not as it must be once the run has ended."""
    api, found = grounds.airflow.api, []
    if state != "success":
        found.append(f"the run ended as {state}: {api.tasks(DEPLOY, run_id)}")
        return found
    if grounds.registry.resolve("models:/blobs@champion").version != version:
        found.append("MLflow's alias did not follow")
    with TritonClient(ServerAddress.parse(grounds.triton.grpc_url)) as client:
        rows = [(row.name, row.version) for row in client.index() if row.state == "READY"]
    if rows != [("blobs", version)]:
        found.append(f"on Triton: {rows}")

    def read() -> dict[str, Any]:
        runs = [run for run in api.runs(AFTER)[before:] if run["state"] in ENDED]
        return runs[-1] if runs else {}

    try:
        after = wait_for("the downstream run", read, timeout=300)
    except TimeoutError as error:
        return [*found, str(error)]
    if after["state"] != "success" or api.xcom(AFTER, after["dag_run_id"], "read")["version"] != version:
        found.append(f"the downstream run {after['dag_run_id']} ended as {after['state']}")
    return found
