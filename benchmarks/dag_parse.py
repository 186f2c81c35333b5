"""What a DAG file costs that is built from specs, against the same DAGs written by hand; and what its imports add to Airflow's own.

By hand is: the same tasks with the same edges, of this package's operators, with no more arguments than they need. The third column is as
many plain BaseOperators: the least that Airflow makes of such a DAG, without any work to do. All are built in turn in one process, and kept
until all are there, as a DAG file does; the figures are CPU seconds, the medians of five rounds. `make bench` writes them to docs/benchmarks.md.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from airflow.sdk import DAG, Asset, BaseOperator, chain

from airflow_triton.dag_factory import deployment_dags
from airflow_triton.operators.steps import (
    CleanUpModelOperator,
    ConfigureModelOperator,
    ConvertModelOperator,
    PromoteModelOperator,
    ResolveModelOperator,
    StageModelOperator,
    ValidateModelOperator,
)

SPECS = (1, 100, 1000)
ROUNDS = 5
SPEC = """name: {name}
model: models:/{name}@challenger
repository: /models
servers: [triton_default]
promote: {{alias: champion}}
schedule: {schedule}
"""
TASKS = ("resolve", "convert", "configure", "stage", "validate", "promote", "clean_up")


def scheduled(number: int, *, registry: bool) -> list[Asset] | None:
    """What a DAG by hand is scheduled on."""
    return [Asset(f"asked_{number}")] if registry else None


def by_hand(count: int, *, registry: bool) -> list[DAG]:
    """The same DAGs, of the same operators."""
    dags = []
    for number in range(count):
        spec = {
            "name": f"m{number}",
            "model": f"models:/m{number}@challenger",
            "repository": "/models",
            "servers": ["triton_default"],
            "promote": {"alias": "champion"},
        }
        with DAG(f"hand_{number}", schedule=scheduled(number, registry=registry)) as dag:
            resolve = ResolveModelOperator(task_id="resolve", spec=spec)
            convert = ConvertModelOperator(task_id="convert", spec=spec, source=resolve.output)
            configure = ConfigureModelOperator(task_id="configure", spec=spec, converted=convert.output)
            stage = StageModelOperator(task_id="stage", spec=spec, converted=convert.output, config=configure.output)
            validate = ValidateModelOperator(task_id="validate", spec=spec, candidate=stage.output)
            promote = PromoteModelOperator(
                task_id="promote", spec=spec, candidate=stage.output, report=validate.output, outlets=[Asset(f"served_{number}")]
            )
            clean_up = CleanUpModelOperator(task_id="clean_up", spec=spec, source=resolve.output)
            promote >> clean_up.as_teardown(setups=resolve)
        dags.append(dag)
    return dags


def bare(count: int, *, registry: bool) -> list[DAG]:
    """As many tasks that do nothing."""
    dags = []
    for number in range(count):
        with DAG(f"bare_{number}", schedule=scheduled(number, registry=registry)) as dag:
            resolve, convert, configure, stage, validate, promote, clean_up = [BaseOperator(task_id=task) for task in TASKS]
            chain(resolve, convert, configure, stage, validate, promote, clean_up.as_teardown(setups=resolve))
            convert >> stage >> promote
        dags.append(dag)
    return dags


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call; what was there before is not searched by the garbage collector."""
    gc.collect()
    gc.freeze()
    started = time.process_time()
    kept = work()
    spent = time.process_time() - started
    del kept
    gc.unfreeze()
    return spent


def import_seconds(code: str) -> float:
    """CPU seconds of a fresh Python that runs this, the median of five."""
    code = f"{code}; import time; print(time.process_time())"
    return statistics.median(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1])
        for _ in range(ROUNDS)
    )


def folders_of_specs() -> None:
    """A folder of 1, 100 and 1,000 specs in one DAG file."""
    print("| | from specs (CPU s) | by hand | plain operators | from specs / by hand | goal |")
    print("| --- | --- | --- | --- | --- | --- |")
    for registry in (False, True):
        for count in SPECS:
            with tempfile.TemporaryDirectory() as folder:
                for number in range(count):
                    text = SPEC.format(name=f"m{number}", schedule="registry" if registry else "none")
                    (Path(folder) / f"m{number}.yaml").write_text(text)

                def ours(folder: str = folder) -> object:
                    return deployment_dags(folder)

                def hand(count: int = count, *, registry: bool = registry) -> object:
                    return by_hand(count, registry=registry)

                def plain(count: int = count, *, registry: bool = registry) -> object:
                    return bare(count, registry=registry)

                works = (ours, hand, plain)
                for work in works:
                    work()
                rounds = [[seconds(work) for work in works] for _ in range(ROUNDS)]
            from_specs, handmade, least = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(one[0] / one[1] for one in rounds)
            what = f"{count} DAGs of {len(TASKS)} tasks" + (", `schedule: registry`" if registry else "")
            print(f"| {what} | {from_specs:.4f} | {handmade:.4f} | {least:.4f} | {ratio:.2f} | 1.3 |", flush=True)


def main() -> None:
    """Measure, and print tables in Markdown."""
    print("## DAG files\n")
    folders_of_specs()
    airflow = import_seconds("from airflow.sdk import DAG, BaseOperator")
    print("\n| imports | CPU s | over Airflow's (ms) | goal |")
    print("| --- | --- | --- | --- |")
    print(f"| `from airflow.sdk import DAG, BaseOperator` | {airflow:.2f} | | |")
    for module in (
        "airflow_triton.dag_factory",
        "airflow_triton.task_groups",
        "airflow_triton.sensors.ready",
        "airflow_triton.triggers.registry",
    ):
        ours = import_seconds(f"from airflow.sdk import DAG, BaseOperator; import {module}")
        print(f"| `{module}` | {ours:.2f} | {1000 * (ours - airflow):.0f} | 50 |", flush=True)


if __name__ == "__main__":
    main()
