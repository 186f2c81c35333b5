"""What a DAG file costs that is built from specs, against the same DAGs written by hand; and what its imports add to Airflow's own.

By hand is: the same tasks with the same edges, of this package's operators, with no more arguments than they need (the promotion's outlet
is one: the asset that other DAGs are scheduled on), in DAGs with the same retries and one run at a time. The third column is as many plain
BaseOperators: the least that Airflow makes of such a DAG, without any work to do. All are built in turn in one process, and kept until all
are there, as a DAG file does. The figures are CPU seconds, the least of several rounds: other work on the machine only adds to them.
`make bench` writes them to docs/benchmarks.md.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, AssetWatcher, BaseOperator, chain

from airflow_triton.assets import served_model
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
from airflow_triton.triggers.registry import RegistryTrigger

ROUNDS = {1: 50, 100: 15, 1000: 7}
"""Specs in the folder -> rounds."""
IMPORTS = 7
DELAY = timedelta(seconds=30)
SPEC = """name: {name}
model: models:/{name}@challenger
repository: /models
servers: [triton_default]
promote: {{alias: champion}}
schedule: {schedule}
"""
TASKS = ("resolve", "convert", "configure", "stage", "validate", "promote", "clean_up")


def scheduled(number: int, *, registry: bool) -> list[Asset] | None:
    """What a DAG by hand is scheduled on: an asset with its watcher."""
    if not registry:
        return None
    trigger = RegistryTrigger(name=f"m{number}", model=f"models:/m{number}@challenger", digest="")
    return [Asset(f"asked_{number}", watchers=[AssetWatcher(name=f"watcher_{number}", trigger=trigger)])]


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
        schedule = scheduled(number, registry=registry)
        with DAG(f"hand_{number}", schedule=schedule, max_active_runs=1, default_args={"retries": 2, "retry_delay": DELAY}) as dag:
            resolve = ResolveModelOperator(task_id="resolve", spec=spec)
            convert = ConvertModelOperator(task_id="convert", spec=spec, source=resolve.output)
            configure = ConfigureModelOperator(task_id="configure", spec=spec, converted=convert.output)
            stage = StageModelOperator(task_id="stage", spec=spec, converted=convert.output, config=configure.output)
            validate = ValidateModelOperator(task_id="validate", spec=spec, candidate=stage.output)
            promote = PromoteModelOperator(
                task_id="promote", spec=spec, candidate=stage.output, report=validate.output, outlets=[served_model(f"m{number}")]
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


def import_seconds(bytecode: str, module: str = "") -> float:
    """CPU seconds that an import takes once Airflow's own are there; without a module, those of Airflow's own. The least of some.

    Python keeps what it compiles in the folder `bytecode`, as it does beside the sources of an installation.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": bytecode}
    airflow, ours = "from airflow.sdk import DAG, BaseOperator", f"import {module}" if module else "pass"
    first, then = (airflow, ours) if module else ("pass", airflow)
    code = f"import time; {first}; started = time.process_time(); {then}; print(time.process_time() - started)"
    return min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout.split()[-1])
        for _ in range(IMPORTS)
    )


def folders_of_specs() -> None:
    """A folder of 1, 100 and 1,000 specs in one DAG file."""
    print("| | from specs (CPU s) | by hand | plain operators | from specs / by hand | goal |")
    print("| --- | --- | --- | --- | --- | --- |")
    for registry in (False, True):
        for count, times in ROUNDS.items():
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
                rounds = [[seconds(work) for work in works] for _ in range(times)]
            from_specs, handmade, least = (min(column) for column in zip(*rounds, strict=True))
            what = f"{count} DAGs of {len(TASKS)} tasks" + (", `schedule: registry`" if registry else "")
            print(f"| {what} | {from_specs:.4f} | {handmade:.4f} | {least:.4f} | {from_specs / handmade:.2f} | 1.3 |", flush=True)


def imports() -> None:
    """What a DAG file's imports add to Airflow's own."""
    print("\n| imports | CPU s | goal |")
    print("| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as bytecode:
        print(f"| `from airflow.sdk import DAG, BaseOperator` | {import_seconds(bytecode):.3f} | |")
        for name in ("dag_factory", "task_groups", "sensors.ready", "sensors.registry", "triggers.registry"):
            spent = import_seconds(bytecode, f"airflow_triton.{name}")
            print(f"| after it, `airflow_triton.{name}` | {spent:.3f} | 0.050 |", flush=True)


def main() -> None:
    """Measure, and print tables in Markdown."""
    print("## DAG files\n")
    folders_of_specs()
    imports()


if __name__ == "__main__":
    main()
