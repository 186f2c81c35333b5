"""docs/live-airflow.md: what the last soak with a live Airflow came to."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from live.grounds import DEAD_AFTER
from live.kills import STEPS, VICTIMS, Round

PAGE = Path(__file__).parents[2] / "docs" / "live-airflow.md"

TEXT = """# With a live Airflow

Scheduler (LocalExecutor), DAG processor, triggerer and API server, PostgreSQL, an MLflow server with its artifacts in SeaweedFS, and a
Triton that serves from SeaweedFS, each a process of one machine. In each round a version is registered in MLflow; its webhook starts
the run of `deploy_blobs`, whose steps the scheduler runs: conversion (to ONNX: a TensorRT plan needs a GPU), publication, load,
validation, a person's approval over Airflow's API, promotion, clean-up. The promotion is an asset event, and a DAG that is scheduled on
it asks Triton.

In the middle of one step, once its log has told what it does (`configure` is quick: once it has a log), one process gets SIGKILL: that
of the **task**, or **scheduler** (with all the tasks that it runs, as where a container goes away) or **triggerer**, which are then
started again. While the run waits for the approval there is no task to kill but the one that asks. Where the step was done before the
kill, which is counted, the round is repeated. Meanwhile a client asks `blobs` without pause, rows whose answers tell which version gave
them.

After every round: the run ended as `success`, the new version serves and nothing else is loaded, MLflow's alias stands at it, the
downstream DAG read its answer, and no answer was wrong or missing.

| step | killed | rounds right | kills that came too late | attempts of tasks | answers | wrong | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

{total}

Airflow takes a task for dead that has not been heard of for {dead} seconds here (300 by default), and tasks are tried again after one
second (30 by default), so that a round takes less time. Made by `make soak` on {day}, {cores} cores, Airflow {airflow}, MLflow
{mlflow}, Python {python}; `make test` runs one deployment with four kills.
"""


def write(rounds: Sequence[Round]) -> None:
    """Write the page."""
    rows = []
    for step in STEPS:
        for victim in VICTIMS:
            those = [each for each in rounds if each.kills == ((step, victim),)]
            if those:
                rows.append(_row(step, victim, those))
    right, answers = sum(each.right for each in rounds), sum(each.answered for each in rounds)
    wrong = sum(len(each.wrong) for each in rounds)
    total = f"{right} of {len(rounds)} rounds right; {answers:,} answers, {wrong} of them wrong or missing."
    text = TEXT.format(
        rows="\n".join(rows),
        total=total,
        dead=DEAD_AFTER,
        day=datetime.now(timezone.utc).date().isoformat(),
        cores=os.cpu_count(),
        airflow=version("apache-airflow"),
        mlflow=version("mlflow"),
        python=platform.python_version(),
    )
    PAGE.write_text(text)


def _row(step: str, victim: str, those: Sequence[Round]) -> str:
    cells = [
        step,
        victim,
        f"{sum(each.right for each in those)} of {len(those)}",
        sum(each.late for each in those),
        sum(each.attempts for each in those),
        sum(each.answered for each in those),
        sum(len(each.wrong) for each in those),
        f"{max(each.seconds for each in those):.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"
