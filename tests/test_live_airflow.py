"""End to end with a live Airflow: scheduler, DAG processor, triggerer and API server, MLflow, SeaweedFS and Triton, all real.

The conversion is the ONNX way: a TensorRT plan needs a GPU, and the local Triton has no backend for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from live import report
from live.grounds import AFTER, DEPLOY, Grounds, version_of, weights_of
from live.kills import STEPS, VICTIMS, deploy_under_kills
from live.process import wait_for

TRIES = 4
"""Rounds in which a kill may come too late before a step is left."""
SOAK = os.environ.get("AIRFLOW_TRITON_SOAK") == "1"
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with Grounds(tmp_path_factory.mktemp("live")) as running:
        yield running


def test_from_a_registered_version_to_a_downstream_dag(grounds: Grounds) -> None:
    """Registered, told by webhook, run by the scheduler, published, loaded, validated, approved over the API, promoted, read."""
    api = grounds.airflow.api
    version = grounds.register(weights_of(1))
    run = wait_for("a run that MLflow's webhook starts", lambda: next((run for run in api.runs(DEPLOY)), None), timeout=240)
    run_id = run["dag_run_id"]
    assert run_id.startswith(f"registry__blobs__{version}__")
    api.await_task(DEPLOY, run_id, "approve", "awaiting_input")
    assert grounds.repository.read_config("blobs") is None  # nothing serves before a person said so
    api.answer(DEPLOY, run_id, "approve", "Approve")
    assert api.await_end(DEPLOY, run_id) == "success"
    assert api.xcom(DEPLOY, run_id, "promote")["action"] == "promoted"
    assert grounds.registry.resolve("models:/blobs@champion").version == version
    after = wait_for("the downstream run", lambda: next((run for run in api.runs(AFTER)), None), timeout=240)["dag_run_id"]
    assert api.await_end(AFTER, after) == "success"
    told = api.xcom(AFTER, after, "read")
    assert told["version"] == version
    assert version_of(np.zeros((1, 4), np.float32), np.array([told["probabilities"]])) == 1


@pytest.mark.skipif(SOAK, reason="the soak kills in every step")
def test_killed_on_the_way_the_run_ends_right_and_production_answers(grounds: Grounds) -> None:
    """Two task processes, the scheduler and the triggerer are killed in the middle of one deployment, under a client that never stops."""
    done = deploy_under_kills(grounds, {"stage": "task", "validate": "scheduler", "approve": "triggerer", "promote": "task"})
    assert done.right, done
    assert done.answered > 0


@pytest.mark.skipif(not SOAK, reason="takes twenty minutes: make soak")
@pytest.mark.timeout(10800)
def test_soak_live_airflow(grounds: Grounds, capsys: pytest.CaptureFixture[str]) -> None:
    """Every step with every victim, one kill a deployment, again where a kill came too late; writes docs/live-airflow.md."""
    first = deploy_under_kills(grounds, {})  # until it serves, nothing does: the client's errors say nothing
    assert first.problems == ()
    rounds = []
    for step, victim in product(STEPS, VICTIMS):
        for _ in range(TRIES):
            rounds.append(deploy_under_kills(grounds, {step: victim}))
            with capsys.disabled():
                sys.stdout.write(f"\n{step} {victim}: {rounds[-1]}")
            if not rounds[-1].late:
                break
    report.write(rounds)
    assert [each for each in rounds if not each.right] == []
