"""What the benchmarks share: a clock, a table, a model of random bytes, and the peers' own tools."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

MIB = int(os.environ.get("AIRFLOW_TRITON_BENCH_MIB", "1024"))
"""The size of the model."""
ROUNDS = int(os.environ.get("AIRFLOW_TRITON_BENCH_ROUNDS", "5"))
CONFIG = """backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
"""


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call, after what was written before has reached the disk."""
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(title: str, note: str, unit: str = "s") -> None:
    """Begin a table."""
    print(f"\n## {title}\n\n{note}\n\n| | this package ({unit}) | the other ({unit}) | ratio | goal |")
    print("| --- | --- | --- | --- | --- |", flush=True)


def row(what: str, ours: Sequence[float], other: Sequence[float], goal: str = "", digits: int = 2) -> None:
    """One line of the table: the medians, and the median of the ratios of each round."""
    ratio = statistics.median(one / two for one, two in zip(ours, other, strict=True))
    print(f"| {what} | {statistics.median(ours):.{digits}f} | {statistics.median(other):.{digits}f} | {ratio:.3g} | {goal} |", flush=True)


def run(*command: str) -> str:
    """A command that must succeed; what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ready_model(folder: Path, mib: int) -> Path:
    """A ready Triton model: config.pbtxt, and a version of so many MiB that only its owner may read, as MLflow leaves them."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    with (folder / "1" / "weights.bin").open("wb") as stream:
        for _ in range(mib):
            stream.write(os.urandom(1 << 20))
    (folder / "1" / "weights.bin").chmod(0o600)
    return folder
