"""What a DAG file costs that is built from specs, against the same DAGs written by hand; and what its imports add to Airflow's own.

Both are built in turn in one process, five times; the figures are medians. `make bench` writes them to docs/benchmarks.md.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from airflow.sdk import DAG, BaseOperator, chain

from airflow_triton.dag_factory import deployment_dags

SPECS = 200
ROUNDS = 5
SPEC = "name: {name}\nmodel: models:/{name}@challenger\nrepository: /models\nservers: [triton_default]\npromote: {{alias: champion}}\n"
TASKS = ("resolve", "convert", "configure", "stage", "validate", "promote", "clean_up")


def by_hand() -> None:
    """The same number of DAGs with as many tasks, of plain operators."""
    for number in range(SPECS):
        with DAG(f"hand_{number}", schedule=None):
            chain(*[BaseOperator(task_id=task) for task in TASKS])


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def import_seconds(module: str) -> float:
    """CPU seconds of a fresh Python that imports a module, the median of five."""
    code = f"import {module}, time; print(time.process_time())"
    return statistics.median(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1])
        for _ in range(ROUNDS)
    )


def main() -> None:
    """Measure, and print a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SPECS):
            (Path(folder) / f"m{number}.yaml").write_text(SPEC.format(name=f"m{number}"))
        pairs = [(seconds(lambda: deployment_dags(folder)), seconds(by_hand)) for _ in range(ROUNDS)]
    ours, hand = (statistics.median(column) for column in zip(*pairs, strict=True))
    sdk, factory = import_seconds("airflow.sdk"), import_seconds("airflow_triton.dag_factory")
    print("## DAG files\n")
    print("| | this package | peer | ratio |")
    print("| --- | --- | --- | --- |")
    print(f"| {SPECS} DAGs of {len(TASKS)} tasks: from specs, by hand (CPU s) | {ours:.2f} | {hand:.2f} | {ours / hand:.2f} |")
    print(f"| import `airflow_triton.dag_factory`, `airflow.sdk` (CPU s) | {factory:.2f} | {sdk:.2f} | {factory / sdk:.2f} |")


if __name__ == "__main__":
    main()
